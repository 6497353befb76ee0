"""Turns an estimator into a graph that answers the same in microseconds, or says why it can't.

A compiled model is used only if it was found equal: same label types and shapes, probabilities
(values: relatively) within a tolerance on every evaluation row and on as many rows again with
each column shuffled by itself, and no other label but where the two classes are nearer than the
tolerance. Thresholds of trees are the usual trap: scaled in 32 bits, a value falls on the other
side of one.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tidemill.foundation.errors import TidemillError
from tidemill.foundation.files import write_atomic
from tidemill.models.boosters.estimators import forest_of
from tidemill.models.boosters.graph import build_graph
from tidemill.models.forests import build_forest_graph, is_forest
from tidemill.models.format import CompilationReport
from tidemill.models.runtime import Runtime
from tidemill.models.runtimes.onnx import OnnxRuntime, check_stands_alone, open_session
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill.models.signature import Array, Batch, Column, Signature

COMPILED = "model.onnx"
TOLERANCE = 1e-5
_SHUFFLED_ROWS = 5000
_SINGLE_ROWS = 16
_EXACT_FLOAT32 = 1 << 24
_MATRIX = "tidemill_matrix"
_CONVERTING = threading.Lock()

Convert: TypeAlias = Callable[[dict[str, str]], bytes]


def compile_sklearn(
    estimator: Any,
    signature: Signature,
    evaluation: Batch,
    *,
    tolerance: float = TOLERANCE,
    folder: Path,
) -> CompilationReport:
    """Compiles the estimator to ONNX, and writes ``folder/model.onnx`` only if it is equal.

    Numbers are tried as float32 first (fastest), then as they are, then as float64; the report
    says which was taken and why the others were not.

    Args:
        estimator: a fitted scikit-learn estimator or pipeline.
        signature: what it takes and gives.
        evaluation: rows to compare on, as ``check_batch`` returns them.
        tolerance: the largest difference of probabilities, or relative one of values.
        folder: where to.

    Returns:
        The report; a model that cannot be compiled is a reason in it, never an exception.
    """
    candidates, convert = _ways(estimator, signature, evaluation)
    return compile_verified(
        SklearnRuntime(estimator, signature),
        evaluation,
        candidates,
        convert,
        classes=getattr(estimator, "classes_", None),
        tolerance=tolerance,
        folder=folder,
    )


def _ways(
    estimator: Any, signature: Signature, evaluation: Batch
) -> tuple[Iterable[dict[str, str]], Convert]:
    """Returns the types to try for the inputs, the fastest first, and what makes the graph."""
    booster = forest_of(estimator)
    if booster is not None:
        as_they_are = {column.name: column.type for column in signature.inputs}
        return [as_they_are], lambda _: build_graph(booster, signature)
    if is_forest(estimator) and all(c.dtype.kind in "iufb" for c in signature.inputs):
        compared = {column.name: "float32" for column in signature.inputs}
        return [compared], lambda _: build_forest_graph(estimator, signature)
    return (
        _candidates(estimator, signature, evaluation),
        lambda types: _convert(estimator, signature, types),
    )


def compile_verified(
    original: Runtime,
    evaluation: Batch,
    candidates: Iterable[dict[str, str]],
    convert: Convert,
    *,
    classes: Any,
    tolerance: float = TOLERANCE,
    folder: Path,
) -> CompilationReport:
    """Writes the first graph that answers as the original to ``folder/model.onnx``, if any does.

    Args:
        original: what is to be equalled.
        evaluation: rows to compare on, as ``check_batch`` returns them.
        candidates: the types to try for the inputs, the fastest first.
        convert: returns a graph that takes such types.
        classes: the labels in the order of the probabilities; None if there are no labels.
        tolerance: the largest difference of probabilities, or relative one of values.
        folder: where to.

    Returns:
        The report; a model that cannot be compiled is a reason in it, never an exception.
    """
    signature = original.signature
    rows = evaluation[signature.inputs[0].name].shape[0]
    report = CompilationReport(equal=False, rows=rows, tolerance=tolerance)
    if rows == 0:
        return CompilationReport(equal=False, reason="there are no rows to compare on")
    shuffled = _shuffled(evaluation)
    attempts: list[str] = []
    for types in candidates:
        try:
            data = convert(types)
            check_stands_alone(data)
            compiled = OnnxRuntime(open_session(data), signature)
            found = _compare(original, compiled, classes, (evaluation, shuffled), tolerance)
        except Exception as error:  # noqa: BLE001 - converters fail in any way they like
            found = _Difference(reason=_one_line(error))
        report = CompilationReport(
            equal=found.reason is None,
            reason=found.reason,
            rows=rows,
            shuffled_rows=shuffled[signature.inputs[0].name].shape[0],
            tolerance=tolerance,
            max_difference=found.max_difference,
            label_disagreements=found.label_disagreements,
            near_ties=found.near_ties,
            input_types=types,
            attempts=tuple(attempts),
        )
        if report.equal:
            write_atomic(folder / COMPILED, data)
            return report
        attempts.append(f"{_shown(types)}: {found.reason}")
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    reason: str | None = None
    max_difference: float | None = None
    label_disagreements: int = 0
    near_ties: int = 0


def _candidates(
    estimator: Any, signature: Signature, evaluation: Batch
) -> Iterator[dict[str, str]]:
    """Yields the types to try for the inputs, the fastest first."""
    integers = [c for c in signature.inputs if c.dtype.kind in "iu"]
    exact = all(np.abs(evaluation[c.name]).max() <= _EXACT_FLOAT32 for c in integers)
    if _takes_matrix(estimator, signature):
        for kind in ("float32", "float64") if exact else ("float64",):
            yield {c.name: kind for c in signature.inputs}
        return
    seen = []
    for whole, real in (("float32", "float32"), ("int64", "float32"), ("float64", "float64")):
        types = {c.name: _candidate(c, whole, real) for c in signature.inputs}
        if types not in seen and (exact or whole != "float32"):
            seen.append(types)
            yield types


def _takes_matrix(estimator: Any, signature: Signature) -> bool:
    """Says whether several columns meet an estimator that takes no columns apart."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[0][1]
    return len(signature.inputs) > 1 and not hasattr(estimator, "transformers_")


