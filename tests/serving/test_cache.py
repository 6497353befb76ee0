"""The cache gives back what was put, within its bounds, and takes no input for another."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.models.signature import Array, Batch
from tidemill.serving.cache import ENTRY_BYTES, Cache
from tidemill.serving.version import _cache_key


def answer(value: int, rows: int = 1) -> Batch:
    """An answer that can be told from others."""
    return {"y": np.full(rows, value)}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "get"]),
        st.sampled_from([b"", b"a", b"bb", b"ccc"]),
        st.integers(1, 30),
        st.floats(0, 10),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS, st.integers(0, 2000), st.none() | st.floats(0.1, 20))
def test_it_is_a_bounded_lru(
    steps: list[tuple[str, bytes, int, float]], capacity: int, ttl: float | None
) -> None:
    """Whatever is put and got, it agrees with the plainest LRU of so many bytes and such an age."""
    cache, now = Cache(capacity, ttl), 0.0
    plain: OrderedDict[bytes, tuple[Batch, int, float]] = OrderedDict()
    for number, (what, key, rows, later) in enumerate(steps):
        now += later
        if what == "get":
            kept = plain.get(key)
            if kept is not None and ttl is not None and now - kept[2] > ttl:
                kept = plain.pop(key) and None
            if kept is not None:
                plain.move_to_end(key)
            found = cache.get(key, now=now)
            assert (found is None) == (kept is None)
            if found is not None and kept is not None:
                assert (found["y"] == kept[0]["y"]).all()
        else:
            size = ENTRY_BYTES + len(key) + 8 * rows
            cache.put(key, answer(number, rows), now=now)
            if size <= capacity:
                plain.pop(key, None)
                plain[key] = (answer(number, rows), size, now)
                while sum(entry[1] for entry in plain.values()) > capacity:
                    plain.popitem(last=False)
        assert len(cache) == len(plain)
        assert cache.size_bytes == sum(entry[1] for entry in plain.values()) <= capacity


def test_nothing_is_kept_without_room() -> None:
    """A capacity of nothing keeps nothing; an answer larger than all of it drives nobody out."""
    nothing = Cache(0, None)
    nothing.put(b"k", answer(1), now=0.0)
    assert nothing.get(b"k", now=0.0) is None
    small = Cache(1000, None)
    small.put(b"k", answer(1), now=0.0)
    small.put(b"large", answer(2, 1000), now=0.0)
    assert small.get(b"large", now=0.0) is None
    assert small.get(b"k", now=0.0) is not None


def test_a_row_of_a_batch_does_not_keep_the_batch() -> None:
    """What is cached of a batch's answer is its own copy: the rest of the batch can go."""
    cache = Cache(10_000, None)
    batch = np.zeros((64, 1000))
    cache.put(b"k", {"y": batch[3:4, :2]}, now=0.0)
    batch[3] = 1.0
    kept = cache.get(b"k", now=0.0)
    assert kept is not None
    assert kept["y"].base is None
    assert kept["y"].tolist() == [[0.0, 0.0]]


def test_text_counts_as_much_as_it_takes() -> None:
    """Long answers of text are counted by their text, not by the pointers to it."""
    cache = Cache(1_000_000, None)
    for number in range(100):
        text = np.array([f"{number}" * 50_000], object)
        cache.put(b"%d" % number, {"label": text}, now=0.0)
    assert 5 <= len(cache) <= 20
    assert cache.size_bytes <= 1_000_000


def strings(rows: int) -> st.SearchStrategy[Array]:
    """A column of strings that run into each other easily."""
    return hnp.arrays(object, rows, elements=st.text("a\0é", max_size=3))


def batches(rows: int) -> st.SearchStrategy[Batch]:
    """Rows of one signature."""
    return st.fixed_dictionaries(
        {
            "s": strings(rows),
            "t": strings(rows),
            "x": hnp.arrays(np.float32, (rows, 2), elements=st.sampled_from([0.0, 1.0, 2.0])),
            "b": hnp.arrays(np.bool_, rows),
        }
    ).map(lambda batch: {name: batch[name] for name in "stxb"})  # in the signature's order


ANY_BATCH = st.integers(1, 3).flatmap(batches)


def plainly(batch: Batch) -> list[tuple[str, object]]:
    """The batch as values that Python compares."""
    return [(name, array.tolist()) for name, array in batch.items()]


@settings(deadline=None)
@given(ANY_BATCH, ANY_BATCH)
def test_equal_keys_are_equal_inputs(one: Batch, other: Batch) -> None:
    """No two inputs share a key, however their strings and rows run into each other."""
    assert (_cache_key(one) == _cache_key(other)) == (plainly(one) == plainly(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"s": ["ab"], "t": ["c"]}, {"s": ["a"], "t": ["bc"]}),
        ({"s": ["a", "b"], "t": ["", ""]}, {"s": ["a", ""], "t": ["b", ""]}),
        ({"s": [""], "t": [""]}, {"s": ["", ""], "t": ["", ""]}),
    ],
)
def test_inputs_that_run_together_have_keys_of_their_own(
    one: dict[str, list[str]], other: dict[str, list[str]]
) -> None:
    """Where a string ends, a column ends and a row ends is part of the key."""
    first, second = (
        {name: np.array(values, object) for name, values in each.items()} for each in (one, other)
    )
    assert _cache_key(first) != _cache_key(second)
