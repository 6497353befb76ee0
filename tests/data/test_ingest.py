"""One file in, one snapshot and the held rows out: counts, rules, exactly once."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.data.catalog import get_dataset, get_schema, list_datasets, set_schema
from tidemill.data.held_rows import list_held, show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshot_checks import validate_snapshot
from tidemill.data.snapshots import (
    get_snapshot,
    list_snapshots,
    read_snapshot,
    read_statistics,
    snapshot_paths,
)
from tidemill.foundation.errors import Conflict, Corrupted, InvalidInput, NotFound
from tidemill.foundation.home import Home

HEADER = "id,when,kind,amount\n"
OPTIONS = DatasetOptions(key=("id",), time="when", lateness_s=3600.0)


def _row(i: int, *, hour: int = 0, kind: str = "a", amount: str = "1.5") -> str:
    return f"{i},2013-01-01T{hour:02}:00:00Z,{kind},{amount}\n"


def _file(folder: Path, name: str, *rows: str) -> Path:
    path = folder / name
    path.write_text(HEADER + "".join(rows))
    return path


def _balanced(result: IngestResult) -> IngestResult:
    held = result.quarantined + result.duplicate + result.late
    assert result.received == result.accepted + held
    assert sum(result.reasons.values()) == held
    return result


def test_every_row_ends_somewhere(home: Home, tmp_path: Path) -> None:
    """Accepted rows are in the snapshot, held ones in quarantine with reason, line and text."""
    first = _file(tmp_path, "1.csv", *(_row(i, hour=5) for i in range(10)), _row(3, hour=5))
    result = _balanced(ingest(home, "sales", [first], options=OPTIONS))
    assert (result.received, result.accepted, result.duplicate) == (11, 10, 1)
    second = _file(
        tmp_path,
        "2.csv",
        _row(20, hour=4),
        _row(21, hour=3),
        _row(5, hour=3),
        _row(22, hour=6, amount="dear"),
        _row(23, hour=6, amount="nan"),
        "24,too,short\n",
        _row(25, hour=9),
        "NA,2013-01-01T06:00:00Z,a,1\n",
        _row(26, hour=6),
    )
    result = _balanced(ingest(home, "sales", [second]))
    assert (result.accepted, result.quarantined, result.duplicate, result.late) == (3, 4, 1, 1)
    assert result.reasons == {
        "duplicate": 1,
        "late": 1,
        "missing": 1,
        "not_finite": 1,
        "wrong_fields": 1,
        "wrong_type": 1,
    }
    assert result.snapshot is not None
    rows = read_snapshot(home, result.snapshot, columns=["id"])
    assert rows.column("id").to_pylist() == [20, 25, 26]
    held = show_held(home, "sales", ingest=result.ingest).to_pylist()
    assert {row["line"]: (row["reason"], row["row"]) for row in held} == {
        3: ("late", "21,2013-01-01T03:00:00Z,a,1.5"),
        4: ("duplicate", "5,2013-01-01T03:00:00Z,a,1.5"),
        5: ("wrong_type", "22,2013-01-01T06:00:00Z,a,dear"),
        6: ("not_finite", "23,2013-01-01T06:00:00Z,a,nan"),
        7: ("wrong_fields", "24,too,short"),
        9: ("missing", "NA,2013-01-01T06:00:00Z,a,1"),
    }
    (wrong,) = [row for row in held if row["reason"] == "wrong_type"]
    assert (wrong["column"], wrong["value"], wrong["source"]) == ("amount", "dear", str(second))


def test_the_same_file_again_is_a_no_op_that_says_so(home: Home, tmp_path: Path) -> None:
    """A known content, under any name, changes nothing and gives the first counts."""
    path = _file(tmp_path, "1.csv", _row(1), _row(1), _row(2, amount="x"))
    first = ingest(home, "sales", [path], options=OPTIONS)
    renamed = Path(shutil.copy(path, tmp_path / "renamed.csv"))
    again = ingest(home, "sales", [renamed])
    assert again.repeated
    assert not first.repeated
    for name in ("received", "accepted", "quarantined", "duplicate", "late", "reasons"):
        assert getattr(again, name) == getattr(first, name)
    assert (again.snapshot, again.ingest) == (first.snapshot, first.ingest)
    assert len(list_snapshots(home, "sales")) == 1


def test_known_files_among_new_ones_are_not_read_again(home: Home, tmp_path: Path) -> None:
    """Of a growing folder only what is new is ingested, and what was skipped is said."""
    folder = tmp_path / "in"
    folder.mkdir()
    _file(folder, "1.csv", _row(1))
    (folder / "README").write_text("about")
    first = ingest(home, "sales", [folder], options=OPTIONS)
    assert [one.kind for one in first.anomalies] == ["ignored_file"]
    _file(folder, "2.csv", _row(2))
    shutil.copy(folder / "2.csv", folder / "3.csv")
    second = ingest(home, "sales", [folder])
    assert (second.received, second.repeated) == (1, False)
    assert {one.kind for one in second.anomalies} == {"ignored_file", "repeated_source"}
    both = ingest(home, "sales", [folder])
    assert (both.received, both.accepted, both.repeated) == (2, 2, True)


def test_types_survive_a_few_bad_rows(home: Home, tmp_path: Path) -> None:
    """The first ingest freezes the majority's types, and holds what is not of them."""
    rows = [_row(i) for i in range(60)]
    rows[7] = rows[7].replace("1.5", "oops")
    ingest(home, "sales", [_file(tmp_path, "1.csv", *rows)], options=OPTIONS)
    schema = get_schema(home, "sales")
    assert [column.type for column in schema.columns] == ["int64", "timestamp", "string", "float64"]
    assert [column.required for column in schema.columns] == [True, True, False, False]
    assert schema.columns[2].values == ("a",)


