"""A batch as a v2 request to another server, and its answer as a batch."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec
import numpy as np
import orjson

from tidemill.foundation.errors import InvalidInput, ModelFailed
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.serving import tensors


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    outputs: list[_Output]


class _Error(msgspec.Struct):
    error: str = ""


_answers = msgspec.json.Decoder(_Answer)
_errors = msgspec.json.Decoder(_Error)


def write_request(batch: Batch, signature: Signature, *, binary: bool) -> tuple[bytes, int | None]:
    """Returns the body, and the length of its JSON if binary tensors follow it.

    Raises:
        InvalidInput: text that is no Unicode.
    """
    inputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for column in signature.inputs:
        array = batch[column.name]
        tensor: dict[str, Any] = {
            "name": column.name,
            "shape": list(array.shape),
            "datatype": tensors.datatype_of(column),
        }
        if binary:
            blobs.append(_bytes(array, column))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = tensors.to_json(np.asarray(array, column.dtype))
        inputs.append(tensor)
    request: dict[str, Any] = {"inputs": inputs}
    if binary:
        request["parameters"] = {"binary_data_output": True}
    try:
        head = orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidInput(f"the batch cannot be sent to the remote model: {error}") from error
    return (b"".join((head, *blobs)), len(head)) if binary else (head, None)


def read_answer(body: bytes, header_length: int | None, signature: Signature, rows: int) -> Batch:
    """Returns the outputs that the signature promises.

    Raises:
        ModelFailed: they are not there, of another shape or type, or cannot be read.
    """
    head, blob = body, b""
    if header_length is not None:
        if not 0 < header_length <= len(body):
            raise _wrong(f"it says that {header_length} of its {len(body)} bytes are JSON")
        head, blob = body[:header_length], body[header_length:]
    try:
        outputs = _answers.decode(head).outputs
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _wrong(str(error)) from error
    blobs = _cut(outputs, blob)
    found = {output.name: output for output in outputs}
    batch: Batch = {}
    for column in signature.outputs:
        output = found.get(column.name)
        if output is None:
            raise _wrong(f"output {column.name!r} is missing")
        batch[column.name] = _array(output, blobs.get(column.name), column, rows)
    return batch


def read_error(body: bytes) -> str:
    """Returns what a server says went wrong, shortened; empty if it says nothing readable."""
    try:
        return _errors.decode(body).error[:500]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""


def _bytes(array: Array, column: Column) -> bytes:
    try:
        return tensors.to_bytes(np.asarray(array, column.dtype))
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input {column.name!r} holds text that is no Unicode") from error


def _cut(outputs: list[_Output], blob: bytes) -> dict[str, bytes]:
    """Returns the bytes of each binary output; all of them are somebody's."""
    blobs: dict[str, bytes] = {}
    offset = 0
    for output in outputs:
        size = (output.parameters or {}).get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(blob) - offset:
            raise _wrong(f"output {output.name!r} has the size {size!r}")
        blobs[output.name] = blob[offset : offset + size]
        offset += size
    if offset != len(blob):
        raise _wrong(f"{len(blob) - offset} bytes belong to no output")
    return blobs


def _array(output: _Output, blob: bytes | None, column: Column, rows: int) -> Array:
    if output.datatype != tensors.datatype_of(column):
        raise _wrong(f"output {column.name!r} is {output.datatype[:40]}")
    expected = (rows, *column.shape)
    if tuple(output.shape) not in {expected, (rows, 1) if not column.shape else expected}:
        raise _wrong(f"output {column.name!r} has shape {output.shape[:10]} for {rows} rows")
    try:
        if blob is not None:
            return tensors.from_bytes(blob, column.dtype, expected, column)
        return tensors.from_json(_flat(output.data), column.dtype, expected, column)
    except InvalidInput as error:
        raise _wrong(error.what.replace("input", "output", 1)) from error


def _flat(values: Any) -> list[Any]:
    """Returns nested lists as one: servers write both."""
    if type(values) is not list:
        return [values]
    while values and type(values[0]) is list:
        lists = [inner if type(inner) is list else [inner] for inner in values]
        values = list(chain.from_iterable(lists))
    return list(values)


def _wrong(what: str) -> ModelFailed:
    return ModelFailed(
        f"the remote model gave an answer that is not in its signature: {what}",
        remedy="Push it again if it has changed.",
    )
