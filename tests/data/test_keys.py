from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.keys import KeySet, hash_rows, save_keys

_rows = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", ""])), max_size=30)


def _hashes(rows: list[tuple[int, str]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    table = pa.table(
        {
            "n": pa.array([n for n, _ in rows], pa.int64()),
            "s": pa.array([s for _, s in rows], pa.string()),
        }
    )
    return hash_rows(table, ["n", "s"])


@given(st.lists(_rows, max_size=5))
def test_only_the_first_row_of_a_key_is_new(batches: list[list[tuple[int, str]]]) -> None:
    """A row repeats exactly if its key was in an earlier batch, or earlier in its own."""
    keys = KeySet()
    seen: set[tuple[int, str]] = set()
    for batch in batches:
        repeats = keys.repeats(_hashes(batch)).tolist()
        for row, repeated in zip(batch, repeats, strict=True):
            assert repeated == (row in seen)
            seen.add(row)


def test_saved_keys_are_known_to_the_next(tmp_path: Path) -> None:
    """Keys on disk, many or none, count as seen."""
    save_keys(tmp_path / "one", [_hashes([(i, "a") for i in range(1000)])])
    save_keys(tmp_path / "none", [])
    keys = KeySet([tmp_path / "one", tmp_path / "none"])
    assert keys.repeats(_hashes([(999, "a"), (1000, "a"), (0, "b")])).tolist() == [
        True,
        False,
        False,
    ]


def test_hashes_never_change() -> None:
    """Keys saved by one version are found by the next: these words are for ever."""
    table = pa.table(
        {
            "i": [1, None],
            "f": [-0.0, 0.5],
            "s": ["ä", "b"],
            "b": [True, False],
            "t": pa.array([1, 2], pa.timestamp("us", "UTC")),
        }
    )
    assert hash_rows(table, table.column_names).tolist() == [
        [6739653596847090553, 9130617791612987032],
        [1469772402785893301, 6757616433305498708],
    ]


def test_equal_values_of_any_width_hash_alike() -> None:
    """The width of an integer and the encoding of a string are not part of a key."""
    for one, other in (
        (pa.array([1], pa.int8()), pa.array([1], pa.int64())),
        (pa.array(["a"]), pa.array(["a"]).dictionary_encode()),
        (pa.array(["a"]), pa.array(["a"], pa.large_string())),
        (pa.array([-0.0]), pa.array([0.0])),
    ):
        left, right = pa.table({"x": one}), pa.table({"x": other})
        assert hash_rows(left, ["x"]).tolist() == hash_rows(right, ["x"]).tolist()
