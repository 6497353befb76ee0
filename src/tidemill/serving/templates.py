"""Requests that repeat one another but for their numbers: the text around is read only once.

A client that asks again and again sends the same JSON around ever new numbers. What stands before
and after them is looked up, and the numbers alone are parsed, straight into the tensor's bytes.
Whatever is not known, or not plainly numbers, is read in full: the result is the same.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import orjson

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.serving import wire
from tidemill.serving.tensors import DATATYPES, fit, packer

MAX_TEMPLATES = 256
MAX_TEXT_BYTES = 1024
"""Templates that are kept for one application, and how long the text around the numbers may be."""

LEARN_EVERY = 16
"""Only every so many unknown requests are learned from: ids that never repeat cost little."""

_DEEPEST = 4


@dataclass(frozen=True, slots=True)
class _Template:
    """A request of one tensor, all but its numbers."""

    request: wire.InferRequest
    column: Column
    numbers: struct.Struct
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class InferReader:
    """Reads v2 requests for one signature, those that it has seen the like of faster.

    Args:
        signature: what the application's model takes and gives.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._templates: dict[tuple[bytes, bytes], _Template] = {}
        self._unknown = 0

    def read(self, body: bytes, header_length: int | None) -> tuple[wire.InferRequest, Batch, int]:
        """Returns what ``wire.read_infer`` returns, the request without its inputs.

        The request may be shared: nobody changes it.

        Raises:
            InvalidInput: as ``wire.read_infer``.
        """
        if header_length is not None:
            return _without_data(wire.read_infer(body, header_length, self._signature))
        start, stop = _numbers(body)
        around = body[:start], body[stop:]
        template = self._templates.get(around)
        if template is not None:
            array = _read(template, body[start:stop])
            if array is not None:
                return template.request, {template.column.name: array}, template.shape[0]
        read = wire.read_infer(body, None, self._signature)
        if template is None:
            self._unknown += 1
            if self._unknown % LEARN_EVERY == 1 and start:
                self._learn(around, read[0])
        return _without_data(read)

    def _learn(self, around: tuple[bytes, bytes], request: wire.InferRequest) -> None:
        before, after = around
        if len(before) + len(after) > MAX_TEXT_BYTES or len(request.inputs) != 1:
            return
        tensor, column = request.inputs[0], self._signature.inputs[0]
        if len(self._signature.inputs) != 1 or tensor.name != column.name:
            return
        dtype, shape = DATATYPES[tensor.datatype], (tensor.shape[0], *column.shape)
        numbers = packer(dtype, math.prod(shape))
        if numbers is None or not _stands_around(before, after):
            return
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()  # the useful ones come back
        plain = msgspec.structs.replace(request, inputs=[])
        self._templates[around] = _Template(plain, column, numbers, dtype, shape)


def _without_data(
    read: tuple[wire.InferRequest, Batch, int],
) -> tuple[wire.InferRequest, Batch, int]:
    read[0].inputs = []  # a query that waits holds its arrays, no more
    return read


def _numbers(body: bytes) -> tuple[int, int]:
    """Returns where the first list under the key "data" begins and ends; (0, 0) if there is none.

    Only a guess: ``_stands_around`` proves it before anything is made of it.
    """
    key = body.find(b'"data"')
    start = body.find(b"[", key + 6) + 1 if key >= 0 else 0
    if not start:
        return 0, 0
    for _ in range(_DEEPEST):
        if body[start : start + 1] != b"[":
            break
        start += 1
    stop = body.find(b"]", start)
    return (start, stop) if stop >= 0 else (0, 0)


def _stands_around(before: bytes, after: bytes) -> bool:
    """Says whether numbers put between the two are all the data of a request's one tensor.

    JSON knows no context: what may stand between the two for one list may for any other.
    """
    try:
        request = wire.decode_infer(b"".join((before, b"1,2", after)))
    except InvalidInput:
        return False
    data = request.inputs[0].data if len(request.inputs) == 1 else None
    while isinstance(data, list) and len(data) == 1:
        data = data[0]
    return bool(data == [1, 2])


def _read(template: _Template, numbers: bytes) -> Array | None:
    """Returns the tensor, or None if the text is not plainly as many numbers of its type."""
    if b"u" in numbers or b"s" in numbers:  # true and false would pass for 1 and 0
        return None
    try:
        data = template.numbers.pack(*orjson.loads(b"[%b]" % numbers))
    except (ValueError, struct.error, OverflowError):
        return None
    array = np.frombuffer(data, template.dtype)
    if template.dtype == template.column.dtype:
        return array.reshape(template.shape)
    return fit(array, template.shape, template.column)
