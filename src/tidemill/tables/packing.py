"""MessagePack of many rows of numbers at once: the bytes that encoding each by itself would give.

Rows whose numbers take the same number of bytes each are the rows of one matrix of bytes, which is
filled column by column and cut into rows. Rows of other sizes are another matrix: integers take the
shortest form, of which there are ten.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tidemill.models.signature import Array

_MOST_SHAPES = 64
_FEWEST_ROWS = 16
_FLOAT, _TRUE, _FALSE = 0xCB, 0xC3, 0xC2

_FORMS: tuple[tuple[int, int, int | None, str], ...] = (
    # from, up to, the byte before it, its type; the shortest first, as it is chosen
    (0, 0x7F, None, ">u1"),
    (-0x20, -1, None, ">i1"),
    (0x80, 0xFF, 0xCC, ">u1"),
    (-0x80, -0x21, 0xD0, ">i1"),
    (0x100, 0xFFFF, 0xCD, ">u2"),
    (-0x8000, -0x81, 0xD1, ">i2"),
    (0x1_0000, 0xFFFF_FFFF, 0xCE, ">u4"),
    (-0x8000_0000, -0x8001, 0xD2, ">i4"),
    (0x1_0000_0000, 0xFFFF_FFFF_FFFF_FFFF, 0xCF, ">u8"),
    (-0x8000_0000_0000_0000, -0x8000_0001, 0xD3, ">i8"),
)

Bytes = npt.NDArray[np.uint8]
Cell = tuple[bytes, Array]
"""What comes before a column's numbers in each row, and the numbers: (n,), or (n, m)."""


def pack_rows(cells: Sequence[Cell]) -> list[bytes] | None:
    r"""Returns each row as bytes; None if the columns hold something else than numbers.

    Args:
        cells: the columns, in order.

    Example:
        >>> pack_rows([(b"\x92", np.arange(20)), (b"", np.full(20, 0.5))])[1].hex()
        '9201cb3fe0000000000000'
    """
    arrays = [array.reshape(len(array), -1) for _, array in cells]
    rows = len(arrays[0])
    if rows < _FEWEST_ROWS or any(array.dtype.kind not in "biuf" for array in arrays):
        return None
    shapes = _shapes([array for array in arrays if array.dtype.kind in "iu"], rows)
    if shapes is None:
        return None
    packed: list[bytes] = [b""] * rows
    for at in shapes:
        blocks = []
        for (before, _), array in zip(cells, arrays, strict=True):
            count = rows if at is None else len(at)
            blocks.append(np.broadcast_to(np.frombuffer(before, np.uint8), (count, len(before))))
            part = array if at is None else array[at]
            blocks += [_numbers(part[:, column]) for column in range(part.shape[1])]
        matrix = np.ascontiguousarray(np.hstack(blocks))
        width, data = matrix.shape[1], matrix.tobytes()
        cut = [data[start : start + width] for start in range(0, len(data), width)]
        if at is None:
            return cut
        for place, row in zip(at.tolist(), cut, strict=True):
            packed[place] = row
    return packed


def _shapes(integers: list[Array], rows: int) -> list[npt.NDArray[np.int64] | None] | None:
    """Returns the places of the rows of each shape, or that there is but one; None: too many."""
    codes = np.zeros(rows, np.int64)
    for array in integers:
        for column in range(array.shape[1]):
            form = _forms(array[:, column])
            if codes.max(initial=0) > 1 << 50:
                return None
            codes = codes * len(_FORMS) + form
            if column % 8 == 7:  # more columns than a code has room for are numbered anew
                codes = np.unique(codes, return_inverse=True)[1]
    distinct, codes = np.unique(codes, return_inverse=True)
    if len(distinct) == 1:
        return [None]
    if len(distinct) > _MOST_SHAPES:
        return None
    return [np.flatnonzero(codes == shape) for shape in range(len(distinct))]


def _forms(values: Array) -> npt.NDArray[np.int64]:
    """Returns which of the forms each integer takes."""
    found = np.zeros(len(values), np.int64)
    low, high = values.min(initial=0), values.max(initial=0)
    for form, (first, last, _, _) in enumerate(_FORMS):
        if last < low or first > high:
            continue
        bound = np.iinfo(values.dtype)
        at_least, at_most = max(first, bound.min), min(last, bound.max)
        if at_least <= at_most:
            found[(values >= at_least) & (values <= at_most)] = form
    return found


def _numbers(values: Array) -> Bytes:
    """Returns numbers that all take the same form as rows of bytes."""
    kind = values.dtype.kind
    if kind == "b":
        return np.where(values, _TRUE, _FALSE).astype(np.uint8)[:, np.newaxis]
    if kind == "f":
        return _prefixed(_FLOAT, values.astype(">f8"))
    _, _, prefix, form = _FORMS[int(_forms(values[:1])[0])]
    return _prefixed(prefix, values.astype(form))


def _prefixed(prefix: int | None, values: Array) -> Bytes:
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    if prefix is None:
        return raw
    return np.hstack([np.full((len(values), 1), prefix, np.uint8), raw])


def list_head(size: int) -> bytes:
    """Returns what comes before the entries of a list."""
    return _head(size, 0x90, (0xDC, 0xDD))


def map_head(size: int) -> bytes:
    """Returns what comes before the entries of a map."""
    return _head(size, 0x80, (0xDE, 0xDF))


def _head(size: int, short: int, long: tuple[int, int]) -> bytes:
    if size < 16:
        return bytes([short + size])
    if size < 1 << 16:
        return bytes([long[0]]) + size.to_bytes(2, "big")
    return bytes([long[1]]) + size.to_bytes(4, "big")