def test_a_new_value_is_accepted_and_told(home: Home, tmp_path: Path) -> None:
    """An inferred domain warns; made strict by a person, it holds."""
    ingest(home, "sales", [_file(tmp_path, "1.csv", *(_row(i) for i in range(60)))])
    second = ingest(home, "sales", [_file(tmp_path, "2.csv", _row(100, kind="b"))])
    assert second.accepted == 1
    assert [(one.kind, one.column) for one in second.anomalies] == [
        ("ENUM_TYPE_UNEXPECTED_STRING_VALUES", "kind")
    ]
    strict = Column(name="kind", values=("a",), domain_strict=True)
    set_schema(home, "sales", Schema(columns=(strict,)))
    rows = [_row(200, kind="c"), _row(201), _row(202)]
    third = ingest(home, "sales", [_file(tmp_path, "3.csv", *rows)])
    assert (third.accepted, third.reasons) == (2, {"not_in_domain": 1})


def test_ranges_come_from_a_person(home: Home, tmp_path: Path) -> None:
    """A TOML given with the first ingest declares ranges; the rest is inferred."""
    (tmp_path / "schema.toml").write_text("[columns.amount]\nmin = 0\nmax = 10\n")
    rows = [_row(1, amount="5"), _row(2, amount="-1"), _row(3, amount="10"), _row(4, amount="")]
    path = _file(tmp_path, "1.csv", *rows)
    result = ingest(home, "sales", [path], schema=tmp_path / "schema.toml")
    assert (result.accepted, result.reasons) == (3, {"out_of_range": 1})
    amount = get_schema(home, "sales").column("amount")
    assert amount is not None
    assert (amount.type, amount.min, amount.max) == ("int64", 0, 10)
    (group,) = list_held(home, "sales")
    assert (group.rule, group.example, group.rows) == ("amount >= 0", "-1", 1)


def test_a_bad_batch_is_refused_and_recorded(home: Home, tmp_path: Path) -> None:
    """Too many bad rows: nothing is accepted, every row is held, the same call says the same."""
    rows = [_row(i) for i in range(9)]
    ingest(home, "sales", [_file(tmp_path, "1.csv", *rows)], options=OPTIONS)
    bad = _file(tmp_path, "2.csv", *(_row(i, amount="x") for i in range(20, 24)), _row(30))
    result = _balanced(ingest(home, "sales", [bad]))
    assert result.refused is not None
    assert "4 of 5 rows are bad (4 wrong_type: amount is float64)" in result.refused
    assert (result.snapshot, result.quarantined) == (None, 5)
    assert result.reasons == {"batch_refused": 1, "wrong_type": 4}
    again = ingest(home, "sales", [bad])
    assert (again.repeated, again.refused, again.reasons) == (True, result.refused, result.reasons)
    assert len(list_snapshots(home, "sales")) == 1


