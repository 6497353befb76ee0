"""The inputs of a v2 request: tensors by name, a table as one matrix, or bare bytes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NoReturn

import msgspec
import numpy as np

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.serving.tensors import (
    BF16,
    ONLY_BINARY,
    check_datatype,
    check_rows,
    check_shape,
    datatype_of,
    dtype_of,
    fit_column,
    from_bytes,
    from_json,
    show,
    takes_datatype,
    widened,
)


class InputTensor(msgspec.Struct, gc=False):
    """One input of a v2 request, as it was sent."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = None


def read_tensors(
    sent: list[InputTensor], blobs: dict[str, bytes], signature: Signature
) -> tuple[Batch, int]:
    """Returns the tensors of a request as arrays (n, …), and n.

    Args:
        sent: the tensors.
        blobs: by name, the bytes of those that came in binary.
        signature: what the application's model takes.

    Raises:
        InvalidInput: they are not for this signature; the tensor and remedy are named.
    """
    if len(sent) == 1 < len(signature.inputs) and _is_matrix(sent[0], signature.inputs):
        return _read_matrix(sent[0], blobs, signature.inputs)
    return _arrays(_by_name(sent, signature), blobs, signature)


def _is_matrix(tensor: InputTensor, columns: tuple[Column, ...]) -> bool:
    """Says whether a request's one tensor is all the columns of a table, side by side.

    It has no column's name: a tensor that has one is that column's.
    """
    return len(tensor.shape) == 2 and all(
        column.shape == () and column.name != tensor.name for column in columns
    )


def _read_matrix(
    tensor: InputTensor, blobs: dict[str, bytes], columns: tuple[Column, ...]
) -> tuple[Batch, int]:
    """Returns the columns of a matrix, in the model's order, and its rows."""
    width = len(columns)
    if tensor.shape[1] != width:
        names = ", ".join(column.name for column in columns[:50])
        raise InvalidInput(
            f"input {show(tensor.name)} has shape {show(tensor.shape)}, and is no column's",
            remedy=f"The model expects one tensor for each of its columns, or a matrix "
            f"{[-1, width]} of them in this order: {names}.",
        )
    dtype = dtype_of(tensor.datatype)
    for column in columns:
        if dtype is None or not takes_datatype(dtype, column, whole=True):
            raise InvalidInput(
                f"input {show(tensor.name)} has datatype {show(tensor.datatype)}, and column "
                f"{column.name!r} is {datatype_of(column)}",
                remedy="Send one tensor for each column.",
            )
    assert dtype is not None
    kind = "string" if dtype.kind == "O" else dtype.name
    whole = Column(tensor.name[:100] or "matrix", kind, (width,))
    matrix = _read_tensor(tensor, blobs.get(tensor.name), whole)
    n = check_rows(len(matrix))
    rows = np.ascontiguousarray(matrix.T)  # (width, n)
    arrays = {
        column.name: fit_column(row, column) for row, column in zip(rows, columns, strict=True)
    }
    return arrays, n


def raw_input(body: bytes, signature: Signature) -> tuple[InputTensor, bytes]:
    """Returns the tensor that a body without JSON stands for, one row of the one input.

    Raises:
        InvalidInput: the model has several inputs, or takes more than one text in a row.
    """
    remedy = "Send the JSON before the tensors, and its length in the header."
    if len(signature.inputs) != 1:
        raise InvalidInput(
            "raw request must only have 1 input to be deduced but got "
            f"{len(signature.inputs)} inputs in the model",
            remedy=remedy,
        )
    column = signature.inputs[0]
    if column.dtype.kind == "O":
        if math.prod(column.shape) != 1:
            raise InvalidInput(
                f"for BYTES datatype raw input {column.name!r}, the model must have input shape "
                f"[1], it has {list(column.shape)}",
                remedy=remedy,
            )
        body = len(body).to_bytes(4, "little") + body
    shape = [1, *column.shape]
    return InputTensor(name=column.name, shape=shape, datatype=datatype_of(column)), body


