"""In every form of file each spoilt row is found, and each row is accounted for."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.conservation import check_conserved
from tests.data.spoilt_forms import (
    ARROW,
    CASES,
    DUPLICATES,
    ENDED,
    FAULTS,
    FORMS,
    spoilt,
    typed_rows,
)
from tests.data.test_corruption import OPTIONS, SCHEMA

from tidemill.data.catalog import find_sources
from tidemill.data.held_rows import show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult
from tidemill.data.snapshots import read_snapshot
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings


def _ingest(home: Home, path: Path, data: bytes, options: DatasetOptions = OPTIONS) -> IngestResult:
    path.write_bytes(data)
    return ingest(home, "x", [path], options=options, schema=SCHEMA)


@pytest.mark.parametrize(("form", "name"), CASES)
def test_each_spoilt_row_is_held_and_no_other(
    home: Home, tmp_path: Path, form: str, name: str
) -> None:
    """For a reason that fits, with its line or its row."""
    draw = random.Random(f"{form} {name} 7")
    rows = typed_rows(draw, 60)
    data, places = spoilt(draw, rows, form, name)
    result = _ingest(home, tmp_path / f"spoilt.{form}", data)
    held = show_held(home, "x", limit=100).to_pylist()
    assert sorted(row["line"] for row in held) == places
    wanted = ("duplicate",) if name == DUPLICATES else FAULTS[name].reasons
    assert {row["reason"] for row in held} <= set(wanted)
    assert result.snapshot is not None
    kept = read_snapshot(home, result.snapshot).column("id").to_pylist()
    assert sorted(kept) == [row["id"] for at, row in enumerate(rows, 1) if at not in places]


@pytest.mark.parametrize("form", ENDED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_cut_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, form: str, seed: int
) -> None:
    """Wherever it ends, nothing of it is recorded."""
    draw = random.Random(seed)
    folder = tmp_path_factory.mktemp("cut")
    data = FORMS[form](typed_rows(draw, 40))
    with open_home(Settings(home=folder / "home")) as home:
        with pytest.raises(InvalidInput):
            _ingest(home, folder / f"cut.{form}", data[: draw.randint(1, len(data) - 1)])
        assert find_sources(home, "x") == []


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_column_whose_name_is_no_text_breaks_the_file(
    home: Home, tmp_path: Path, form: str
) -> None:
    """It is refused as a broken file, as one whose values are damaged."""
    table, out = pa.table({"share_of_all": [1.0, 2.0]}), io.BytesIO()
    if form == "parquet":
        pq.write_table(table, out, store_schema=False)
    else:
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
    damaged = out.getvalue().replace(b"share_of_all", b"share_\xdb\xdb_all")
    with pytest.raises(InvalidInput, match="broken"):
        _ingest(home, tmp_path / f"x.{form}", damaged)


def test_parquet_that_its_writer_would_not_know_is_refused(home: Home, tmp_path: Path) -> None:
    """A page that is not that of its checksum; texts that are none."""
    rows = typed_rows(random.Random(3), 40)
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows, ARROW)
    options: dict[str, Any] = {
        "use_dictionary": False,
        "compression": "none",
        "write_statistics": False,
    }
    pq.write_table(table, sink, write_page_checksum=True, **options)
    data = bytearray(sink.getvalue())
    data[data.index(b"12:00:00Z")] ^= 1
    with pytest.raises(InvalidInput, match="broken Parquet file"):
        _ingest(home, tmp_path / "page.parquet", bytes(data))
    latin = pa.array([row["note"].encode("latin-1") for row in rows])
    notes = pa.StringArray.from_buffers(len(latin), *latin.buffers()[1:])
    table = table.set_column(table.schema.get_field_index("note"), "note", notes)
    pq.write_table(table, tmp_path / "latin.parquet", **options)
    with pytest.raises(InvalidInput, match=r"(?i)broken Parquet file: .*utf-?8"):
        _ingest(home, tmp_path / "latin.parquet", (tmp_path / "latin.parquet").read_bytes())
    assert find_sources(home, "x") == []


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cases=st.lists(st.sampled_from(CASES), min_size=1, max_size=4),
    damage=st.sampled_from([0, 2]),
)
def test_received_is_the_sum_of_the_rest(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cases: list[tuple[str, str]], damage: int
) -> None:
    """Over files of all forms with faults, with random bytes besides, and through a release."""
    draw = random.Random(seed)
    folder = tmp_path_factory.mktemp("forms")
    options = DatasetOptions(key=("id",), time="at", lateness_s=86_400.0 * 60, max_bad_fraction=0.4)
    with open_home(Settings(home=folder / "home")) as home:
        received = 0
        for number, (form, name) in enumerate(cases):
            rows = typed_rows(draw, draw.randint(5, 30), first=number * 20)
            data, _ = spoilt(draw, rows, form, name)
            if damage:
                at = draw.randrange(len(data))
                data = data[:at] + draw.randbytes(damage) + data[at + draw.randint(0, 3) :]
            try:
                received += _ingest(home, folder / f"{number}.{form}", data, options).received
            except InvalidInput:
                continue
        if not received:
            return
        check_conserved(home, "x", received)