def test_a_refused_batch_is_judged_anew_under_other_rules(home: Home, tmp_path: Path) -> None:
    """After a person changed the options the same file is ingested, and its held rows replaced."""
    rows = [*(_row(i, amount="x") for i in range(3)), _row(9)]
    ingest(home, "sales", [_file(tmp_path, "0.csv", _row(100))], options=OPTIONS)
    bad = _file(tmp_path, "1.csv", *rows)
    assert ingest(home, "sales", [bad]).refused
    assert sum(group.rows for group in list_held(home, "sales")) == 4
    lenient = msgspec.structs.replace(OPTIONS, max_bad_fraction=1.0)
    result = ingest(home, "sales", [bad], options=lenient)
    assert (result.refused, result.accepted, result.quarantined) == (None, 1, 3)
    assert sum(group.rows for group in list_held(home, "sales")) == 3
    assert ingest(home, "sales", [bad]).repeated


def test_a_missing_column_refuses_every_file(home: Home, tmp_path: Path) -> None:
    """Files that came together are held together; a new column is only told."""
    ingest(home, "sales", [_file(tmp_path, "1.csv", _row(1))], options=OPTIONS)
    (tmp_path / "2.csv").write_text("id,when,kind\n5,2013-01-01,a\n")
    good = _file(tmp_path, "3.csv", _row(2), _row(3))
    result = _balanced(ingest(home, "sales", [tmp_path / "2.csv", good]))
    assert result.refused is not None
    assert "column amount of dataset 'sales' is missing" in result.refused
    assert result.reasons == {"batch_refused": 2, "missing_column": 1}
    (tmp_path / "4.csv").write_text("extra,amount,kind,when,id\n0,1,a,2013-01-01T05:00:00Z,7\n")
    result = ingest(home, "sales", [tmp_path / "4.csv", good])
    assert result.accepted == 3
    assert [one.column for one in result.anomalies] == ["extra"]
    (group,) = list_held(home, "sales")
    assert (group.reason, group.rows) == ("missing_column", 1)
    assert show_held(home, "sales").column("line").to_pylist() == [2]


LABELLED = Schema(
    columns=(
        Column(name="id", type="int64"),
        Column(name="label", type="bool", required=True, not_in_environment=("serving",)),
    ),
    default_environment=("training", "serving"),
)


def test_a_label_is_required_in_training_and_absent_in_serving(home: Home, tmp_path: Path) -> None:
    """One schema judges both: served rows lack the label, training rows must not."""
    (tmp_path / "served.csv").write_text("id\n1\n2\n")
    (tmp_path / "more.csv").write_text("id\n3\nx\n")
    served = DatasetOptions(environment="serving")
    result = ingest(home, "served", [tmp_path / "served.csv"], options=served, schema=LABELLED)
    assert (result.accepted, result.refused, result.anomalies) == (2, None, ())
    later = ingest(home, "served", [tmp_path / "more.csv"])
    assert (later.accepted, later.reasons) == (1, {"wrong_type": 1})
    assert validate_snapshot(home, "served", environment="serving").report.anomalies == ()
    found = validate_snapshot(home, "served", environment="training").report.anomalies
    assert [(one.kind, one.column) for one in found] == [("FEATURE_TYPE_NOT_PRESENT", "label")]
    for options in (DatasetOptions(), DatasetOptions(environment="training")):
        name = options.environment or "all"
        path = [tmp_path / "served.csv"]
        result = ingest(home, name, path, options=options, schema=LABELLED)
        assert result.reasons == {"missing_column": 2}
    with pytest.raises(InvalidInput, match="no environment 'nowhere'"):
        wrong = DatasetOptions(environment="nowhere")
        ingest(home, "wrong", [tmp_path / "served.csv"], options=wrong, schema=LABELLED)


