"""ONNX files as model folders: their columns are read from the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock, iso
from tidemill.foundation.errors import InvalidModel
from tidemill.foundation.names import check_name
from tidemill.models.compilation import COMPILED
from tidemill.models.format import ModelManifest, write_model
from tidemill.models.packaging import (
    Given,
    answering,
    blank,
    made_with,
    measure_latency,
    measured_rows,
    new_folder,
    read_file,
)
from tidemill.models.runtimes.onnx import OnnxRuntime, check_stands_alone, column_type, open_session
from tidemill.models.signature import Batch, Column, Signature, check_batch


def package_onnx_file(path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of an ONNX file, as ``package_onnx`` does."""
    with answering(path, given):
        return package_onnx(path, name, folder, given.signature, rows=given.rows, clock=given.clock)


def package_onnx(
    path: Path,
    name: str,
    folder: Path,
    signature: Signature | None = None,
    *,
    rows: Callable[[Signature], Batch] | None = None,
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
        rows: rows of a signature, which it must take and is measured with; zeros if None.
        lineage: what it comes from.
        metrics: how good it was found to be.
        clock: tells when, and how long a call takes.

    Raises:
        InvalidModel: it cannot be loaded, needs other files, or does not fit the signature.
        InvalidInput: the rows do not fit the signature.
        Unavailable: ONNX Runtime is not installed.
    """
    check_name("model", name)
    data = read_file(path)
    check_stands_alone(data)
    session = open_session(data)
    runtime = OnnxRuntime(session, signature or infer_onnx_signature(session))
    sample = None if rows is None else check_batch(runtime.signature, rows(runtime.signature))
    latency = measure_latency(runtime, measured_rows(runtime.signature, sample), clock)
    new_folder(folder)
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
        requirements=made_with("onnxruntime"),
        created_at=iso(clock.now()),
    )
    return write_model(folder, manifest)


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
        node.name: blank(Column(node.name, column_type(node), _row_shape(node)), 2)
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
