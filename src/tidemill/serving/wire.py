"""The wire formats: Open Inference Protocol v2 with binary tensors, and KServe's simple v1.

Bytes in, checked arrays out, and back. Every size is checked before it is believed.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import orjson

from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.models.signature import Batch, Column, Signature

MAX_ROWS = 65_536
"""Rows in one request, at most."""

MAX_ELEMENTS = 1 << 26
"""Elements in one tensor, at most."""

DATATYPES: dict[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
"""Numeric datatypes of the protocol and NumPy's names for them; BYTES is for strings."""

_OIP_OF = {numpy: oip for oip, numpy in DATATYPES.items()}


class InputTensor(msgspec.Struct, gc=False):
    """One input of a v2 request, as it was sent."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = None


class RequestedOutput(msgspec.Struct, gc=False):
    """One output that a v2 request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct):
    """A v2 inference request."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestedOutput] | None = None


class PredictRequest(msgspec.Struct):
    """A v1 prediction request: rows as objects by column name, as lists, or as bare values."""

    instances: list[Any]
    event_time: float | None = None
    timeout_ms: float | None = None


class Feedback(msgspec.Struct, forbid_unknown_fields=True):
    """One label for one served prediction; ``observed_at`` is in seconds since the epoch."""

    prediction_id: str
    label: bool | int | float | str
    observed_at: float | None = None


_infer_decoder = msgspec.json.Decoder(InferRequest)
_predict_decoder = msgspec.json.Decoder(PredictRequest)
_feedback_decoder = msgspec.json.Decoder(list[Feedback] | Feedback)


def read_infer(
    body: bytes, header_length: int | None, signature: Signature
) -> tuple[InferRequest, Batch, int]:
    """Reads a v2 request: the request, its inputs as arrays (n, …), and n.

    Args:
        body: the request's body.
        header_length: the bytes of JSON before the binary tensors; None if all of it is JSON.
        signature: what the application's model expects.

    Raises:
        InvalidInput: it is not a request for this signature; the tensor and remedy are named.
    """
    json_bytes, blob = _cut_binary(body, header_length)
    try:
        request = _infer_decoder.decode(json_bytes)
    except msgspec.DecodeError as error:
        raise _not_json("an inference request", error) from error
    tensors = _by_name(request.inputs, signature)
    offset = 0
    arrays: Batch = {}
    for tensor in request.inputs:
        size = _binary_size(tensor)
        if size is not None:
            if offset + size > len(blob):
                raise InvalidInput(
                    f"input {tensor.name!r} claims {size} bytes, {len(blob) - offset} are left",
                    remedy="Send as many bytes as binary_data_size says, in the inputs' order.",
                )
            tensor.data = blob[offset : offset + size]
            offset += size
    if offset != len(blob):
        raise InvalidInput(
            f"{len(blob) - offset} bytes follow the last binary tensor",
            remedy="Make the binary_data_size values add up to the bytes sent.",
        )
    n = -1
    for column in signature.inputs:
        array = _read_tensor(tensors[column.name], column)
        if n not in (-1, len(array)):
            raise InvalidInput(
                f"input {column.name!r} has {len(array)} rows, the ones before it {n}",
                remedy="Send the same number of rows in every input.",
            )
        n = len(array)
        arrays[column.name] = array
    return request, arrays, _checked_rows(n)


def read_predict(body: bytes, signature: Signature) -> tuple[PredictRequest, Batch, int]:
    """Reads a v1 request: the request, its rows as arrays (n, …), and n.

    Raises:
        InvalidInput: it is not a request for this signature; the row, column and value are named.
    """
    try:
        request = _predict_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _not_json("a prediction request", error) from error
    n = _checked_rows(len(request.instances))
    columns = signature.inputs
    names = [column.name for column in columns]
    values = [_row_values(i, row, names, columns) for i, row in enumerate(request.instances)]
    return (
        request,
        {
            column.name: _array_of([row[at] for row in values], column)
            for at, column in enumerate(columns)
        },
        n,
    )


def read_feedback(body: bytes) -> list[Feedback]:
    """Reads labels: one object or a list of them.

    Raises:
        InvalidInput: it is neither, or a field is missing or of a wrong type.
    """
    try:
        labels = _feedback_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"the body is not feedback: {error}",
            remedy='Send [{"prediction_id": "…", "label": …, "observed_at": seconds}].',
        ) from error
    found = labels if isinstance(labels, list) else [labels]
    if len(found) > MAX_ROWS:
        raise TooLarge(f"{len(found)} labels in one request", remedy=f"At most {MAX_ROWS}.")
    for label in found:
        if not _is_prediction_id(label.prediction_id):
            raise InvalidInput(
                f"prediction_id {label.prediction_id[:80]!r} was not made by this server",
                remedy="Return the prediction_id that came with the answer.",
            )
        if isinstance(label.label, float) and not math.isfinite(label.label):
            raise InvalidInput("a label is not finite", remedy="Send a finite number.")
    return found


def datatype_of(column: Column) -> str:
    """Returns the protocol's name for a column's type.

    Example:
        >>> datatype_of(Column("x", "float64"))
        'FP64'
    """
    return _OIP_OF.get(column.type, "BYTES")


def describe(columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    """Returns columns as v2 metadata; -1 stands for the rows."""
    return [
        {"name": column.name, "datatype": datatype_of(column), "shape": [-1, *column.shape]}
        for column in columns
    ]


def parameter(request: InferRequest, name: str) -> float | None:
    """Returns a numeric parameter of the request, if it was sent.

    Raises:
        InvalidInput: it is not a finite number.
    """
    value = None if request.parameters is None else request.parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInput(f"parameter {name!r} is {value!r}", remedy="Send a finite number.")
    return float(value)


def write_infer(
    request: InferRequest,
    *,
    model: str,
    version: int,
    outputs: Batch,
    columns: tuple[Column, ...],
    parameters: dict[str, Any],
) -> tuple[bytes, int | None]:
    """Writes a v2 answer: the body, and the length of its JSON if binary tensors follow.

    Raises:
        InvalidInput: an output is asked for that the model does not give.
    """
    wanted = _wanted(request, columns)
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for column, binary in wanted:
        array = outputs[column.name]
        entry: dict[str, Any] = {
            "name": column.name,
            "datatype": datatype_of(column),
            "shape": list(array.shape),
        }
        if binary:
            blob = _to_bytes(array)
            blobs.append(blob)
            entry["parameters"] = {"binary_data_size": len(blob)}
        else:
            entry["data"] = _flat(array)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request.id is not None:
        answer["id"] = request.id
    answer["parameters"] = parameters
    answer["outputs"] = described
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return head, None
    return b"".join((head, *blobs)), len(head)


def write_predict(
    outputs: Batch, n: int, *, prediction_ids: list[str], version: int, sources: list[str]
) -> bytes:
    """Writes a v1 answer; a single output's values stand alone, several stand under their names."""
    lists = {name: array.tolist() for name, array in outputs.items()}
    if len(lists) == 1:
        predictions = next(iter(lists.values()))
    else:
        predictions = [{name: values[i] for name, values in lists.items()} for i in range(n)]
    return orjson.dumps(
        {
            "predictions": predictions,
            "prediction_ids": prediction_ids,
            "model_version": str(version),
            "sources": sources,
        }
    )


