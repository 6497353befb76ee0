"""Makes model folders out of what people have: an ONNX file, or a fitted estimator."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock, iso
from tidemill.foundation.errors import (
    InvalidInput,
    InvalidModel,
    ModelFailed,
    TidemillError,
    Unavailable,
)
from tidemill.foundation.names import check_name
from tidemill.models.compilation import COMPILED, TOLERANCE, compile_sklearn
from tidemill.models.format import (
    MANIFEST,
    ORIGINAL,
    CompilationReport,
    Latency,
    ModelManifest,
    write_model,
)
from tidemill.models.runtime import Runtime, open_runtime
from tidemill.models.runtimes.onnx import OnnxRuntime, column_type, open_session
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill.models.signature import Batch, Column, Signature, check_batch
from tidemill_worker.estimators import describe_estimator
from tidemill_worker.functions import InvalidModel as DescriptionError

Kind = Literal["onnx", "joblib", "model-folder"]

_SUFFIXES: dict[str, Kind] = {".onnx": "onnx", ".joblib": "joblib", ".pkl": "joblib"}
_ESTIMATOR = "model.joblib"
_MEASURED_S = 1.0
_MEASURED_CALLS = 300


def inspect_path(path: Path) -> Kind:
    """Says what kind of model lies at a path, by its name; nothing is loaded.

    Raises:
        InvalidModel: nothing is there, it is empty, or no model's name ends so.
    """
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return "model-folder"
        raise InvalidModel(
            f"folder {str(path)!r} is no model folder: it has no {MANIFEST}",
            remedy="Give the model's file, or a folder that Tidemill packaged.",
        )
    if not path.is_file():
        raise InvalidModel(f"there is no file {str(path)!r}", remedy="Check the path.")
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InvalidModel(
            f"{str(path)!r} does not look like a model",
            remedy=f"Give a file that ends with {', '.join(_SUFFIXES)}, or a model folder.",
        )
    if path.stat().st_size == 0:
        raise InvalidModel(f"{str(path)!r} is empty", remedy="Save the model again.")
    return kind


def package_onnx(
    path: Path,
    name: str,
    folder: Path,
    signature: Signature | None = None,
    *,
    lineage: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> ModelManifest:
    """Makes a model folder of an ONNX file, whose first dimension is the batch, and measures it.

    Args:
        path: the file.
        name: the model's name.
        folder: a new folder, or an empty one.
        signature: its columns; inferred from the graph if not given, with an input (n, 1) as a
            scalar where there are several inputs.
        lineage: what it comes from.
        metrics: how good it was found to be.
        clock: tells when, and how long a call takes.

    Raises:
        InvalidModel: it cannot be loaded, needs other files, or does not fit the signature.
        Unavailable: ONNX Runtime is not installed.
    """
    check_name("model", name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModel(f"{str(path)!r} cannot be read: {error.strerror}") from error
    session = open_session(data)
    runtime = OnnxRuntime(session, signature or infer_onnx_signature(session))
    latency = measure_latency(runtime, _blank_rows(runtime.signature, 64), clock)
    _new_folder(folder)
    (folder / COMPILED).write_bytes(data)
    manifest = ModelManifest(
        name=name,
        runtime="onnx",
        signature=runtime.signature,
        entry=COMPILED,
        trust="data",
        latency=latency,
        lineage=dict(lineage or {}),
        metrics=dict(metrics or {}),
        requirements=_requirements("onnxruntime"),
        created_at=iso(clock.now()),
    )
    return write_model(folder, manifest)


def package_sklearn(
    estimator: Any,
    name: str,
    signature: Signature | None,
    folder: Path,
    evaluation: Batch | None,
    *,
    rows_from: Literal["evaluation", "probes"] = "evaluation",
    stored: Path | None = None,
    tolerance: float = TOLERANCE,
    lineage: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> ModelManifest:
    """Makes a model folder of a fitted estimator, compiled if that was found equal.

    Compiled, the folder's runtime is "onnx" and its trust "data", and the estimator is kept in
    ``original/``, a model folder of its own. Else the runtime is "sklearn" and the trust "code".
    Either way ``compiled_from`` says how it went.

    Args:
        estimator: fitted.
        name: the model's name.
        signature: its columns; inferred if None.
        folder: a new folder, or an empty one.
        evaluation: rows on which compiled and original must agree; without any, the estimator
            is not compiled.
        rows_from: what those rows are; recorded, since probes prove less than evaluation data.
        stored: the file that the estimator was loaded from, kept as it is: pickled again, it would
            have other bytes each time, and be another version.
        tolerance: of the comparison.
        lineage: what it comes from.
        metrics: how good it was found to be.
        clock: tells when, and how long a call takes.

    Raises:
        InvalidModel: it is not fitted, or does not answer as the signature says.
        InvalidInput: the evaluation rows do not fit the signature.
        Unavailable: scikit-learn is not installed.
    """
    check_name("model", name)
    signature = signature or infer_sklearn_signature(estimator)
    rows = None if evaluation is None else check_batch(signature, evaluation)
    _check_answers(estimator, signature, rows)
    _new_folder(folder)
    report = _compiled(estimator, signature, rows, tolerance, folder)
    report = msgspec.structs.replace(report, rows_from=rows_from)
    original = folder / ORIGINAL if report.equal else folder
    plain = ModelManifest(
        name=name,
        runtime="sklearn",
        signature=signature,
        entry=_ESTIMATOR,
        trust="code",
        lineage=dict(lineage or {}),
        metrics=dict(metrics or {}),
        requirements=_requirements("scikit-learn", "joblib", "numpy", "pandas"),
        created_at=iso(clock.now()),
    )
    sample = _sample(signature, rows)
    _write_estimator(original, estimator, stored)
    plain = _measured(original, write_model(original, plain), sample, clock)
    if not report.equal:
        return write_model(folder, msgspec.structs.replace(plain, compiled_from=report))
    report = msgspec.structs.replace(report, original_latency=plain.latency)
    with_onnx = msgspec.structs.replace(
        plain,
        runtime="onnx",
        entry=COMPILED,
        trust="data",
        latency=None,
        compiled_from=report,
        requirements=_requirements("onnxruntime", "skl2onnx", "scikit-learn"),
    )
    return _measured(folder, write_model(folder, with_onnx), sample, clock)


def infer_onnx_signature(session: Any) -> Signature:
    """Returns the columns of a graph: inputs from their shapes, outputs from what they answer.

    Raises:
        InvalidModel: a first dimension is fixed, another one is not, a type is no column's, or
            the graph does not answer as many rows as it is given.
    """
    nodes = session.get_inputs()
    several = len(nodes) > 1 and all(list(node.shape)[1:] in ([], [1]) for node in nodes)
    inputs = tuple(_input_column(node, scalar=several) for node in nodes)
    feed = {
        node.name: _blank(Column(node.name, column_type(node), _row_shape(node)), 2)
        for node in nodes
    }
    names = [node.name for node in session.get_outputs()]
    kinds = [column_type(node) for node in session.get_outputs()]
    try:
        answers = session.run(names, feed)
    except Exception as error:
        raise InvalidModel(f"the model does not answer: {str(error)[:500]}") from error
    outputs = []
    for name, kind, answer in zip(names, kinds, answers, strict=True):
        if not answer.shape or answer.shape[0] != 2:
            raise InvalidModel(
                f"output {name!r} has the shape {answer.shape} for two rows",
                remedy="Export the model so that every output has one entry per row.",
            )
        outputs.append(Column(name, kind, answer.shape[1:]))
    return Signature(inputs, tuple(outputs))


def infer_sklearn_signature(estimator: Any) -> Signature:
    """Returns the columns of a fitted estimator.

    Without feature names the input is one vector ``x`` of float64. With them it is one scalar per
    feature: of the type of its encoder's categories where it has one, else float64. Classifiers
    give ``label`` and ``probabilities``, regressors ``value``.

    Raises:
        InvalidModel: it is not fitted, or has several outputs of classes.
    """
    try:
        found = describe_estimator(estimator)
    except DescriptionError as error:
        raise InvalidModel(error.what, remedy=error.remedy) from error
    return Signature.from_json(msgspec.json.encode(found))


def measure_latency(runtime: Runtime, rows: Batch, clock: Clock = SYSTEM_CLOCK) -> Latency:
    """Returns the median seconds of a call with one row and of one with 64.

    Args:
        runtime: loaded.
        rows: 64 rows; calls of one take them in turn.
        clock: measures.
    """
    singles = [{name: array[i : i + 1] for name, array in rows.items()} for i in range(64)]
    return Latency(
        batch_1_s=_median_s(runtime, singles, clock),
        batch_64_s=_median_s(runtime, [rows], clock),
    )


def _median_s(runtime: Runtime, batches: list[Batch], clock: Clock) -> float:
    _asked(runtime, batches[0])
    seconds: list[float] = []
    end = clock.monotonic() + _MEASURED_S
    while len(seconds) < _MEASURED_CALLS and (len(seconds) < 5 or clock.monotonic() < end):
        batch = batches[len(seconds) % len(batches)]
        start = clock.monotonic()
        _asked(runtime, batch)
        seconds.append(clock.monotonic() - start)
    return statistics.median(seconds)


def _asked(runtime: Runtime, rows: Batch) -> Batch:
    """Returns the answers; whatever else the model raises is its failure."""
    try:
        return runtime.predict(rows)
    except TidemillError:
        raise
    except Exception as error:
        raise ModelFailed(f"the model raised {type(error).__name__}: {str(error)[:500]}") from error


def _compiled(
    estimator: Any, signature: Signature, rows: Batch | None, tolerance: float, folder: Path
) -> CompilationReport:
    if rows is None:
        return CompilationReport(
            equal=False, reason="no evaluation rows were given to compare on", tolerance=tolerance
        )
    return compile_sklearn(estimator, signature, rows, tolerance=tolerance, folder=folder)


def _check_answers(estimator: Any, signature: Signature, rows: Batch | None) -> None:
    runtime = SklearnRuntime(estimator, signature)
    some = _blank_rows(signature, 2) if rows is None else {k: v[:2] for k, v in rows.items()}
    try:
        _asked(runtime, some)
    except InvalidModel:
        raise
    except (InvalidInput, ModelFailed) as error:
        raise InvalidModel(
            f"the {type(estimator).__name__} does not answer as its signature says: {error}",
            remedy="Give rows that it takes (--sample), or a signature that fits it.",
        ) from error


def _write_estimator(folder: Path, estimator: Any, stored: Path | None) -> None:
    folder.mkdir(exist_ok=True)
    if stored is not None:
        shutil.copyfile(stored, folder / _ESTIMATOR)
        return
    try:
        import joblib  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "scikit-learn models need joblib", remedy="pip install 'tidemill[sklearn]'."
        ) from error
    joblib.dump(estimator, folder / _ESTIMATOR)


def _measured(folder: Path, manifest: ModelManifest, sample: Batch, clock: Clock) -> ModelManifest:
    # What is measured is what will be served: loaded again from its folder, with one thread.
    runtime = open_runtime(folder, trust_code=True)
    try:
        latency = measure_latency(runtime, sample, clock)
    finally:
        runtime.close()
    return write_model(folder, msgspec.structs.replace(manifest, latency=latency))


def _new_folder(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput(
            f"folder {str(folder)!r} is not empty", remedy="Choose a new folder for the model."
        )
    folder.mkdir(parents=True, exist_ok=True)


def _sample(signature: Signature, rows: Batch | None) -> Batch:
    if rows is None:
        return _blank_rows(signature, 64)
    return {name: np.resize(array, (64, *array.shape[1:])) for name, array in rows.items()}


def _blank_rows(signature: Signature, n: int) -> Batch:
    return {column.name: _blank(column, n) for column in signature.inputs}


def _blank(column: Column, n: int) -> Any:
    return np.full((n, *column.shape), "" if column.type == "string" else 0, dtype=column.dtype)


def _input_column(node: Any, *, scalar: bool) -> Column:
    sizes = list(node.shape)
    if not sizes or isinstance(sizes[0], int):
        raise InvalidModel(
            f"input {node.name!r} has the fixed shape {tuple(sizes)}",
            remedy="Export the model with a dynamic first dimension, the batch.",
        )
    return Column(node.name, column_type(node), () if scalar else _row_shape(node))


def _row_shape(node: Any) -> tuple[int, ...]:
    sizes = list(node.shape)[1:]
    if not all(isinstance(size, int) for size in sizes):
        raise InvalidModel(
            f"input {node.name!r} has the shape {tuple(node.shape)}, of which only the first "
            "dimension may be open",
            remedy="Export the model with fixed sizes, or give a signature.",
        )
    return tuple(sizes)


def _requirements(*distributions: str) -> tuple[str, ...]:
    found = []
    for name in distributions:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return tuple(found)
