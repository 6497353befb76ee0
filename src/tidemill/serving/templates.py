"""Requests that repeat one another but for their numbers: the text around is read only once.

A client that asks again and again sends the same JSON around ever new numbers. What stands before
and after them is looked up, and the numbers alone are parsed, straight into the tensor's bytes.
Whatever is not known, or not plainly numbers, is read in full: the result is the same.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.serving import wire
from tidemill.serving.query import Packed
from tidemill.serving.tensors import DATATYPES, fit, packer

MAX_TEMPLATES = 256
MAX_TEXT_BYTES = 1024
"""Templates that are kept for one application, and how long the text around the numbers may be."""

LEARN_EVERY = 16
"""Only every so many unknown requests are learned from: ids that never repeat cost little."""

_DEEPEST = 4
_FALSE: Final = b"\0"  # looking for it in bytes is a third of a reduction of an array
_U: Final = 117  # the letters of true and false: looking for a number in bytes
_S: Final = 115  # is a fourth of looking for bytes in them


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A request of one tensor, all but its numbers; ``whole`` if they need no conversion.

    ``plain`` if it is one row, and asks for nothing that not every request asks for. ``binary`` if
    the numbers are a binary tensor.

    The list of the numbers, with its brackets, is from ``start`` to ``rest`` before the end.
    """

    asked: wire.Asked
    column: Column
    numbers: struct.Struct
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    n: int
    whole: bool
    plain: bool
    binary: bool
    before: bytes
    after: bytes
    start: int
    rest: int


class InferReader:
    """Reads v2 requests for one signature, those that it has seen the like of faster.

    Args:
        signature: what the application's model takes and gives.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._templates: dict[tuple[bytes, bytes], Template] = {}
        self._last: Template | None = None
        self._last_binary: Template | None = None
        self._unknown = 0

    def read(
        self, body: bytes, header_length: int | None
    ) -> tuple[wire.Asked, Batch | Packed, int]:
        """Returns what the request asks for, its inputs, and n.

        What it asks for may be shared by requests that are alike, and holds no inputs.

        Raises:
            InvalidInput: as ``wire.read_infer``.
        """
        last = self._last
        if (
            last is not None
            and header_length is None
            and body.startswith(last.before)
            and body.endswith(last.after)
        ):  # if no more than numbers is in between, this is what would be looked up
            found = _read(last, body)
            if found is not None:
                return last.asked, found, last.n
        if header_length is None:
            start, stop = _numbers(body)
            around = body[:start], body[stop:]
        else:  # all that follows the JSON, if there is any, is the tensor, if there is just one
            start, stop = header_length, len(body)
            around = body[:start], b""
        template = self._templates.get(around)
        if template is not None:
            if header_length is None:
                found = _read(template, body)
                self._last = template
            else:
                found = _view(template, body, start)
                self._last_binary = template
            if found is not None:
                return template.asked, found, template.n
        request, inputs, n = wire.read_infer(body, header_length, self._signature)
        asked = wire.Asked(request, self._signature.outputs, n)
        if template is None:
            self._unknown += 1
            if self._unknown % LEARN_EVERY == 1 and (start or header_length == 0):
                self._learn(around, asked, binary=header_length is not None)
        request.inputs = []  # a query that waits holds its arrays, no more
        return asked, inputs, n

    def plain(self, body: bytes, header_length: int | None) -> tuple[Template, bytes] | None:
        """Returns the form of a plain request, and its numbers, still to be read.

        None for others, and for one that is not like the one before.
        """
        last = self._last if header_length is None else self._last_binary
        if header_length is not None:
            if (
                last is not None
                and last.plain
                and len(body) == header_length + last.nbytes
                and header_length == len(last.before)
                and body.startswith(last.before)
            ):
                return last, body[header_length:]
            return None
        if (
            last is not None
            and last.plain
            and body.startswith(last.before)
            and body.endswith(last.after)
        ):
            return last, body[last.start : len(body) - last.rest]
        return None

    def _learn(self, around: tuple[bytes, bytes], asked: wire.Asked, *, binary: bool) -> None:
        before, after = around
        inputs = asked.request.inputs
        if len(before) + len(after) > MAX_TEXT_BYTES or len(inputs) != 1:
            return
        tensor, column = inputs[0], self._signature.inputs[0]
        if len(self._signature.inputs) != 1 or tensor.name != column.name:
            return
        dtype, shape = DATATYPES.get(tensor.datatype), (tensor.shape[0], *column.shape)
        numbers = None if dtype is None else packer(dtype, math.prod(shape))
        if dtype is None or numbers is None or (binary and tensor.data is not None):
            return
        if not binary and not _stands_around(before, after):
            return
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()  # the useful ones come back
        nbytes = math.prod(shape) * dtype.itemsize
        self._templates[around] = Template(
            asked=asked,
            column=column,
            numbers=numbers,
            dtype=dtype,
            shape=shape,
            nbytes=nbytes,
            n=shape[0],
            whole=dtype == column.dtype,
            plain=shape[0] == 1 and dtype == column.dtype and asked.plain,
            binary=binary,
            before=before,
            after=after,
            start=len(before) - 1,
            rest=len(after) - 1,
        )


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


def _read(template: Template, body: bytes) -> Batch | Packed | None:
    """Returns the input, or None if the text is not plainly as many numbers of its type.

    Args:
        template: what stands around them is there.
        body: the request's.
    """
    numbers = body[template.start : len(body) - template.rest]
    if _U in numbers or _S in numbers:  # true and false would pass for 1 and 0
        return None
    try:
        data = template.numbers.pack(*orjson.loads(numbers))
    except (TypeError, ValueError, struct.error, OverflowError):
        return None
    if template.whole:
        return Packed(template.column, data, template.n)
    return _shaped(template, np.frombuffer(data, template.dtype))


def read_rows(template: Template, numbers: Sequence[bytes]) -> Batch | None:
    """Returns the rows of plain requests as one batch; None if one is not plainly a row.

    They all came as JSON, or all as binary tensors, each of as many bytes as a row has.

    Each text begins with the bracket that opens a list and ends with the one that closes it. So
    there are as many lists as texts, each of as many numbers as a row has, only if each text is.
    """
    if template.binary:
        data = b"".join(numbers)
        if not _finite(np.frombuffer(data, template.dtype)):
            return None
        return Packed(template.column, data, len(numbers)).arrays()
    joined = b"[%b]" % b",".join(numbers)
    if _U in joined or _S in joined:  # true and false would pass for 1 and 0
        return None
    pack = template.numbers.pack
    try:
        rows = orjson.loads(joined)
        data = b"".join([pack(*row) for row in rows])
    except (TypeError, ValueError, struct.error, OverflowError):
        return None
    if len(rows) != len(numbers):
        return None
    return Packed(template.column, data, len(rows)).arrays()


def _view(template: Template, body: bytes, start: int) -> Batch | Packed | None:
    """Returns the input of a binary tensor, or None if it has another size or is not finite."""
    if len(body) - start != template.nbytes:
        return None
    data = body[start:]  # a copy is aligned, a view may not be
    array = np.frombuffer(data, template.dtype)
    if not _finite(array):
        return None
    if template.whole:
        return Packed(template.column, data, template.n)
    return _shaped(template, array)


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or _FALSE not in np.isfinite(array).tobytes()


def _shaped(template: Template, array: Array) -> Batch:
    column = template.column
    if template.whole:
        return {column.name: array.reshape(template.shape)}
    return {column.name: fit(array, template.shape, column)}