def _cut_binary(body: bytes, header_length: int | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not 0 < header_length <= len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes",
            remedy="Send the length of the JSON that precedes the binary tensors.",
        )
    return body[:header_length], body[header_length:]


def _not_json(what: str, error: msgspec.DecodeError) -> InvalidInput:
    if isinstance(error, msgspec.ValidationError):
        return InvalidInput(f"the body is not {what}: {error}", remedy="See /v2 for the format.")
    return InvalidInput(
        f"the body is not JSON: {error}",
        remedy="Send one JSON object; NaN and Infinity are not JSON.",
    )


def _by_name(tensors: list[InputTensor], signature: Signature) -> dict[str, InputTensor]:
    known = {tensor.name: tensor for tensor in tensors}
    if len(known) != len(tensors):
        twice = next(t.name for t in tensors if sum(t.name == u.name for u in tensors) > 1)
        raise InvalidInput(f"input {twice!r} is sent twice", remedy="Send each input once.")
    expected = {column.name for column in signature.inputs}
    if known.keys() != expected:
        _refuse_names("input", set(known), expected)
    return known


def _refuse_names(kind: str, sent: set[str], expected: set[str]) -> None:
    missing, unknown = sorted(expected - sent), sorted(sent - expected)
    said = []
    if missing:
        said.append(f"{kind} {', '.join(map(repr, missing[:5]))} is missing")
    if unknown:
        said.append(f"{kind} {', '.join(map(repr, unknown[:5]))} is not known")
    names = ", ".join(sorted(expected))
    raise InvalidInput(" and ".join(said), remedy=f"The model expects: {names}.")