def test_a_first_batch_that_is_refused_freezes_nothing(home: Home, tmp_path: Path) -> None:
    """The schema is that of the first snapshot, not of the first attempt."""
    (tmp_path / "1.csv").write_text("a,b\n1\n2\n3,x\n")
    assert ingest(home, "sales", [tmp_path / "1.csv"]).refused
    with pytest.raises(NotFound, match="no schema yet"):
        get_schema(home, "sales")
    assert ingest(home, "sales", [_file(tmp_path, "2.csv", _row(1))]).accepted == 1
    assert get_schema(home, "sales").names == ("id", "when", "kind", "amount")


def test_key_and_time_are_frozen_and_other_options_are_not(home: Home, tmp_path: Path) -> None:
    """Earlier keys and times were judged by them; the rest may change from now on."""
    ingest(home, "sales", [_file(tmp_path, "1.csv", _row(1))], options=OPTIONS)
    second = _file(tmp_path, "2.csv", _row(2))
    for changed in (DatasetOptions(), DatasetOptions(key=("id",)), DatasetOptions(time="when")):
        with pytest.raises(Conflict, match="since its first snapshot"):
            ingest(home, "sales", [second], options=changed)
    with pytest.raises(InvalidInput, match="max_bad_fraction"):
        ingest(home, "sales", [second], options=DatasetOptions(max_bad_fraction=2))
    new = msgspec.structs.replace(OPTIONS, lateness_s=None)
    ingest(home, "sales", [second], options=new)
    assert get_dataset(home, "sales").options == new


def test_key_and_time_must_be_columns(home: Home, tmp_path: Path) -> None:
    """A column that isn't there, or is no time, is an error before anything is recorded."""
    path = _file(tmp_path, "1.csv", _row(1))
    for options, message in (
        (DatasetOptions(key=("nope",)), "'nope' is not among the columns"),
        (DatasetOptions(time="kind"), "'kind' is string"),
    ):
        with pytest.raises(InvalidInput, match=message):
            ingest(home, "sales", [path], options=options)
    assert list_datasets(home) == []


def test_parquet_is_read_with_its_types(home: Home, tmp_path: Path) -> None:
    """A typed file keeps its types; held rows are kept as JSON."""
    table = pa.table(
        {
            "id": pa.array([1, 2, 2, 3], pa.int32()),
            "score": pa.array([0.5, None, 0.1, float("nan")], pa.float32()),
            "day": pa.array([1, 2, 3, 4], pa.date32()),
            "nothing": pa.nulls(4),
        }
    )
    pq.write_table(table, tmp_path / "1.parquet")
    result = _balanced(
        ingest(home, "typed", [tmp_path / "1.parquet"], options=DatasetOptions(key=("id",)))
    )
    assert (result.accepted, result.reasons) == (2, {"duplicate": 1, "not_finite": 1})
    assert [one.kind for one in result.anomalies] == [
        "UNEXPECTED_DATA_TYPE",
        "FEATURE_TYPE_NOT_PRESENT",
    ]
    (held,) = show_held(home, "typed", kind="duplicate").to_pylist()
    assert held["line"] == 3
    assert '"id": 2' in held["row"]
    (tmp_path / "2.csv").write_text("id,score,day,nothing\n9,1.0,2013-01-01,\n")
    assert ingest(home, "typed", [tmp_path / "2.csv"]).accepted == 1


def test_a_later_file_of_other_types_is_held_not_raised(home: Home, tmp_path: Path) -> None:
    """Nested, binary and out-of-calendar values of a later Parquet file are wrong values."""
    pq.write_table(
        pa.table({"n": [1], "t": pa.array([0], pa.timestamp("ms")), "s": ["x"]}),
        tmp_path / "1.parquet",
    )
    ingest(home, "odd", [tmp_path / "1.parquet"])
    far = pa.array([1 << 60], pa.timestamp("ms"))
    pq.write_table(pa.table({"n": [[1]], "t": far, "s": [b"\xff"]}), tmp_path / "2.parquet")
    result = ingest(home, "odd", [tmp_path / "2.parquet"])
    assert result.reasons == {"wrong_type": 1}
    assert [one.kind for one in result.anomalies] == ["UNEXPECTED_DATA_TYPE"] * 3


