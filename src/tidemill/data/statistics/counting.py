"""How often each of many values comes, without sorting them all.

Values are put into cells, in their order, some two for each value, and each cell keeps one. Values
that are equal to what their cell keeps are counted, however many they are; of the others, a fifth
of all where all differ, those are sorted that share a cell. What comes out is what sorting all
would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.data.mixing import Words
from tidemill.data.statistics.scratch import Array, scratch
from tidemill.data.statistics.sketches import EXACT_POINTS, POINTS

Places = npt.NDArray[np.int64]

COARSE = 1 << 12
"""Equally wide cells, by which the finer ones are laid out."""

SAMPLE = 1 << 10
"""Values that tell where most lie; they decide how long it takes, not what comes out."""

FEW = 2
"""Values are few where each comes so often, on average."""

SPARE = 2
"""Cells for each value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What came how often.

    Attributes:
        points: the different values, ascending; where there are ``middles``, in any order.
        times: how often each came.
        middles: of values of which more than ``EXACT_POINTS`` differ, those in the middles of
            ``POINTS`` parts of equal size, ascending.
        complete: the points are all; else those that came more than once.
    """

    points: Array
    times: Places
    middles: Array | None = None
    complete: bool = True


def count(values: Array, low: Any, high: Any) -> Counted:
    """Returns how often each value comes; the least and the largest of them are finite."""
    if len(values) <= EXACT_POINTS:
        return _sorted(values)
    if values.dtype.kind == "i" and int(high) - int(low) < SPARE * len(values):
        code = np.subtract(values, low, out=scratch("code", len(values), np.int64))
        times = np.bincount(code)
        there = np.flatnonzero(times > 0)
        return Counted(points=there + low, times=times[there])
    cells = _laid_out(values)
    return _sorted(values) if cells is None else _Cells(values, *cells).counted()


def repeated(hashes: Words) -> tuple[Words, Places]:
    """Returns the hashes that come more than once, in any order, and how often each does."""
    bits = _bits(hashes)
    return _Cells(hashes, _by_bits(hashes, bits), 1 << bits).repeated()


def first_places(hashes: Words, wanted: Words) -> Places:
    """Returns where each of the wanted hashes comes first; they are different, and there."""
    bits = _bits(hashes)
    order = np.argsort(wanted)
    ordered = wanted[order]
    near = scratch("sorted", 1 << bits, np.bool_)
    near[:] = False
    near[(wanted >> np.uint64(64 - bits)).astype(np.int64)] = True
    rows = np.flatnonzero(near[_by_bits(hashes, bits)])[::-1]
    slot = np.searchsorted(ordered, hashes[rows]).clip(max=len(wanted) - 1)
    same = ordered[slot] == hashes[rows]
    found = np.empty(len(wanted), np.int64)
    found[order[slot[same]]] = rows[same]  # the last that is put counts, which is the first row
    return found


def _bits(hashes: Words) -> int:
    return (SPARE * len(hashes) - 1).bit_length()


def _by_bits(hashes: Words, bits: int) -> Places:
    code = scratch("code", len(hashes), np.int64)
    np.right_shift(hashes, np.uint64(64 - bits), out=code.view(np.uint64))
    return code


def runs(ordered: Array) -> tuple[Array, Places]:
    """Returns the different ones of ascending values, and how often each comes."""
    starts = np.flatnonzero(np.concatenate([[len(ordered) > 0], ordered[1:] != ordered[:-1]]))
    return ordered[starts], np.diff(starts, append=len(ordered))


def _sorted(values: Array) -> Counted:
    points, times = runs(np.sort(values))
    return Counted(points=points, times=times)


def _laid_out(values: Array) -> tuple[Places, int] | None:
    """Returns the cell of each value and the number of cells; None where they would not tell them.

    A later cell holds larger values: each step keeps order, rounding included.
    """
    count = len(values)
    sample = np.sort(values[:: count // SAMPLE]).astype(np.float64)
    low, high = sample[len(sample) // 100], sample[-1 - len(sample) // 100]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scale = COARSE / (high - low)
        if not (high > low and 0 < scale < np.inf):
            return None
        at = scratch("at", count, np.float64)
        np.subtract(values, low, out=at)
        np.multiply(at, scale, out=at)
    np.clip(at, 0.0, np.nextafter(COARSE, 0.0), out=at)
    coarse = scratch("coarse", count, np.int64)
    np.copyto(coarse, at, casting="unsafe")
    fine = SPARE * np.bincount(coarse, minlength=COARSE)
    ends = np.cumsum(fine)
    np.subtract(at, coarse, out=at)
    within = scratch("within", count, np.float64)
    np.take(fine.astype(np.float64), coarse, out=within, mode="clip")
    np.multiply(at, within, out=at)
    code = scratch("code", count, np.int64)
    np.copyto(code, at, casting="unsafe")
    begins = np.take(ends - fine, coarse, out=within.view(np.int64), mode="clip")
    np.add(code, begins, out=code)
    return code, int(ends[-1]) + 1  # a part that rounds to a whole is the next cell's


class _Cells:
    """Values in cells.

    There are ``counts`` of them in each, of which it ``keeps`` one. The ``others`` differ from what
    their cells keep, which are ``shared``.
    """

    def __init__(self, values: Array, code: Places, size: int) -> None:
        self._values, self._size = values, size
        self._counts = scratch("counts", size, np.int64)
        self._counts[:] = 0
        np.add.at(self._counts, code, 1)
        self._kept = scratch("kept", size, values.dtype)
        self._kept[code] = values
        same = scratch("same", len(values), values.dtype)
        np.take(self._kept, code, out=same, mode="clip")
        mask = np.not_equal(same, values, out=scratch("mask", len(values), np.bool_))
        others = np.flatnonzero(mask)
        self._others, self._shared = values[others], code[others]

    def counted(self) -> Counted:
        """Returns how often each value comes, or, if too many differ, what is asked of those."""
        filled = int(np.count_nonzero(self._counts))
        few = filled <= max(EXACT_POINTS, len(self._values) / FEW)
        middles = self._middles()
        points, times = self.every() if few else self.repeated()
        if few and len(points) <= EXACT_POINTS:
            order = np.argsort(points, kind="stable")
            return Counted(points=points[order], times=times[order])
        return Counted(points=points, times=times, middles=middles, complete=few)

    def every(self) -> tuple[Array, Places]:
        """Returns the different values and how often each comes; then the cells are spent."""
        np.subtract.at(self._counts, self._shared, 1)
        return self._with(self._counts > 0, *runs(np.sort(self._others)))

    def repeated(self) -> tuple[Array, Places]:
        """Returns those that come more than once, and how often; then the cells are spent."""
        several = self._counts[self._shared]
        np.subtract.at(self._counts, self._shared, 1)
        several -= self._counts[self._shared]
        points, times = runs(np.sort(self._others[several > 1]))
        more = times > 1
        kept = np.greater(self._counts, 1, out=scratch("filled", self._size, np.bool_))
        return self._with(kept, points[more], times[more])

    def _with(self, cells: Array, points: Array, times: Places) -> tuple[Array, Places]:
        there = np.flatnonzero(cells)
        return (
            np.concatenate([self._kept[there], points]),
            np.concatenate([self._counts[there], times]),
        )

    def _middles(self) -> Array:
        """Returns the values in the middles of parts of equal size."""
        total = np.cumsum(self._counts, out=scratch("total", self._size, np.int64))
        wanted = np.ceil((np.arange(POINTS) + 0.5) * (len(self._values) / POINTS)).astype(np.int64)
        cells = np.searchsorted(total, wanted)
        found: Array = self._kept[cells]
        asked = scratch("filled", self._size, np.bool_)
        asked[:] = False
        asked[cells] = True
        mine = np.flatnonzero(asked[self._shared])
        if not len(mine):
            return found
        shared, others = runs(np.sort(self._shared[mine]))
        asked[:] = False
        asked[shared] = True
        within = np.flatnonzero(asked[cells])
        # What is in the cells that are asked and shared, in order, which is that of their cells.
        values = np.concatenate([self._kept[shared], self._others[mine]])
        times = np.concatenate([self._counts[shared] - others, np.ones(len(mine), np.int64)])
        order = np.argsort(values, kind="stable")
        before = np.cumsum(self._counts[shared]) - total[shared]
        place = wanted[within] + before[np.searchsorted(shared, cells[within])]
        ends = np.cumsum(times[order])
        found[within] = values[order[np.searchsorted(ends, place)]]
        return found
