"""The cells in which a column's values are counted, frozen from a sample of reference rows.

    numbers   between quantiles of the sample, at most ``CELLS``; a value that is a quantile more
              than once has a cell of its own; one cell below all and one above
    values    each value of a column with few, one cell each, and one for all others
    hashes    texts by a hash of their bytes, in ``CELLS`` cells: top values of a sample would be
              too frequent in it, and the rest too rare, so that chance would look like drift

Cells never change afterwards, so that distances of different days can be compared. Cell ``i`` of
numbers holds those over edge ``i - 1`` and up to edge ``i``, including it.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.mixing import mix

CELLS = 32
PER_CELL = 20
"""A cell of numbers has about so many sampled values at least."""
NAMED = 32
"""A column with more distinct values than that, or with one rarer than the next, is hashed."""
SEEN = 10

Kind = Literal["numbers", "values", "hashes"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_GRID = 4096
_CHUNK = 1 << 15
_FACTOR = np.uint64(0x100000001B3)


class Cells(msgspec.Struct, frozen=True, kw_only=True):
    """Where a column's values are counted.

    Attributes:
        kind: as above.
        edges: of ``numbers``, ascending; one fewer than cells.
        values: of ``values``; one fewer than cells.
    """

    kind: Kind
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many cells there are."""
        if self.kind == "hashes":
            return CELLS
        return len(self.edges if self.kind == "numbers" else self.values) + 1

    @property
    def ordered(self) -> bool:
        """Tells whether cells have neighbours."""
        return self.kind == "numbers"


def number_cells(sample: Floats, *, most: int = CELLS) -> Cells:
    """Returns cells for numbers; a sample without any has one cell for all.

    Args:
        sample: in any order, without NaN.  # (n,)
        most: how many quantiles, at most.
    """
    if not len(sample):
        return Cells(kind="numbers")
    ordered = np.sort(sample)
    n = len(ordered)
    cells = min(most, max(2, n // PER_CELL))
    inner = ordered[(np.arange(1, cells) * n) // cells]
    unique, times = np.unique(inner, return_counts=True)
    with np.errstate(over="ignore"):  # below the least float is minus infinity
        edges = np.unique(
            np.concatenate(
                [
                    [np.nextafter(ordered[0], -np.inf), ordered[-1]],
                    unique,
                    np.nextafter(unique[times > 1], -np.inf),
                ]
            )
        )
    return Cells(kind="numbers", edges=tuple(edges.tolist()))


def text_cells(values: dict[str, int]) -> Cells:
    """Returns cells for texts.

    Args:
        values: how often each value is in the sample; of one with many values, at least
            ``NAMED + 1`` of them.
    """
    if len(values) <= NAMED and all(times >= SEEN for times in values.values()):
        return Cells(kind="values", values=tuple(sorted(values)))
    return Cells(kind="hashes")


class NumberCounter:
    """Counts numbers in cells, many times faster than by a search among their edges.

    The range is cut into a fine grid. A value's place in it is found by one multiplication, and
    the grid knows how many edges lie below; only with the edges inside its place a value is
    compared. Rounding keeps the order, so that the counts are exactly those of a search.
    """

    def __init__(self, cells: Cells) -> None:
        self._edges = edges = np.asarray(cells.edges, np.float64)
        self._cells = cells.count
        self._usable = False
        if len(edges) < 2 or not np.isfinite(edges).all():
            return
        # From the second edge to the last but one: what lies far out shall not coarsen the grid.
        low, high = float(edges[min(1, len(edges) - 2)]), float(edges[max(len(edges) - 2, 1)])
        span = high - low
        if not span > 0:
            low, span = float(edges[0]), float(edges[-1]) - float(edges[0])
        self._low, self._factor = low, (_GRID - 1) / span if span > 0 else math.inf
        if not (math.isfinite(span) and 0 < self._factor < math.inf):
            return
        self._usable = True
        place = self._in_grid(edges)
        inside = np.bincount(place, minlength=_GRID)
        self._below = (np.cumsum(inside) - inside).astype(np.int16)
        self._first = np.full(_GRID, np.inf)
        self._second = np.full(_GRID, np.inf)
        for edge, at in reversed([*zip(edges, place, strict=True)]):
            self._second[at], self._first[at] = self._first[at], edge
        self._two = bool((inside == 2).any())
        self._many = inside > 2
        self._any_many = bool(self._many.any())

    def count(self, numbers: Floats) -> Ints:
        """Returns how many numbers are in each cell.

        Args:
            numbers: without NaN.  # (n,)

        Returns:
            Counts.  # (cells,)
        """
        found = np.zeros(self._cells, np.int64)
        for start in range(0, len(numbers), _CHUNK):
            part = numbers[start : start + _CHUNK]
            found += np.bincount(self.place(part), minlength=self._cells)
        return found

    def place(self, numbers: Floats) -> npt.NDArray[np.integer]:
        """Returns the cell of each number.

        Args:
            numbers: without NaN; some ten thousand at a time are fastest.  # (n,)
        """
        if not self._usable:
            return np.searchsorted(self._edges, numbers)
        place = self._in_grid(numbers)
        cell = self._below.take(place)
        cell += numbers > self._first.take(place)
        if self._two:
            cell += numbers > self._second.take(place)
        if self._any_many:
            crowded = self._many.take(place)
            if crowded.any():
                cell[crowded] = np.searchsorted(self._edges, numbers[crowded])
        return cell

    def _in_grid(self, numbers: Floats) -> npt.NDArray[np.int32]:
        with np.errstate(over="ignore"):
            grid = numbers - self._low
            grid *= self._factor
        np.clip(grid, 0, _GRID - 1, out=grid)
        return grid.astype(np.int32)


def count_texts(cells: Cells, texts: pa.DictionaryArray) -> Ints:
    """Returns how many texts are in each cell; nulls are in none.

    Args:
        cells: of values or hashes.
        texts: dictionary of strings, each at most once.
    """
    codes = texts.indices.drop_null().to_numpy(zero_copy_only=False)
    times = np.bincount(codes, minlength=len(texts.dictionary))
    if cells.kind == "hashes":
        place = (hash_texts(texts.dictionary) % np.uint64(CELLS)).astype(np.int64)
    else:
        known = pa.array(cells.values, texts.dictionary.type)
        index = pc.index_in(texts.dictionary, value_set=known)
        place = index.fill_null(len(cells.values)).to_numpy(zero_copy_only=False)
    return np.bincount(place, times, minlength=cells.count).astype(np.int64)


def hash_texts(texts: pa.Array) -> npt.NDArray[np.uint64]:
    """Returns a hash of each text's bytes, the same on every machine and in every version.

    A polynomial of the bytes modulo 2^64, well mixed; not for secrets.

    Args:
        texts: strings without nulls.
    """
    flat = texts.cast(pa.large_binary())
    _, offsets_buffer, data_buffer = flat.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, len(flat) + 1, flat.offset * 8)
    begin, end = int(offsets[0]), int(offsets[-1])
    lengths = np.diff(offsets).astype(np.uint64)
    if end == begin:
        return mix(lengths)
    data = np.frombuffer(data_buffer, np.uint8, end - begin, begin).astype(np.uint64)
    place = np.arange(end - begin) - np.repeat(offsets[:-1] - begin, np.diff(offsets))
    longest = int(place.max()) + 1
    powers = np.cumprod(np.full(longest, _FACTOR, np.uint64))
    sums = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum((data + np.uint64(1)) * powers[place])]
    )
    words = sums[offsets[1:] - begin] - sums[offsets[:-1] - begin]
    return mix(words + lengths * np.uint64(0x9E3779B97F4A7C15))
