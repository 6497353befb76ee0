"""A source's rows, each once, in the order in which a table keeps them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Column
from tidemill.recipes import distinct_rows
from tidemill.recipes.distinct_rows import TIMES, Counted, column_names, write_distinct
from tidemill.recipes.pieces import CHUNK
from tidemill.tables.key import KeyEncoder

COLUMNS = (
    Column("name", "string"),
    Column("at", "int64"),
    Column("size", "float64"),
    Column("open", "bool"),
)
VALUES = st.tuples(
    st.text(max_size=3),
    st.sampled_from([-(1 << 40), -129, -32, -1, 0, 127, 128, 255, 65_536, 1 << 40]),
    st.sampled_from([float("nan"), float("-inf"), -2.5, 0.0, 1e-300, 7.0]),
    st.booleans(),
)


def distinct(
    rows: Sequence[tuple[Any, ...]],
    key: Sequence[str],
    *,
    columns: Sequence[Column] = COLUMNS,
    batch: int = 7,
    counted: Counted | None = None,
) -> list[tuple[Any, ...]]:
    """Returns what is written of rows, a batch after the other."""
    arrays = [
        pa.array([row[at] for row in rows], "string" if c.type == "string" else c.type)
        for at, c in enumerate(columns)
    ]
    table = pa.table(arrays, names=[c.name for c in columns])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_distinct(iter(table.to_batches(batch)), columns, key, path, counted=counted)
        assert [each.name for each in Path(folder).iterdir()] == ["rows.parquet"]
        found = pq.read_table(path)
    return list(zip(*(column.to_pylist() for column in found.columns), strict=True))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(VALUES, min_size=1, max_size=60),
    st.permutations(["name", "at", "size", "open"]),
    st.sampled_from([1, 2_000, 1 << 20]),
)
def test_rows_come_once_in_the_order_of_their_keys_bytes(
    rows: list[tuple[Any, ...]], key: list[str], buffer_bytes: int
) -> None:
    """Of keys of texts, numbers of any sign and what is missing; counted, none is forgotten."""
    with pytest.MonkeyPatch.context() as small:
        small.setattr(distinct_rows, "_SORTED_BYTES", buffer_bytes)
        found = distinct(rows, key, counted=Counted())
        plain = distinct(rows, key)
    types = {column.name: column.type for column in COLUMNS}
    encoder = KeyEncoder([(name, types[name]) for name in key])
    places = [[column.name for column in COLUMNS].index(name) for name in key]
    keys = [encoder.one([row[at] for at in places]) for row in found]
    wanted = Counter(encoder.one([row[at] for at in places]) for row in rows)
    assert keys == sorted(wanted)
    assert [row[-1] for row in found] == [wanted[each] for each in keys]
    assert repr(plain) == repr([row[:-1] for row in found])


@pytest.mark.parametrize("buffer_bytes", [1, 1 << 20])
def test_all_that_varies_is_named_and_each_key_counted_once(
    buffer_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far apart the rows of a key come, and however many of them differ."""
    monkeypatch.setattr(distinct_rows, "_SORTED_BYTES", buffer_bytes)
    rows = [("a", at % 50, float(at == 75), at == 53) for at in range(100)]
    rows += [("a", 7, 5.0, True), ("a", 7, 6.0, False), ("a", 8, 0.0, False)]
    said = r"\(at, name\) does not determine size, open: 3 keys"
    with pytest.raises(InvalidInput, match=said):
        distinct(rows, ("at", "name"))


def test_a_missing_number_is_one_input(tmp_path: Path) -> None:
    """NaN and null are both asked for as NaN: a key with both has one answer."""
    rows = [("a", 1, None, True), ("a", 1, float("nan"), True), ("b", 1, None, True)]
    assert len(distinct(rows, ("name",), batch=1)) == 2
    with pytest.raises(InvalidInput, match="does not determine size: 1 keys"):
        distinct([*rows, ("b", 1, 2.0, True)], ("name",))


def test_rows_in_any_order_are_the_same_file(tmp_path: Path) -> None:
    """In order, shuffled and with most of them repeated; groups are of the size that is scored."""
    columns = (Column("id", "int64"), Column("x", "float32"))
    ids = np.arange(150_000) * 37 - 1_000_000
    digests = set()
    for number, order in enumerate(
        [ids, np.random.default_rng(0).permutation(ids), np.repeat(ids, 3)]
    ):
        rows = pa.table({"id": order, "x": (order % 1000).astype(np.float32)})
        path = tmp_path / f"{number}.parquet"
        write_distinct(iter(rows.to_batches(40_000)), columns, ("id",), path)
        digests.add(path.read_bytes())
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        assert sizes == [CHUNK, CHUNK, 150_000 - 2 * CHUNK]
        assert file.schema_arrow.names == column_names(columns)
        assert TIMES not in file.schema_arrow.names
    assert len(digests) == 1