def _binary_size(tensor: InputTensor) -> int | None:
    size = None if tensor.parameters is None else tensor.parameters.get("binary_data_size")
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidInput(
            f"input {tensor.name!r} has binary_data_size {size!r}",
            remedy="Send a number of bytes, 0 or more.",
        )
    if tensor.data is not None:
        raise InvalidInput(
            f"input {tensor.name!r} has both data and binary_data_size",
            remedy="Send one of them.",
        )
    return size


def _read_tensor(tensor: InputTensor, column: Column) -> np.ndarray[Any, Any]:
    shape = tensor.shape
    if not shape or min(shape) < 0 or math.prod(shape) > MAX_ELEMENTS:
        raise InvalidInput(
            f"input {tensor.name!r} has shape {shape}",
            remedy=f"Send rows first, no negative size, at most {MAX_ELEMENTS} elements.",
        )
    per_row = tuple(shape[1:])
    if per_row != column.shape and not (column.shape == () and per_row == (1,)):
        raise InvalidInput(
            f"input {tensor.name!r} has shape {shape}",
            remedy=f"The model expects {[-1, *column.shape]}; -1 stands for the rows.",
        )
    array = _elements(tensor, column)
    if array.size != math.prod(shape):
        raise InvalidInput(
            f"input {tensor.name!r} has {array.size} values, its shape {shape} holds "
            f"{math.prod(shape)}",
            remedy="Send as many values as the shape holds.",
        )
    return array.reshape((shape[0], *column.shape))


def _elements(tensor: InputTensor, column: Column) -> np.ndarray[Any, Any]:
    data = tensor.data
    if tensor.datatype == "BYTES":
        texts = _texts_of(data, tensor.name) if isinstance(data, bytes) else data
        return _array_of(_flatten(texts), column)
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        raise InvalidInput(
            f"input {tensor.name!r} has datatype {tensor.datatype[:40]!r}",
            remedy=f"The model expects {datatype_of(column)}.",
        )
    if isinstance(data, bytes):
        item = np.dtype(dtype).itemsize
        if len(data) % item:
            raise InvalidInput(
                f"input {tensor.name!r} has {len(data)} bytes, not a multiple of {item}",
                remedy=f"Send {tensor.datatype} values, {item} bytes each, little-endian.",
            )
        raw = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
        return _cast(raw, column)
    if dtype == "float16":
        raise InvalidInput(
            f"input {tensor.name!r} is FP16 in JSON", remedy="FP16 has no JSON form: send binary."
        )
    return _array_of(data, column)


