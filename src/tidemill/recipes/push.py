"""From a model file to a version in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.errors import InvalidInput, InvalidModel, NotFound, NotTrusted
from tidemill.foundation.home import Home
from tidemill.models.environments import Environment, Say
from tidemill.models.format import ModelManifest, read_manifest
from tidemill.models.kinds import find_kind, is_model_folder
from tidemill.models.packagers.mlflow import is_pyfunc, model_requirements
from tidemill.models.packaging import Given
from tidemill.models.registry import Registry
from tidemill.models.requirements import read_requirements, unmet_requirements
from tidemill.models.runtime import runs_code
from tidemill.models.signature import Batch, Signature
from tidemill.recipes.isolated import package_isolated, restore_environment

_MAX_SIGNATURE_BYTES = 1 << 20


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


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A model as somebody has it, and what is said of it; see ``push_model``."""

    path: Path
    name: str
    sample: Path | None = None
    signature: Signature | None = None
    compiles: bool = True
    requirements: Path | None = None


def push_model(
    home: Home,
    path: Path,
    name: str,
    *,
    trust_code: bool = False,
    sample: Path | None = None,
    signature: Signature | None = None,
    compiles: bool = True,
    requirements: Path | None = None,
    say: Say = lambda _: None,
) -> PushedModel:
    """Registers a model, compiled where a sample shows that this changes no answer.

    Args:
        home: the installation.
        path: what a framework saved (see ``models/kinds.py``), or a model folder.
        name: the model's name.
        trust_code: the caller vouches for code that the file brings.
        sample: rows on which the compiled and the original model must agree; made up if None.
        signature: what it takes and gives; inferred if None, where that is possible.
        compiles: it is to be compiled where that changes no answer; else it is served as it is.
        requirements: a file of what its own environment is to hold; a model of MLflow's gets one
            anyway if what it says that it requires is not here.
        say: told what takes a while.

    Raises:
        InvalidModel: it is none of these, or cannot be used.
        NotTrusted: it brings code and nobody vouched for it.
    """
    source = Source(
        path=path,
        name=name,
        sample=sample,
        signature=signature,
        compiles=compiles,
        requirements=requirements,
    )
    with packaged(home, source, trust_code=trust_code, say=say) as (folder, environment):
        pushed = _register(home, folder, name, trust_code=trust_code)
        return msgspec.structs.replace(pushed, environment=environment)


@contextmanager
def packaged(
    home: Home, source: Source, *, trust_code: bool, say: Say = lambda _: None
) -> Iterator[tuple[Path, Environment | None]]:
    """Gives a model's folder while the block runs, and the environment that was built for it.

    Raises:
        InvalidModel: it is nothing that can be a model, or cannot be used.
        NotTrusted: it brings code and nobody vouched for it.
    """
    path, name, sample = source.path, source.name, source.sample
    given = Given(
        signature=source.signature,
        compiles=source.compiles,
        rows=None if sample is None else lambda known: read_sample(sample, known),
        clock=home.clock,
    )
    environment: Environment | None = None
    with home.scratch("push") as work:
        folder = work / "model"
        wanted = _own_requirements(path, source.requirements, say, trust_code=trust_code)
        if wanted is not None:
            environment = package_isolated(
                home,
                path,
                name,
                work,
                wanted=wanted,
                given=given,
                say=say,
            )
        elif is_model_folder(path):
            folder = path
            _check_nothing_given(path, given)
            if trust_code:
                environment = restore_environment(home, folder, say=say)
        else:
            _package(path, name, folder, given, trust_code=trust_code)
        yield folder, environment


def _own_requirements(
    path: Path, listed: Path | None, say: Say, *, trust_code: bool
) -> tuple[str, ...] | None:
    """Returns what the model's own environment is to hold; None if it runs among Tidemill's."""
    if listed is None and not is_pyfunc(path):
        return None
    if not trust_code:
        raise NotTrusted(
            f"{path} and what it requires run code",
            remedy="Push it with --trust-code if you trust who made them.",
        )
    if listed is not None:
        return read_requirements(listed)
    wanted = model_requirements(path)
    unmet = unmet_requirements(wanted)
    if not unmet:
        return None
    say(f"it requires {', '.join(unmet)[:200]}, which is not here: it gets its own environment")
    return wanted


def read_signature(told: str) -> Signature:
    """Reads a signature: JSON itself, or the path of a file that holds it.

    Raises:
        NotFound: there is no such file.
        InvalidModel: it describes none.

    Example:
        >>> read_signature(
        ...     '{"inputs": [{"name": "x", "type": "float32", "shape": [4]}],'
        ...     ' "outputs": [{"name": "value", "type": "float32"}]}'
        ... ).inputs[0].shape
        (4,)
    """
    if told.lstrip().startswith("{"):
        return Signature.from_json(told)
    try:
        with Path(told).open("rb") as file:
            data = file.read(_MAX_SIGNATURE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"the signature's file {told[:200]!r} cannot be read: {error}",
            remedy="Give a file, or the JSON itself.",
        ) from error
    if len(data) > _MAX_SIGNATURE_BYTES:
        raise InvalidModel(f"{told[:200]!r} has over {_MAX_SIGNATURE_BYTES} bytes: no signature")
    return Signature.from_json(data)


def _check_nothing_given(path: Path, given: Given) -> None:
    for flag, given_it, has in (
        ("--signature", given.signature is not None, "has a signature already"),
        ("--sample", given.rows is not None, "was compared with its original already"),
        ("--no-compile", not given.compiles, "was compiled, or not, when it was packaged"),
    ):
        if given_it:
            raise InvalidInput(
                f"{str(path)!r} is a model folder, which {has}",
                remedy=f"Leave {flag} out, or push the file that the folder was made of.",
            )


def _package(path: Path, name: str, folder: Path, given: Given, *, trust_code: bool) -> None:
    kind = find_kind(path)
    if kind.trust == "code" and not trust_code:
        raise NotTrusted(
            f"{path} is {kind.called}, which runs code when it is loaded",
            remedy="Push it with --trust-code if you trust who made it, or push ONNX.",
        )
    kind.package(path, name, folder, given)


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
    # Only for rows that are given: nobody else waits for what reads them.
    from tidemill.recipes.table import read_rows  # noqa: PLC0415
    from tidemill.training.examples import feature_batch  # noqa: PLC0415

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


def said_equal(manifest: ModelManifest) -> str | None:
    """Says how equal a compiled model was found to its original; None if it is not compiled."""
    report = manifest.compiled_from
    if report is None or not report.equal:
        return None
    made_up = (
        "made-up rows; give --sample for real ones" if report.rows_from == "probes" else "rows"
    )
    return f"equal to the original within {report.max_difference:.1e} on {report.rows:,} {made_up}"


def check_trust(manifest: ModelManifest, *, trust_code: bool) -> None:
    """Does nothing for a model that brings no code, or whose code somebody vouches for.

    Raises:
        NotTrusted: it does, and nobody did.
    """
    if runs_code(manifest) and not trust_code:
        raise NotTrusted(
            f"model {manifest.name!r} runs code when it is loaded",
            remedy="Say --trust-code if you trust who made it.",
        )


def _register(home: Home, folder: Path, name: str, *, trust_code: bool) -> PushedModel:
    manifest = read_manifest(folder)
    check_trust(manifest, trust_code=trust_code)
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
        verified=said_equal(manifest),
        inputs=tuple(column.name for column in manifest.signature.inputs),
        outputs=tuple(column.name for column in manifest.signature.outputs),
        batch_1_ms=None if latency is None else latency.batch_1_s * 1000,
    )