def _arrays(
    sent: dict[str, InputTensor], blobs: dict[str, bytes], signature: Signature
) -> tuple[Batch, int]:
    n = -1
    arrays: Batch = {}
    for column in signature.inputs:
        array = _read_tensor(sent[column.name], blobs.get(column.name), column)
        if n not in (-1, len(array)):
            raise InvalidInput(
                f"input {column.name!r} has {len(array)} rows, the ones before it {n}",
                remedy="Send the same number of rows in every input.",
            )
        n = len(array)
        arrays[column.name] = array
    return arrays, check_rows(n)


def refuse_regions(kind: str, name: str, parameters: dict[str, Any] | None) -> None:
    """Refuses a tensor that lies in the client's memory.

    Raises:
        InvalidInput: its parameters name a region.
    """
    if parameters and "shared_memory_region" in parameters:
        raise InvalidInput(
            f"{kind} {show(name)} is in shared memory, which is not taken here",
            remedy="Send tensors in the request.",
        )


def cut_tensors(sent: list[InputTensor], blob: bytes) -> dict[str, bytes]:
    """Returns the bytes of each binary tensor by name; they lie in the inputs' order.

    Raises:
        InvalidInput: there are fewer or more bytes than the tensors claim.
    """
    blobs: dict[str, bytes] = {}
    offset = 0
    for tensor in sent:
        size = _binary_size(tensor)
        if size is None:
            continue
        if offset + size > len(blob):
            raise InvalidInput(
                f"input {tensor.name!r} claims {show(size)} bytes, {len(blob) - offset} are left",
                remedy="Send as many bytes as binary_data_size says, in the inputs' order.",
            )
        blobs[tensor.name] = blob[offset : offset + size]
        offset += size
    if offset != len(blob):
        raise InvalidInput(
            f"{len(blob) - offset} bytes follow the last binary tensor",
            remedy="Make the binary_data_size values add up to the bytes sent.",
        )
    return blobs


def _by_name(sent: list[InputTensor], signature: Signature) -> dict[str, InputTensor]:
    known = {tensor.name: tensor for tensor in sent}
    if len(known) != len(sent):
        counts = Counter(tensor.name for tensor in sent)  # one pass: there may be very many
        twice = next(name for name, count in counts.items() if count > 1)
        raise InvalidInput(
            f"input {show(twice)} already exists in request", remedy="Send each input once."
        )
    columns = signature.inputs
    if len(known) != len(columns) or not all(column.name in known for column in columns):
        refuse_names("input", set(known), {column.name for column in columns})
    return known


def refuse_names(kind: str, sent: set[str], expected: set[str]) -> NoReturn:
    """Says which names are missing or not known.

    Raises:
        InvalidInput: always.
    """
    missing, unknown = sorted(expected - sent), sorted(sent - expected)
    said = []
    if missing:
        said.append(f"{kind} {', '.join(map(show, missing[:5]))} is missing")
    if unknown:
        said.append(f"{kind} {', '.join(map(show, unknown[:5]))} is not known")
    names = ", ".join(sorted(expected)[:50])
    raise InvalidInput(" and ".join(said), remedy=f"The model expects: {names}.")


def _binary_size(tensor: InputTensor) -> int | None:
    if tensor.parameters is None:
        return None
    refuse_regions("input", tensor.name, tensor.parameters)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidInput(
            f"input {tensor.name!r} has binary_data_size {show(size)}",
            remedy="Send a number of bytes, 0 or more.",
        )
    if tensor.data is not None:
        raise InvalidInput(
            f"input {tensor.name!r} has both data and binary_data_size",
            remedy="Send one of them.",
        )
    return size


def _read_tensor(tensor: InputTensor, blob: bytes | None, column: Column) -> Array:
    dtype = check_datatype(tensor.datatype, column)
    shape = check_shape(tensor.shape, column)
    if blob is not None:
        if tensor.datatype == BF16:
            blob = widened(blob, shape, column)
        return from_bytes(blob, dtype, shape, column)
    if tensor.data is None:
        raise InvalidInput(
            f"input {tensor.name!r} has neither data nor binary_data_size",
            remedy="Send one of them.",
        )
    if tensor.datatype in ONLY_BINARY:
        raise InvalidInput(
            f"input {tensor.name!r} is {tensor.datatype} in JSON",
            remedy=f"{tensor.datatype} has no JSON form: send binary.",
        )
    return from_json(tensor.data, dtype, shape, column)
