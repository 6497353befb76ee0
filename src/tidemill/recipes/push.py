"""From a model file to a version in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.errors import InvalidInput, InvalidModel, ModelFailed, NotFound, NotTrusted
from tidemill.foundation.home import Home
from tidemill.models.environments import Environment, Say
from tidemill.models.format import CompilationReport, read_manifest
from tidemill.models.packaging import (
    infer_sklearn_signature,
    inspect_path,
    package_onnx,
    package_sklearn,
)
from tidemill.models.probing import probe_rows
from tidemill.models.registry import Registry
from tidemill.models.runtimes.sklearn import load_estimator
from tidemill.models.signature import Batch, Signature
from tidemill.recipes.isolated import package_isolated, restore_environment
from tidemill.recipes.table import read_rows
from tidemill.training.examples import feature_batch


class PushedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model file's version, how it will be served, and why."""

    name: str
    version: int
    runtime: str
    compiled: bool
    reason: str | None
    verified: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch_1_ms: float | None
    environment: Environment | None = None


def push_model(
    home: Home,
    path: Path,
    name: str,
    *,
    trust_code: bool = False,
    sample: Path | None = None,
    requirements: Path | None = None,
    say: Say = lambda _: None,
) -> PushedModel:
    """Registers a model file, compiled where a sample shows that this changes no answer.

    Args:
        home: the installation.
        path: an ONNX file, a joblib file, or a model folder.
        name: the model's name.
        trust_code: the caller vouches for code that the file brings.
        sample: rows on which the compiled and the original model must agree; made up if None.
        requirements: a file of what its own environment is to hold: of a function or estimator.
        say: told what takes a while.

    Raises:
        InvalidModel: it is none of these, or cannot be used.
        NotTrusted: it brings code and nobody vouched for it.
    """
    environment: Environment | None = None
    if requirements is not None:
        with home.scratch("push") as work:
            environment = package_isolated(
                home,
                path,
                name,
                work,
                requirements=requirements,
                trust_code=trust_code,
                rows=None if sample is None else lambda known: read_sample(sample, known),
                say=say,
            )
            pushed = _register(home, work / "model", name, trust_code=True)
            return msgspec.structs.replace(pushed, environment=environment)
    kind = inspect_path(path)
    if kind == "joblib" and not trust_code:
        raise NotTrusted(
            f"{path} is a joblib file, which runs code when it is loaded",
            remedy="Push it with --trust-code if you trust who made it, or push ONNX.",
        )
    with home.scratch("push") as work:
        folder = work / "model"
        if kind == "onnx":
            package_onnx(path, name, folder, clock=home.clock)
        elif kind == "joblib":
            _package_joblib(path, name, folder, sample, home)
        else:
            folder = path
            if trust_code:
                environment = restore_environment(home, folder, say=say)
        pushed = _register(home, folder, name, trust_code=trust_code)
        return msgspec.structs.replace(pushed, environment=environment)


def _package_joblib(path: Path, name: str, folder: Path, sample: Path | None, home: Home) -> None:
    estimator = load_estimator(path, trust_code=True)
    signature = infer_sklearn_signature(estimator)
    rows = probe_rows(estimator, signature) if sample is None else read_sample(sample, signature)
    try:
        package_sklearn(
            estimator,
            name,
            signature,
            folder,
            rows,
            rows_from="probes" if sample is None else "evaluation",
            stored=path,
            clock=home.clock,
        )
    except InvalidModel:
        raise
    except (InvalidInput, ModelFailed) as error:
        which = "made-up rows" if sample is None else f"the rows of {sample}"
        raise InvalidModel(
            f"{path} does not answer {which}: {error.what}",
            remedy="Give rows that it takes, with --sample.",
        ) from error


def read_sample(path: Path, signature: Signature) -> Batch:
    """Reads rows for a comparison: a matrix from .npy, or columns from CSV or Parquet.

    Raises:
        InvalidInput: the rows do not fit the signature.
    """
    if path.suffix.lower() == ".npy":
        if len(signature.inputs) != 1:
            raise InvalidInput(
                f"{path} is one matrix, the model takes {len(signature.inputs)} columns",
                remedy="Give the sample as CSV or Parquet, with those columns.",
            )
        return {signature.inputs[0].name: _load_matrix(path)}
    rows = read_rows(path)
    if len(signature.inputs) == 1 and signature.inputs[0].shape:
        columns = [column.to_numpy() for column in rows.columns]
        return {signature.inputs[0].name: np.stack(columns, axis=1)}
    return feature_batch(rows, signature.inputs)


def _load_matrix(path: Path) -> np.ndarray[Any, Any]:
    if not path.is_file():
        raise NotFound(f"{path} does not exist", remedy="Check the path.")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {error}", remedy="Save one array of numbers with numpy.save."
        ) from error


def _said(report: CompilationReport) -> str:
    made_up = (
        "made-up rows; give --sample for real ones" if report.rows_from == "probes" else "rows"
    )
    return f"equal to the original within {report.max_difference:.1e} on {report.rows:,} {made_up}"


def _register(home: Home, folder: Path, name: str, *, trust_code: bool) -> PushedModel:
    manifest = read_manifest(folder)
    if manifest.trust == "code" and not trust_code:
        raise NotTrusted(
            f"model {name!r} runs code when it is loaded",
            remedy="Push it with --trust-code if you trust who made it.",
        )
    version = Registry(home).register(
        folder,
        name,
        blessed=True,
        blessing={"reasons": ["pushed by hand"], "trust_code": trust_code},
    )
    report, latency = manifest.compiled_from, manifest.latency
    return PushedModel(
        name=name,
        version=version.version,
        runtime=manifest.runtime,
        compiled=report is not None and report.equal,
        reason=None if report is None else report.reason,
        verified=None if report is None or not report.equal else _said(report),
        inputs=tuple(column.name for column in manifest.signature.inputs),
        outputs=tuple(column.name for column in manifest.signature.outputs),
        batch_1_ms=None if latency is None else latency.batch_1_s * 1000,
    )
