"""The cache gives back what was put, within its bounds, and takes no input for another."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.models.signature import Array, Batch, Column
from tidemill.serving.cache import ENTRY_BYTES, Cache
from tidemill.serving.keeping import Keeping
from tidemill.serving.query import Answers, Query
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
    cache: Cache[Batch] = Cache(capacity, ttl)
    now = 0.0
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
            cache.put(key, answer(number, rows), nbytes=8 * rows, now=now)
            if size <= capacity:
                plain.pop(key, None)
                plain[key] = (answer(number, rows), size, now)
                while sum(entry[1] for entry in plain.values()) > capacity:
                    plain.popitem(last=False)
        assert len(cache) == len(plain)
        assert cache.size_bytes == sum(entry[1] for entry in plain.values()) <= capacity


def test_nothing_is_kept_without_room() -> None:
    """A capacity of nothing keeps nothing; an answer larger than all of it drives nobody out."""
    nothing: Cache[str] = Cache(0, None)
    nothing.put(b"k", "answer", nbytes=6, now=0.0)
    assert nothing.get(b"k", now=0.0) is None
    small: Cache[str] = Cache(1000, None)
    small.put(b"k", "answer", nbytes=6, now=0.0)
    small.put(b"large", "answer", nbytes=8000, now=0.0)
    assert small.get(b"large", now=0.0) is None
    assert small.get(b"k", now=0.0) is not None


OUTPUTS = (Column("y", "float64", (2,)), Column("k", "int32"))


def answered(outputs: Batch, start: int, n: int, *, shared: bool) -> Query:
    """A query that was answered by some rows of a batch."""
    query = Query(inputs={}, n=n, arrived=0.0, deadline=1.0, done=lambda _: None)
    if shared:
        query.answers, query.start = Answers({}, outputs), start
    else:
        query.outputs = {name: array[start : start + n] for name, array in outputs.items()}
    return query


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_what_is_kept_is_given_back_without_its_batch(n: int, shared: bool) -> None:  # noqa: FBT001
    """Rows of a batch are kept apart from it: it may change, and it can go."""
    batch = {"y": np.arange(128.0).reshape(64, 2), "k": np.arange(64, dtype=np.int32)}
    keeping = Keeping(OUTPUTS)
    kept, nbytes = keeping.take(answered(batch, 5, n, shared=shared))
    for array in batch.values():
        array[:] = 0
    given_back = keeping.give(kept, n)
    assert given_back["y"].tolist() == [[2.0 * row, 2.0 * row + 1] for row in range(5, 5 + n)]
    assert given_back["k"].tolist() == list(range(5, 5 + n))
    assert [array.dtype for array in given_back.values()] == [each.dtype for each in OUTPUTS]
    assert not any(np.shares_memory(given_back[name], batch[name]) for name in batch)
    assert nbytes >= 20 * n


def test_text_counts_as_much_as_it_takes() -> None:
    """Long answers of text are counted by their text, not by the pointers to it."""
    keeping = Keeping((Column("label", "string"),))
    text = np.array(["7" * 50_000, "8"], object)
    kept, nbytes = keeping.take(answered({"label": text}, 0, 1, shared=True))
    assert 50_000 <= nbytes <= 51_000
    assert keeping.give(kept, 1)["label"].tolist() == ["7" * 50_000]


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
