"""MessagePack of many rows of numbers at once: the bytes that encoding each by itself would give.

Rows whose numbers take the same number of bytes each are equal records but for their numbers, which
are filled in column by column. Rows of other sizes are other records: integers take the shortest
form, of which there are ten. No row is an object until it is cut out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidemill.models.signature import Array

_MOST_SHAPES = 64
_FEWEST_ROWS = 16
_CUT = 1024  # rows cut at once
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

Cell = tuple[bytes, Array]
"""What comes before a column's numbers in each row, and the numbers: (n,), or (n, m)."""


@dataclass(frozen=True, slots=True)
class Packed:
    r"""Many byte strings, one behind the other.

    Args:
        data: all of them.
        sizes: the bytes of each, (n,).

    Example:
        >>> packed = Packed.of([b"a", b"", b"bc"])
        >>> packed.data, packed.sizes.tolist(), packed.cut()
        (b'abc', [1, 0, 2], [b'a', b'', b'bc'])
    """

    data: bytes
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, items: Sequence[bytes]) -> Packed:
        """Returns the items put together."""
        return cls(b"".join(items), np.fromiter(map(len, items), np.int64, len(items)))

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def joined(cls, parts: Sequence[Packed]) -> Packed:
        """Returns the items of all parts put together."""
        if len(parts) == 1:
            return parts[0]
        sizes = np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)])
        return cls(b"".join([part.data for part in parts]), sizes)

    def part(self, start: int, stop: int) -> Packed:
        """Returns those from one place up to another."""
        if start == 0 and stop >= len(self.sizes):
            return self
        first = int(self.sizes[:start].sum())
        sizes = self.sizes[start:stop]
        return Packed(self.data[first : first + int(sizes.sum())], sizes)

    def cut(self) -> list[bytes]:
        """Returns each by itself."""
        items: list[bytes] = []
        sizes, start = self.sizes, 0
        same = len(sizes) > 0 and bool((sizes == sizes[0]).all())
        whole = struct.Struct(f"{sizes[0]}s" * _CUT) if same and len(sizes) >= _CUT else None
        for first in range(0, len(sizes), _CUT):
            part = sizes[first : first + _CUT].tolist()
            if whole is not None and len(part) == _CUT:
                cutter = whole
            else:
                cutter = struct.Struct("".join([f"{size}s" for size in part]))
            items += cutter.unpack_from(self.data, start)
            start += cutter.size
        return items


def pack(cells: Sequence[Cell]) -> Packed | None:
    r"""Returns each row as bytes; None if there are few, or columns of something else than numbers.

    Args:
        cells: the columns, in order.

    Example:
        >>> pack([(b"\x92", np.arange(20)), (b"", np.full(20, 0.5))]).cut()[1].hex()
        '9201cb3fe0000000000000'
    """
    rows = len(cells[0][1])
    if rows < _FEWEST_ROWS or any(array.dtype.kind not in "biuf" for _, array in cells):
        return None
    arrays = [array.reshape(len(array), -1) for _, array in cells]
    shapes = _shapes([array for array in arrays if array.dtype.kind in "iu"], rows)
    if shapes is None:
        return None
    heads = [before for before, _ in cells]
    if shapes[0] is None:
        records = _records(heads, arrays)
        return Packed(records.tobytes(), np.full(rows, records.itemsize, np.int64))
    sizes = np.empty(rows, np.int64)
    made = [(at, _records(heads, [a[at] for a in arrays])) for at in shapes if at is not None]
    for at, records in made:
        sizes[at] = records.itemsize
    starts = np.cumsum(sizes) - sizes
    data = np.empty(int(sizes.sum()), np.uint8)
    for at, records in made:
        places, raw = starts[at], records.view(np.uint8).reshape(len(at), -1)
        for byte in range(raw.shape[1]):
            data[places + byte] = raw[:, byte]
    return Packed(data.tobytes(), sizes)


def _records(heads: Sequence[bytes], arrays: Sequence[Array]) -> Array:
    """Returns rows whose numbers all take the same forms, as records, (n,), of as many bytes."""
    constant, columns, formats, offsets = bytearray(), [], [], []
    for head, array in zip(heads, arrays, strict=True):
        constant += head
        for at in range(array.shape[1]):
            prefix, form, values = _form(array[:, at])
            constant += prefix
            columns.append(values)
            formats.append(form)
            offsets.append(len(constant))
            constant += bytes(np.dtype(form).itemsize)
    blank = np.frombuffer(bytes(constant), f"V{len(constant)}").repeat(len(arrays[0]))
    names = [str(at) for at in range(len(columns))]
    told = {"names": names, "formats": formats, "offsets": offsets, "itemsize": len(constant)}
    records = blank.view(np.dtype(told))  # type: ignore[call-overload]
    for name, values in zip(names, columns, strict=True):
        records[name] = values
    return blank


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


def _form(values: Array) -> tuple[bytes, str, Array]:
    """Returns the byte before each of some numbers, their type there, and them; all of one form."""
    kind = values.dtype.kind
    if kind == "b":
        return b"", "u1", np.where(values, _TRUE, _FALSE)
    if kind == "f":
        return bytes([_FLOAT]), ">f8", values
    _, _, prefix, form = _FORMS[int(_forms(values[:1])[0])]
    return b"" if prefix is None else bytes([prefix]), form, values


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