def _candidate(column: Column, whole: str, real: str) -> str:
    if column.dtype.kind in "iu":
        return whole
    return real if column.dtype.kind == "f" else column.type


def _convert(estimator: Any, signature: Signature, types: dict[str, str]) -> bytes:
    from skl2onnx import convert_sklearn  # noqa: PLC0415
    from skl2onnx.common import data_types  # noqa: PLC0415

    tensor = {
        "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType,
        "int64": data_types.Int64TensorType,
        "bool": data_types.BooleanTensorType,
        "string": data_types.StringTensorType,
    }
    columns = _takes_matrix(estimator, signature)
    if columns:
        kind = tensor[types[signature.inputs[0].name]]
        inputs = [(_MATRIX, kind([None, len(types)]))]
    else:
        inputs = [
            (c.name, tensor[types[c.name]]([None, *(c.shape or (1,))])) for c in signature.inputs
        ]
    options = {"zipmap": False} if hasattr(estimator, "classes_") else None
    with _CONVERTING, warnings.catch_warnings():
        # The converter reads attributes that scikit-learn deprecates; what counts is compared.
        warnings.simplefilter("ignore")
        # Without a name the graph gets a random one, and one model would have many contents.
        model = convert_sklearn(estimator, name="compiled", initial_types=inputs, options=options)
    if columns:
        _join_columns(model, [column.name for column in signature.inputs])
    _rename_outputs(model, [column.name for column in signature.outputs])
    # Their order is that of a set of strings, another one in each process.
    model.opset_import.sort(key=lambda used: used.domain)
    data: bytes = model.SerializeToString()
    return data


