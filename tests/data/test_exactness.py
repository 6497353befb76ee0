"""No two keys become one because their column's type keeps fewer digits than they have."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.casting import cast, infer_type
from tidemill.data.exactness import inexact
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, Selection
from tidemill.data.reviews import release
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshots import read_snapshot
from tidemill.data.splits import split_by_hash
from tidemill.foundation.home import Home

OPTIONS = DatasetOptions(key=("id",))
FLOATS = Schema(columns=(Column(name="id", type="float64"),))

FRACTIONS = [Decimal("1234567890123456.0001") + Decimal(i) / 10_000 for i in range(50)]
LARGE = [Decimal(10**22 + i) for i in range(50)]
WHOLE = [Decimal(10**17 + i) for i in range(50)]


def _csv(path: Path, keys: list[Decimal]) -> None:
    path.write_text("id\n" + "".join(f"{key}\n" for key in keys))


def _json(path: Path, keys: list[Decimal]) -> None:
    path.write_text("".join(f'{{"id": {key}}}\n' for key in keys))


def _parquet(path: Path, keys: list[Decimal]) -> None:
    pq.write_table(pa.table({"id": pa.array(keys)}), path)


WRITERS = {"csv": _csv, "jsonl": _json, "parquet": _parquet}


@pytest.mark.parametrize("keys", [FRACTIONS, LARGE, WHOLE], ids=["fractions", "large", "whole"])
@pytest.mark.parametrize("form", WRITERS)
def test_keys_keep_all_their_digits(
    home: Home, tmp_path: Path, form: str, keys: list[Decimal]
) -> None:
    """Keys that differ in their last digits are rows of their own, and are found again as such."""
    path = tmp_path / f"rows.{form}"
    write: Callable[[Path, list[Decimal]], None] = WRITERS[form]
    write(path, keys)
    result = ingest(home, "rows", [path], options=OPTIONS)
    assert (result.accepted, result.duplicate) == (len(keys), 0)
    rows = read_snapshot(home, result.snapshot or "").column("id").to_pylist()
    assert [Decimal(row) for row in rows] == keys


@pytest.mark.parametrize("form", WRITERS)
def test_a_float_that_cannot_tell_keys_apart_holds_them(
    home: Home, tmp_path: Path, form: str
) -> None:
    """Where a person declared a float, keys are held with the reason, and are no duplicates."""
    path = tmp_path / f"rows.{form}"
    WRITERS[form](path, [Decimal("0.5"), Decimal("0.25"), Decimal("0.75"), *FRACTIONS[:2]])
    result = ingest(home, "rows", [path], options=OPTIONS, schema=FLOATS)
    assert result.reasons == {"inexact": 2}
    assert (result.received, result.accepted, result.duplicate) == (5, 3, 0)
    assert release(home, "rows", Selection(reason="inexact"), by="ann") is None


def test_later_integers_beyond_a_float_are_held(home: Home, tmp_path: Path) -> None:
    """A key that began with fractions takes no integers that it could not tell apart."""
    pq.write_table(pa.table({"id": [0.5, 1.5]}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"id": [2, 3, (1 << 53) + 1, 1 << 53]}), tmp_path / "two.parquet")
    ingest(home, "rows", [tmp_path / "one.parquet"], options=OPTIONS)
    result = ingest(home, "rows", [tmp_path / "two.parquet"])
    assert (result.accepted, result.reasons) == (3, {"inexact": 1})


def test_parts_of_a_microsecond_are_no_duplicates(home: Home, tmp_path: Path) -> None:
    """Times of a key that differ in nanoseconds stay apart; as the dataset's time they are held."""
    ticks = [1_700_000_000_000_000_000 + i for i in range(4)]
    table = pa.table({"id": pa.array(ticks, pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "rows.parquet")
    result = ingest(home, "rows", [tmp_path / "rows.parquet"], options=OPTIONS)
    assert (result.accepted, result.duplicate) == (4, 0)
    options = DatasetOptions(key=("id",), time="id", max_bad_fraction=1)
    result = ingest(home, "timed", [tmp_path / "rows.parquet"], options=options)
    assert (result.accepted, result.reasons) == (1, {"inexact": 3})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_was_written_from_a_float_is_exact(value: float) -> None:
    """However a program writes a float in full, it is that float."""
    texts = pa.array([repr(value), f"{value:.17g}", format(Decimal(value), "f")])
    assert not inexact(texts, cast(texts, "float64", ())).any()


@given(st.decimals(allow_nan=False, allow_infinity=False, places=20), st.integers(1, 9))
def test_numbers_that_become_one_float_are_never_both_exact(number: Decimal, step: int) -> None:
    """Of two short ways to the same float at most one counts as it."""
    other = number + Decimal(step).scaleb(-20)
    texts = pa.array([format(number, "f"), format(other, "f")])
    found = cast(texts, "float64", ())
    first, second = found.values.to_pylist()
    written = {Decimal(repr(first)), Decimal(f"{first:.17g}"), Decimal(first)}
    if first == second and not {number, other} <= written:
        assert inexact(texts, found).any()


def test_whole_decimals_too_long_for_a_float_are_integers_or_text() -> None:
    """Identifiers from warehouses, which know decimals alone, keep their digits without a key."""
    for keys, kind in ((WHOLE, "int64"), (LARGE, "string")):
        array = pa.array(keys, pa.decimal128(38, 0))
        assert infer_type(array, ()) == kind
        assert [Decimal(one) for one in cast(array, kind, ()).values.to_pylist()] == keys
    prices = pa.array([Decimal("1.50"), Decimal("2.00"), Decimal("0.00")], pa.decimal128(18, 2))
    assert infer_type(prices, ()) == "float64"
    assert cast(prices, "int64", ()).values.to_pylist() == [None, 2, 0]
    tiny = pa.array([Decimal("1E-10"), Decimal("0E-10")], pa.decimal128(38, 10))
    assert cast(tiny, "int64", ()).values.to_pylist() == [None, 0]


def test_rows_are_split_by_all_digits_of_a_decimal() -> None:
    """Parts have their shares, whatever digits the rows differ in."""
    table = pa.table({"id": pa.array([Decimal(i) / 10_000 for i in range(5000)])})
    parts = split_by_hash(table, ["id"], {"train": 0.8, "eval": 0.2})
    assert 0.17 < parts["eval"].num_rows / 5000 < 0.23


def test_held_keys_of_json_keep_their_text(home: Home, tmp_path: Path) -> None:
    """What is shown of a held row is what was in the file, to the last digit."""
    path = tmp_path / "rows.jsonl"
    rows = [{"id": 0.5}, {"id": 1.5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + f'{{"id": {FRACTIONS[0]}}}\n')
    result = ingest(home, "rows", [path], options=OPTIONS, schema=FLOATS)
    assert result.reasons == {"inexact": 1}
