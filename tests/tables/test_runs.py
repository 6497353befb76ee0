"""Rows sorted by key in bounded memory: the order is that of the bytes, whatever their sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.tables import runs
from tidemill.tables.packing import Packed
from tidemill.tables.runs import KEY, SortedRuns, bytes_array, key_order, packed_bytes

BYTES = st.sampled_from([0, 1, 127, 255])
KEYS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.lists(BYTES, max_size=18).map(bytes),  # many that begin alike, or end in zeros
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(KEYS)
def test_the_order_is_that_of_the_bytes(keys: list[bytes]) -> None:
    """Of keys of any sizes; equal ones stay as they came; what is in order is left alone."""
    wanted = sorted(range(len(keys)), key=lambda at: keys[at])
    order = key_order(bytes_array(Packed.of(keys)))
    assert (wanted if order is None else order.tolist()) == wanted
    if wanted == list(range(len(keys))):
        assert order is None


@settings(max_examples=60, deadline=None)
@given(st.lists(KEYS.filter(bool), min_size=1, max_size=12), st.sampled_from([1, 300, 1 << 20]))
def test_runs_give_back_every_row_in_order(parts: list[list[bytes]], buffer_bytes: int) -> None:
    """Whether or not they were on disk, merged in one pass or several, in blocks of any size."""
    rows = [(key, at) for at, key in enumerate(key for part in parts for key in part)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as small:
        small.setattr(runs, "_FAN_IN", 3)
        small.setattr(runs, "_BLOCK_ROWS", 7)
        sorted_runs = SortedRuns(Path(folder), buffer_bytes=buffer_bytes)
        start = 0
        for part in parts:
            places = np.arange(start, start + len(part))
            sorted_runs.add(pa.table({KEY: bytes_array(Packed.of(part)), "place": places}))
            start += len(part)
        found = []
        for block in sorted_runs.merged():
            found += zip(block[KEY].to_pylist(), block["place"].to_pylist(), strict=True)
        assert not list(Path(folder).iterdir())
    assert [key for key, _ in found] == sorted(key for key, _ in rows)
    assert sorted(found) == sorted(rows)


def test_a_slice_of_keys_is_packed_as_itself() -> None:
    """Arrow shares the bytes of the whole."""
    array = bytes_array(Packed.of([b"a", b"bcd", b"", b"e"]))
    assert packed_bytes(array.slice(1, 2)).cut() == [b"bcd", b""]
    assert packed_bytes(array.slice(4)).cut() == []
