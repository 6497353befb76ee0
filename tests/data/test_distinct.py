"""However rows come, those hashes are kept that are the smallest of all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.mixing import Words
from tidemill.data.statistics import Statistics
from tidemill.data.statistics.hashes import hash_numbers
from tidemill.data.statistics.scan import BATCH_ROWS
from tidemill.data.statistics.sketches import HASHES, Distinct


def _hashes(first: int, kinds: int, rows: int) -> Words:
    """Returns hashes of rows of so many different numbers, of which most come once, if any do."""
    numbers = first + np.arange(rows)
    numbers[kinds:] = first + numbers[kinds:] % min(kinds, 7)
    return hash_numbers(numbers).copy()


def _smallest(parts: list[Words]) -> list[int]:
    smallest: list[int] = np.unique(np.concatenate(parts))[:HASHES].tolist()
    return smallest


def _held(parts: list[Words]) -> None:
    """Checks the hashes that are kept of parts, forwards, backwards, cut, and merged."""
    expected = _smallest(parts)
    pieces = [piece for part in parts for piece in np.array_split(part, 3)]
    for order in (parts, parts[::-1], pieces, pieces[::-1]):
        whole, merged = Distinct(), Distinct()
        for part in order:
            whole.update(part)
            other = Distinct()
            other.update(part)
            merged.merge(other)
        assert whole.hashes.tolist() == merged.hashes.tolist() == expected


@pytest.mark.parametrize(
    ("before", "kinds"), [(1_500, 30_000), (1_500, 60_000), (2_500, 30_000), (3_900, 2_500)]
)
def test_many_after_few_lose_none(before: int, kinds: int) -> None:
    """What was kept before doesn't stand for what comes: a batch of which some are small enough."""
    _held([_hashes(0, before, before), _hashes(10**6, kinds, BATCH_ROWS)])
    _held([_hashes(0, before, BATCH_ROWS), _hashes(10**6, kinds, BATCH_ROWS)])


_parts = st.lists(
    st.tuples(
        st.integers(0, 90_000),
        st.one_of(st.integers(1, 2 * HASHES), st.integers(1, 70_000)),
        st.one_of(st.integers(1, 2 * HASHES), st.integers(8 * HASHES, BATCH_ROWS)),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=40)
@given(_parts)
def test_any_parts_keep_the_smallest(drawn: list[tuple[int, int, int]]) -> None:
    """Parts of any size, of any number of different values, which others may have too."""
    _held([_hashes(first, min(kinds, rows), rows) for first, kinds, rows in drawn])


@pytest.mark.parametrize("kind", ["text", "number"])
def test_values_are_counted_in_whatever_order(kind: str) -> None:
    """A day of few users and one of many: as many on both days, whichever came first."""
    draw = np.random.default_rng(0)
    days = [draw.lognormal(8, 1.2, rows).astype(np.int64) for rows in (4_000, BATCH_ROWS)]
    true = len(np.unique(np.concatenate(days)))
    tables = [
        pa.table({"user": [f"user-{one}" for one in day] if kind == "text" else day / 7})
        for day in days
    ]
    found = []
    for order in (tables, tables[::-1]):
        whole, merged = Statistics(), Statistics()
        for table in order:
            whole.update(table)
            other = Statistics()
            other.update(table)
            merged.merge(other)
        for statistics in (whole, merged):
            user = statistics.result().column("user")
            assert user is not None
            assert not user.distinct_exact
            found.append(user.distinct)
    assert found == [found[0]] * 4
    assert found[0] == pytest.approx(true, rel=0.06)