def _join_columns(model: Any, names: list[str]) -> None:
    """Replaces the graph's input, a matrix, by its columns, (n, 1) each."""
    from onnx import helper  # noqa: PLC0415

    graph = model.graph
    kind = graph.input[0].type.tensor_type.elem_type
    del graph.input[:]
    graph.input.extend(helper.make_tensor_value_info(name, kind, [None, 1]) for name in names)
    graph.node.insert(0, helper.make_node("Concat", names, [_MATRIX], axis=1))


def _rename_outputs(model: Any, names: list[str]) -> None:
    """Gives the outputs the signature's names; a lone value is called "variable" by skl2onnx."""
    found = [output.name for output in model.graph.output]
    if set(names) <= set(found) or len(names) != len(found):
        return
    new = dict(zip(found, names, strict=True))
    for node in model.graph.node:
        for place in (node.input, node.output):
            place[:] = [new.get(name, name) for name in place]
    for output in model.graph.output:
        output.name = new[output.name]


def _compare(
    original: Runtime,
    compiled: Runtime,
    classes: Any,
    batches: tuple[Batch, ...],
    tolerance: float,
) -> _Difference:
    worst, disagreements, ties = 0.0, 0, 0
    for batch in batches:
        wanted = original.predict(batch)
        for got, part in ((compiled.predict(batch), None), (_one_by_one(compiled, batch), 16)):
            expected = {name: array[:part] for name, array in wanted.items()}
            worst = max(worst, _distance(expected, got))
            if "label" in expected:
                near = _near_tie_rows(expected, got, classes, tolerance)
                differs = expected["label"] != got["label"]
                disagreements += int((differs & ~near).sum())
                ties += int((differs & near).sum()) if part is None else 0
    reason = None
    if not worst <= tolerance:
        reason = f"answers differ by {worst:.3g}, more than the tolerance {tolerance:g}"
    elif disagreements:
        reason = f"{disagreements} labels differ that are no near ties"
    return _Difference(
        reason=reason,
        max_difference=worst,
        label_disagreements=disagreements,
        near_ties=ties,
    )


def _one_by_one(runtime: Runtime, batch: Batch) -> Batch:
    """Answers the first rows one at a time: graphs take other paths for one row than for many."""
    n = min(_SINGLE_ROWS, len(next(iter(batch.values()))))
    answers = [
        runtime.predict({name: array[row : row + 1] for name, array in batch.items()})
        for row in range(n)
    ]
    return {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}


def _distance(expected: Batch, got: Batch) -> float:
    worst = 0.0
    for name in ("probabilities", "value"):
        if name in expected:
            scale = np.maximum(1.0, np.abs(expected[name])) if name == "value" else 1.0
            difference = np.abs(expected[name].astype(np.float64) - got[name]) / scale
            same = np.isnan(expected[name]) & np.isnan(got[name])
            difference[same] = 0.0
            # A NaN on one side only is an infinite difference.
            worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)))
    return worst


def _near_tie_rows(expected: Batch, got: Batch, classes: Any, tolerance: float) -> Array:
    """Says in which rows the compiled model's label is within the tolerance of the best one."""
    rows = expected["label"].shape[0]
    if classes is None or "probabilities" not in expected:
        return np.zeros(rows, dtype=bool)
    labels = np.asarray(classes).astype(got["label"].dtype)
    matches = labels[np.newaxis, :] == got["label"][:, np.newaxis]
    chosen = np.where(matches, expected["probabilities"], -np.inf).max(axis=1)
    return np.asarray(expected["probabilities"].max(axis=1) - chosen <= tolerance)


def _shuffled(batch: Batch) -> Batch:
    generator = np.random.default_rng(0)
    rows = {name: array[:_SHUFFLED_ROWS] for name, array in batch.items()}
    shuffled = {}
    for name, array in rows.items():
        if array.ndim > 1:
            flat = generator.permuted(array.reshape(array.shape[0], -1), axis=0)
            shuffled[name] = flat.reshape(array.shape)
        else:
            shuffled[name] = generator.permutation(array)
    return shuffled


def _shown(types: dict[str, str]) -> str:
    return "numbers as " + "/".join(sorted({kind for kind in types.values() if kind != "string"}))


def _one_line(error: Exception) -> str:
    text = error.what if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