def _array_of(values: Any, column: Column) -> np.ndarray[Any, Any]:
    """Makes an array of JSON values; what JSON can't say exactly is refused, never cut."""
    if column.type == "string":
        return _strings(values, column)
    try:
        array = np.array(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong(column, "values of different lengths") from error
    return _cast(array, column)


def _cast(array: np.ndarray[Any, Any], column: Column) -> np.ndarray[Any, Any]:
    target = column.dtype
    kind = array.dtype.kind
    if array.size == 0:
        return array.astype(target)
    if target.kind == "f":
        if kind not in "fiu":
            raise _wrong(column, _sample(array))
        cast = array.astype(target, copy=False)
        if not np.isfinite(cast).all():
            at = int(np.flatnonzero(~np.isfinite(cast))[0])
            raise _wrong(column, f"{cast.ravel()[at]} at position {at}")
        return cast
    if target.kind in "iu":
        if kind not in "iu" or not _fits(array, target):
            raise _wrong(column, _sample(array))
        return array.astype(target, copy=False)
    if kind != "b":
        raise _wrong(column, _sample(array))
    return array


def _fits(array: np.ndarray[Any, Any], target: np.dtype[Any]) -> bool:
    if np.can_cast(array.dtype, target):
        return True
    bounds = np.iinfo(target)
    return bool(array.min() >= bounds.min and array.max() <= bounds.max)


def _strings(values: Any, column: Column) -> np.ndarray[Any, Any]:
    if not isinstance(values, list):
        raise _wrong(column, repr(values)[:60])
    flat = _flatten(values)
    for value in flat:
        if not isinstance(value, str):
            raise _wrong(column, repr(value)[:60])
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape((-1, *column.shape))


def _flatten(values: Any) -> list[Any]:
    if not isinstance(values, list):
        return [values]
    if any(isinstance(value, list) for value in values):
        return [inner for value in values for inner in _flatten(value)]
    return values


def _texts_of(blob: bytes, name: str) -> list[str]:
    texts, offset = [], 0
    while offset < len(blob):
        length = int.from_bytes(blob[offset : offset + 4], "little")
        offset += 4
        if offset + length > len(blob):
            raise InvalidInput(
                f"input {name!r} has a BYTES element of {length} bytes, "
                f"{max(0, len(blob) - offset)} are left",
                remedy="Send each element as its length (4 bytes, little-endian) and its bytes.",
            )
        try:
            texts.append(blob[offset : offset + length].decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"input {name!r} has a BYTES element that is not UTF-8", remedy="Send UTF-8 text."
            ) from error
        offset += length
    return texts


def _row_values(index: int, row: Any, names: list[str], columns: tuple[Column, ...]) -> list[Any]:
    if isinstance(row, dict):
        if row.keys() != set(names):
            _refuse_names(f"column (row {index})", set(row), set(names))
        return [row[name] for name in names]
    if len(columns) == 1:
        return [row]
    if isinstance(row, list):
        if len(row) != len(names):
            raise InvalidInput(
                f"row {index} has {len(row)} values",
                remedy=f"Send {len(names)}, in this order: {', '.join(names)}.",
            )
        return row
    raise InvalidInput(
        f"row {index} is {repr(row)[:60]}",
        remedy=f"Send an object or a list with: {', '.join(names)}.",
    )


def _wanted(request: InferRequest, columns: tuple[Column, ...]) -> list[tuple[Column, bool]]:
    default = bool((request.parameters or {}).get("binary_data_output", False))
    if request.outputs is None or not request.outputs:
        return [(column, default) for column in columns]
    known = {column.name: column for column in columns}
    wanted: dict[str, tuple[Column, bool]] = {}
    for output in request.outputs:
        if output.name not in known:
            raise InvalidInput(
                f"output {output.name!r} is not known",
                remedy=f"The model gives: {', '.join(known)}.",
            )
        if output.name in wanted:
            raise InvalidInput(f"output {output.name!r} is asked for twice", remedy="Ask once.")
        binary = bool((output.parameters or {}).get("binary_data", default))
        wanted[output.name] = (known[output.name], binary)
    return list(wanted.values())


def _flat(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind in "OUS":
        return array.ravel().tolist()
    return np.ascontiguousarray(array).ravel()


def _to_bytes(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind in "OUS":
        parts = [str(value).encode() for value in array.ravel().tolist()]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()


def _is_prediction_id(text: str) -> bool:
    head, _, row = text.partition("-")
    if len(head) != 32 or head.strip("0123456789abcdef"):
        return False
    return row == "" if "-" not in text else row.isdigit() and len(row) <= 6


def _checked_rows(n: int) -> int:
    if n < 1:
        raise InvalidInput("the request has no rows", remedy="Send at least one row.")
    if n > MAX_ROWS:
        raise TooLarge(f"{n} rows in one request", remedy=f"Send at most {MAX_ROWS}.")
    return n


def _wrong(column: Column, value: str) -> InvalidInput:
    return InvalidInput(
        f"input {column.name!r} holds {value}",
        remedy=f"The model expects finite {datatype_of(column)} values of shape "
        f"{[-1, *column.shape]}.",
    )


def _sample(array: np.ndarray[Any, Any]) -> str:
    return repr(array.ravel()[0].item() if array.dtype != object else array.ravel()[0])[:60]