def test_snapshots_are_listed_read_and_queried(home: Home, tmp_path: Path) -> None:
    """A snapshot's rows, statistics and files are there for Arrow and DuckDB."""
    for i in (1, 2):
        rows = [_row(10 * i + j, amount=str(j)) for j in range(5)]
        ingest(home, "sales", [_file(tmp_path, f"{i}.csv", *rows)], options=OPTIONS)
    first, second = list_snapshots(home, "sales")
    assert (first.sequence, second.sequence, first.rows) == (1, 2, 5)
    assert get_snapshot(home, second.id) == second
    amount = read_statistics(home, second).column("amount")
    assert amount is not None
    assert (amount.mean, amount.count) == (2.0, 5)
    paths = [str(path) for path in snapshot_paths(home, [first, second.id])]
    total = duckdb.execute("select sum(amount), count(*) from read_parquet(?)", [paths]).fetchone()
    assert total == (20, 10)
    assert read_snapshot(home, first).column_names == ["id", "when", "kind", "amount"]
    with pytest.raises(InvalidInput, match="no column 'x'"):
        read_snapshot(home, first, columns=["x"])
    with pytest.raises(NotFound, match="does not exist"):
        get_snapshot(home, "0" * 16)
    with pytest.raises(NotFound, match="Known datasets: sales"):
        list_snapshots(home, "sails")


def test_a_damaged_snapshot_is_not_read(home: Home, tmp_path: Path) -> None:
    """Bytes that changed on disk are found before they are used."""
    result = ingest(home, "sales", [_file(tmp_path, "1.csv", _row(1))])
    assert result.snapshot is not None
    (path,) = snapshot_paths(home, [result.snapshot])
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupted, match=result.snapshot):
        read_snapshot(home, result.snapshot)


def test_the_same_files_make_the_same_snapshot_anywhere(home: Home, tmp_path: Path) -> None:
    """A snapshot's id depends on content, not on paths or times."""
    path = _file(tmp_path, "1.csv", _row(1), _row(2))
    one = ingest(home, "sales", [path])
    moved = Path(shutil.move(path, tmp_path / "2.csv"))
    shutil.rmtree(home.path / "files")
    home.close()
    (home.path / "store.db").unlink()
    for name in ("store.db-wal", "store.db-shm"):
        (home.path / name).unlink(missing_ok=True)
    assert ingest(home, "sales", [moved]).snapshot == one.snapshot


def test_progress_ends_at_the_whole(home: Home, tmp_path: Path) -> None:
    """Progress never goes back within a pass and ends at all bytes of all files."""
    paths = [_file(tmp_path, f"{i}.csv", *(_row(10 * i + j) for j in range(5))) for i in (1, 2)]
    seen: list[tuple[int, int]] = []
    ingest(home, "sales", paths, progress=lambda done, total: seen.append((done, total)))
    total = sum(path.stat().st_size for path in paths)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_held_rows_are_shown_by_reason_and_limit(home: Home, tmp_path: Path) -> None:
    """The newest ingest comes first; filters and limits are kept."""
    options = msgspec.structs.replace(OPTIONS, max_bad_fraction=1.0)
    for i in (1, 2):
        rows = [_row(10 * i), _row(10 * i), _row(10 * i + 1, amount="x"), "short\n"]
        good = [_row(10 * i + j) for j in range(2, 8)]
        ingest(home, "sales", [_file(tmp_path, f"{i}.csv", *good, *rows)], options=options)
    assert show_held(home, "sales", limit=4).num_rows == 4
    assert show_held(home, "sales", reason="duplicate").num_rows == 2
    assert show_held(home, "sales", limit=1).column("source")[0].as_py().endswith("2.csv")
    assert show_held(home, "sales", limit=0).num_rows == 0
    with pytest.raises(InvalidInput, match="negative"):
        show_held(home, "sales", limit=-1)
    with pytest.raises(NotFound, match="'nope'"):
        show_held(home, "nope")
