"""Turns a PyTorch model into an ONNX graph that answers the same, or says why it can't.

An exported program goes through PyTorch's exporter of today, TorchScript through the older one,
which knows fewer operators. What comes out is compared with the model, all at once and row by
row: numbers within a tolerance (relative where they are above 1), everything else exactly.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.foundation.errors import TidemillError
from tidemill.foundation.files import write_atomic
from tidemill.models.compilation import COMPILED, TOLERANCE
from tidemill.models.format import CompilationReport
from tidemill.models.runtimes.onnx import OnnxRuntime, check_stands_alone, open_session
from tidemill.models.runtimes.torch import Form, TorchRuntime, import_torch, load_program, named
from tidemill.models.signature import Array, Batch, Signature

_SINGLE_ROWS = 16


def compile_torch(
    data: bytes,
    form: Form,
    signature: Signature,
    original: TorchRuntime,
    rows: Batch,
    *,
    tolerance: float = TOLERANCE,
    folder: Path,
) -> CompilationReport:
    """Compiles a model to ONNX, and writes ``folder/model.onnx`` only if it is equal.

    Args:
        data: what PyTorch saved; somebody vouched for it.
        form: how.
        signature: what it takes and gives.
        original: the same, loaded.
        rows: rows to compare on, as ``check_batch`` returns them.
        tolerance: the largest difference of numbers, relative where they are above 1.
        folder: where to.

    Returns:
        The report; a model that cannot be compiled is a reason in it, never an exception.
    """
    worst: float | None = None
    try:
        if form == "exported":
            graph = _exported(data, signature, _outputs(original, rows))
        else:
            graph = _traced(original, signature)
        check_stands_alone(graph)
        worst = _difference(original, OnnxRuntime(open_session(graph), signature), rows)
        reason = None
        if not worst <= tolerance:
            reason = f"answers differ by {worst:.3g}, more than the tolerance {tolerance:g}"
    except Exception as error:  # noqa: BLE001 - exporters fail in any way they like
        reason = _one_line(error)
    if reason is None:
        write_atomic(folder / COMPILED, graph)
    return CompilationReport(
        equal=reason is None,
        reason=reason,
        rows=len(next(iter(rows.values()))),
        tolerance=tolerance,
        max_difference=worst,
        input_types={c.name: c.type for c in signature.inputs},
    )


def _outputs(original: TorchRuntime, rows: Batch) -> list[str]:
    """Returns the names of all that the model gives, in its own order."""
    wanted = [column.name for column in original.signature.outputs]
    return list(named(original.answer({n: array[:2] for n, array in rows.items()}), wanted))


def _exported(data: bytes, signature: Signature, outputs: list[str]) -> bytes:
    torch = import_torch()
    with _quietly():
        made = torch.onnx.export(
            load_program(data),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=[column.name for column in signature.inputs],
            output_names=outputs,
        )
    return _stripped(made.model_proto)


def _traced(original: TorchRuntime, signature: Signature) -> bytes:
    import onnx  # noqa: PLC0415

    torch = import_torch()
    wanted = [column.name for column in signature.outputs]

    class Flat(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Gives a tuple in the signature's order, whatever the module gives."""

        def __init__(self) -> None:
            super().__init__()
            self.module = original.module

        def forward(self, *tensors: Any) -> Any:
            found = named(self.module(*tensors), wanted)
            return tuple(found[name] for name in wanted)

    example = tuple(
        torch.zeros((2, *column.shape), dtype=getattr(torch, column.type))
        for column in signature.inputs
    )
    names = [column.name for column in signature.inputs]
    written = io.BytesIO()
    with _quietly():
        # Only what is called is traced: what TorchScript itself decides at run time stays so.
        flat = torch.jit.trace(Flat().eval(), example, check_trace=False)
        torch.onnx.export(
            flat,
            example,
            written,
            dynamo=False,
            input_names=names,
            output_names=wanted,
            dynamic_axes={name: {0: "batch"} for name in [*names, *wanted]},
        )
    return _stripped(onnx.load_model_from_string(written.getvalue()))


def _stripped(graph: Any) -> bytes:
    """Returns a graph without what tells of the file and the line that each node comes from."""
    pending = [graph.graph, *graph.functions]
    for part in pending:
        del part.metadata_props[:]
        part.doc_string = ""
        for each in (*part.node, *getattr(part, "initializer", ()), *part.value_info):
            del each.metadata_props[:]
            each.doc_string = ""
    del graph.metadata_props[:]
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def _difference(original: TorchRuntime, compiled: OnnxRuntime, rows: Batch) -> float:
    wanted = original.predict(rows)
    worst = _distance(wanted, compiled.predict(rows))
    few = min(_SINGLE_ROWS, len(next(iter(rows.values()))))
    for row in range(few):
        got = compiled.predict({name: array[row : row + 1] for name, array in rows.items()})
        worst = max(worst, _distance({k: v[row : row + 1] for k, v in wanted.items()}, got))
    return worst


def _distance(expected: Batch, got: Batch) -> float:
    return max(_apart(expected[name], got[name]) for name in expected)


def _apart(expected: Array, got: Array) -> float:
    if expected.dtype.kind != "f":
        return float("inf") if (expected != got).any() else 0.0
    wide, other = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(wide - other) / np.maximum(1.0, np.abs(wide))
    apart[(wide == other) | (np.isnan(wide) & np.isnan(other))] = 0.0
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what exporters print and warn of from the caller's output; what counts is compared."""
    heard = logging.getLogger("torch.onnx")
    level = heard.level
    heard.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        heard.setLevel(level)


def _one_line(error: Exception) -> str:
    text = error.what if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
