"""A table holds each key once, with the model's own answer, or is not built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.foundation.errors import DataRefused, InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.models.registry import Registry
from tidemill.models.runtime import open_runtime
from tidemill.recipes.table import build_table, examples_source, read_rows
from tidemill.tables.answer import decode_answer
from tidemill.tables.catalog import fetch_table, list_tables
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.table import TableInfo
from tidemill.training.examples import feature_batch

KEY = ("carrier", "origin", "hour")


def rows(*more: dict[str, Any]) -> pa.Table:
    """Returns twelve keyed rows, some twice, and then what is given."""
    made = [{"carrier": c, "origin": "JFK", "hour": h} for c in ("AA", "B6") for h in range(6)]
    return pa.Table.from_pylist([*made, *made[:5], *more])


def build(home: Home, source: Path | pa.Table, key: tuple[str, ...] = KEY) -> TableInfo:
    """Builds a table with the live version."""
    return build_table(
        home,
        application="trips",
        model="trips",
        version=1,
        key=key,
        source=source,
        source_name="rows",
    )


@pytest.mark.parametrize("key", [KEY, ("hour", "carrier", "origin"), ("carrier", "hour")])
def test_each_key_is_there_once_with_the_models_answer(trained: Home, key: tuple[str, ...]) -> None:
    """Rows are distinct keys, in any order of columns; answers are the model's, bit for bit."""
    info = build(trained, rows(), key)
    assert (info.rows, info.model, info.version, info.source) == (12, "trips", 1, "rows")
    assert [name for name, _ in info.key] == list(key)
    runtime = open_runtime(Registry(trained).fetch("trips", 1))
    distinct = rows().slice(0, 12)
    batch = feature_batch(distinct, runtime.signature.inputs)
    expected = runtime.predict(batch)
    table = LmdbTable.open(fetch_table(trained, info.id), verify=True)
    try:
        found = table.get(KeyEncoder(info.key).many([batch[name] for name in key]))
    finally:
        table.close()
        runtime.close()
    answers = [decode_answer(each) for each in found if each is not None]
    assert len(answers) == 12
    for name, array in expected.items():
        assert np.array_equal(np.array([each[name] for each in answers], array.dtype), array)


def test_a_key_that_does_not_determine_the_inputs_is_refused(trained: Home) -> None:
    """The inputs that vary are named, with how many keys would have several answers."""
    before = list_tables(trained.store)
    with pytest.raises(InvalidInput, match=r"\(carrier, origin\) does not determine hour: 2 keys"):
        build(trained, rows(), ("carrier", "origin"))
    with pytest.raises(InvalidInput, match=r"\(hour\) does not determine carrier: 6 keys"):
        build(trained, rows(), ("hour",))
    assert list_tables(trained.store) == before


def test_a_value_and_a_missing_one_are_two_answers(trained: Home) -> None:
    """A key with a value in one row and none in another does not determine it either."""
    odd = {"carrier": "AA", "origin": None, "hour": 1}
    with pytest.raises(InvalidInput, match="does not determine origin: 1 key"):
        build(trained, rows(odd), ("carrier", "hour"))


def test_a_missing_value_is_told(trained: Home) -> None:
    """A row without one of the model's inputs cannot be answered."""
    with pytest.raises(InvalidInput, match="'origin' is missing in 1 of 18 rows"):
        build(trained, rows({"carrier": "AA", "origin": None, "hour": 50}), KEY)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("tail",), "key column 'tail' is no input"),
        ((), "the key is empty"),
        (("carrier", "carrier"), "carrier"),
    ],
)
def test_a_key_must_name_inputs(trained: Home, key: tuple[str, ...], said: str) -> None:
    """Columns that the model does not take, none, or one twice, make no key."""
    with pytest.raises(InvalidInput, match=said):
        build(trained, rows(), key)


def test_sources_that_cannot_be_used_are_told(trained: Home, tmp_path: Path) -> None:
    """Not there, no rows, a column missing or twice, the wrong type, not a table at all."""
    junk = tmp_path / "junk.parquet"
    junk.write_bytes(b"PAR1 and nothing more")
    twice = tmp_path / "twice.csv"
    twice.write_text("carrier,origin,hour,hour\nAA,JFK,1,2\n")
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    for source, error, said in (
        (tmp_path / "nope.csv", NotFound, "does not exist"),
        (junk, InvalidInput, "cannot be read"),
        (empty, InvalidInput, "cannot be read"),
        (twice, InvalidInput, "two columns 'hour'"),
        (rows().drop_columns(["hour"]), InvalidInput, "no column 'hour'"),
        (rows().slice(0, 0), DataRefused, "no rows"),
        (rows().set_column(2, "hour", pa.array(["x"] * 17)), InvalidInput, "'hour'"),
    ):
        with pytest.raises(error, match=said):
            build(trained, source)


def test_rows_come_from_csv_parquet_and_examples(tmp_path: Path) -> None:
    """A compressed CSV reads like a plain one; examples are both splits together."""
    import gzip

    text = "carrier,hour\nAA,1\nB6,2\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    expected = pa.table({"carrier": ["AA", "B6"], "hour": [1, 2]})
    for part in ("train", "evaluation"):
        pq.write_table(expected, tmp_path / f"{part}.parquet")
    assert read_rows(tmp_path / "a.csv") == expected
    assert read_rows(tmp_path / "a.csv.gz") == expected
    assert read_rows(tmp_path / "train.parquet") == expected
    assert examples_source(tmp_path) == pa.concat_tables([expected, expected])


def test_the_same_table_twice_is_one(trained: Home) -> None:
    """Content and origin make the id: building again adds nothing to the files."""
    first, again = build(trained, rows()), build(trained, rows())
    assert first.sha256 == again.sha256


def test_progress_reaches_the_end(trained: Home) -> None:
    """It is told in distinct keys."""
    told: list[tuple[int, int]] = []
    build_table(
        trained,
        application="trips",
        model="trips",
        version=1,
        key=KEY,
        source=rows(),
        source_name="rows",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(12, 12)]
