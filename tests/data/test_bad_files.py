"""Everything that can be wrong with a file ends as a clear error or as held rows with reasons."""

from __future__ import annotations

import gzip
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.data import arrow_source, csv_source, gate
from tidemill.data.catalog import list_datasets
from tidemill.data.held_rows import show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult
from tidemill.data.snapshots import read_snapshot
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings

GOOD = "id,name,score\n" + "".join(f"{i},n{i},{i}.5\n" for i in range(20))
LENIENT = DatasetOptions(max_bad_fraction=1.0)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _zip(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"{name}.csv", text)
    return path


def _cut(path: Path, at: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * at)])
    return path


def _parquet(path: Path) -> Path:
    pq.write_table(pa.table({"id": list(range(5000))}), path)
    return path


def _gz(path: Path) -> Path:
    return _write(path, gzip.compress(GOOD.encode()))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda p: _write(p / "a.csv", b""), "is empty"),
    "only blank lines": (lambda p: _write(p / "a.csv", b"\n\r\n\n"), "is empty"),
    "only a mark": (lambda p: _write(p / "a.csv", b"\xef\xbb\xbf"), "is empty"),
    "only a header": (lambda p: _write(p / "a.csv", b"id,name\n"), "a header and no rows"),
    "no header": (lambda p: _write(p / "a.csv", b"1,2013,x\n2,2013,y\n"), "has no header"),
    "no header, twins": (lambda p: _write(p / "a.csv", b"a,1,1,x,y\nb,1,1,x,y\n"), "no header"),
    "a nameless column": (lambda p: _write(p / "a.csv", b",id\n0,1\n"), "column 1 .* no name"),
    "twin columns": (lambda p: _write(p / "a.csv", b"id,id\n0,1\n"), "two columns 'id'"),
    "another delimiter": (lambda p: _write(p / "a.csv", b"a;b\n1;2\n"), "has one column"),
    "junk": (lambda p: _write(p / "a.csv", bytes(range(256)) * 100), "not (utf-8|a CSV)"),
    "NUL bytes": (lambda p: _write(p / "a.csv", b"a,\0b\n1,2\n"), "not a CSV file"),
    "an open quote": (lambda p: _write(p / "a.csv", b'"id,name\n1,2\n'), "not a CSV file"),
    "an endless line": (lambda p: _write(p / "a.csv", b"x" * (6 << 20)), "not a CSV file"),
    "UTF-16": (lambda p: _write(p / "a.csv", GOOD.encode("utf-16")), "is UTF-16"),
    "a Latin-1 header": (lambda p: _write(p / "a.csv", b"id,n\xe4me\n1,2\n"), "not utf-8"),
    "an empty .gz": (lambda p: _write(p / "a.csv.gz", b""), "is empty"),
    "a false .gz": (lambda p: _write(p / "a.csv.gz", GOOD.encode()), "named .gz"),
    "a cut .gz": (lambda p: _cut(_gz(p / "a.csv.gz"), 0.5), "broken archive"),
    "a .gz without its end": (lambda p: _cut(_gz(p / "a.csv.gz"), 0.99), "broken archive"),
    "a cut .zip": (lambda p: _cut(_zip(p / "a.zip", a=GOOD), 0.5), "broken archive"),
    "a .zip of two": (lambda p: _zip(p / "a.zip", a=GOOD, b=GOOD), "holds 2 files"),
    "a .zip of none": (lambda p: _zip(p / "a.zip"), "holds 0 files"),
    "a cut .parquet": (lambda p: _cut(_parquet(p / "a.parquet"), 0.9), "broken Parquet"),
    "an empty .parquet": (lambda p: _write(p / "a.parquet", b""), "is empty"),
    "a false .parquet": (lambda p: _write(p / "a.parquet", GOOD.encode()), "is not Parquet"),
    "a folder without data": (lambda p: p, "holds no data file"),
    "a device": (lambda _: Path("/dev/null"), "is not a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_a_clear_error(name: str, home: Home, tmp_path: Path) -> None:
    """The error names the file and a remedy, and nothing is recorded."""
    make, message = REFUSED[name]
    folder = tmp_path / "in"
    folder.mkdir()
    path = make(folder)
    with pytest.raises(InvalidInput, match=message) as caught:
        ingest(home, "x", [path])
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert list_datasets(home) == []
    assert not any((home.cache_path).glob("ingest/*"))


def test_what_is_not_there_is_not_found(home: Home, tmp_path: Path) -> None:
    """A missing file, no file at all and a URL are named as such."""
    with pytest.raises(NotFound, match=r"nowhere\.csv does not exist"):
        ingest(home, "x", [tmp_path / "nowhere.csv"])
    with pytest.raises(InvalidInput, match="no file was named"):
        ingest(home, "x", [])
    with pytest.raises(InvalidInput, match="source 'https' is not read here"):
        ingest(home, "x", ["https://example.org/a.csv"])
    with pytest.raises(InvalidInput, match=r"name '\.\./x' is not"):
        ingest(home, "../x", [tmp_path])


def test_a_file_damaged_inside_is_a_clear_error(home: Home, tmp_path: Path) -> None:
    """A flipped byte in compressed or columnar data is found, wherever it is."""
    for make, name in ((_gz, "a.csv.gz"), (_parquet, "a.parquet")):
        path = make(tmp_path / name)
        whole = path.read_bytes()
        for at in range(len(whole) // 10, len(whole), len(whole) // 10):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            try:
                result = ingest(home, f"x{name}{at}", [path], options=LENIENT)
            except InvalidInput:
                continue
            _conserved(home, result)


HELD: dict[str, tuple[bytes, dict[str, int], int]] = {
    "a cut last row": (GOOD.encode()[:-8], {"wrong_fields": 1}, 19),
    "a cut last quote": (GOOD.encode() + b'20,"na', {"open_quote": 1}, 20),
    "a stray quote": (GOOD.replace("n7", '"n7').encode(), {"open_quote": 1}, 19),
    "text behind a quote": (GOOD.replace("n7", '"n7"7').encode(), {"open_quote": 1}, 19),
    "a field too many": (GOOD.replace("n7", "n7,n").encode(), {"wrong_fields": 1}, 19),
    "Latin-1": (GOOD.replace("n7", "ä").encode("latin-1"), {"encoding": 1}, 19),
    "a NUL byte": (GOOD.replace("n7", "n\0").encode(), {"binary": 1}, 19),
    "not a number": (GOOD.replace(",7.5", ",NaN").encode(), {"not_finite": 1}, 19),
    "infinity": (GOOD.replace(",7.5", ",-inf").encode(), {"not_finite": 1}, 19),
    "a wrong type": (GOOD.replace(",7.5", ",7,5").encode(), {"wrong_fields": 1}, 19),
    "a word": (GOOD.replace(",7.5", ",seven").encode(), {"wrong_type": 1}, 19),
    "a huge field": (GOOD.replace("n7", "n" * (2 << 20)).encode(), {"too_long": 1}, 19),
    "an endless field": (GOOD.replace("n7", "n" * (9 << 20)).encode(), {"too_long": 1}, 19),
    "a second header": ((GOOD + GOOD[:14]).encode(), {"wrong_type": 1}, 20),
    "a mark": (b"\xef\xbb\xbf" + GOOD.encode(), {}, 20),
    "CRLF": (GOOD.replace("\n", "\r\n").encode(), {}, 20),
    "blank lines": (GOOD.replace("\n", "\n\n").encode(), {}, 20),
    "a quoted newline": (GOOD.replace("n7", '"n\n7"').encode(), {}, 20),
}


@pytest.mark.parametrize("name", HELD)
def test_bad_rows_are_held_and_good_ones_kept(name: str, home: Home, tmp_path: Path) -> None:
    """One bad row costs one row; what only looks odd costs none."""
    data, reasons, accepted = HELD[name]
    result = ingest(home, "x", [_write(tmp_path / "a.csv", data)])
    assert (result.reasons, result.accepted) == (reasons, accepted)
    _conserved(home, result)


def test_a_cut_last_field_is_told(home: Home, tmp_path: Path) -> None:
    """A last line without its end may be cut: that can't be known, so it is said."""
    result = ingest(home, "x", [_write(tmp_path / "a.csv", GOOD.encode()[:-2])])
    assert (result.accepted, [one.kind for one in result.anomalies]) == (20, ["no_final_newline"])


def test_the_lines_of_held_rows_are_right_after_quoted_newlines(home: Home, tmp_path: Path) -> None:
    """Line numbers count lines of the file, as an editor shows them."""
    data = b'id,name\n1,"a\nb"\n\n2,x\nbad\n3,"y"\n4,z,z\n'
    ingest(home, "x", [_write(tmp_path / "a.csv", data)], options=LENIENT)
    held = show_held(home, "x")
    assert held.column("line").to_pylist() == [6, 8]
    assert held.column("row").to_pylist() == ["bad", "4,z,z"]
    assert held.column("value").to_pylist() == ["1 fields", "3 fields"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252", "utf-8-sig"])
def test_other_encodings_are_read_if_declared(
    encoding: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A declared encoding is read, characters across the edges of blocks included."""
    monkeypatch.setattr(csv_source, "BLOCK_BYTES", 7)
    path = _write(tmp_path / "a.csv", GOOD.replace("n7", "Zürich").encode(encoding))
    result = ingest(home, "x", [path], options=DatasetOptions(encoding=encoding))
    assert result.accepted == 20
    assert result.snapshot is not None
    assert read_snapshot(home, result.snapshot).column("name")[7].as_py() == "Zürich"
    with pytest.raises(InvalidInput, match="'klingon' is not known"):
        ingest(home, "y", [path], options=DatasetOptions(encoding="klingon"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        *(
            ({"encoding": name}, f"encoding {name[:40]!r} is not known")
            for name in (
                *("hex", "base64", "zlib", "bz2", "quopri", "uu", "rot13", "idna", "punycode"),
                *("undefined", "", "a\0b", "\ud800", "x" * 99),
            )
        ),
        *(
            ({"delimiter": sign}, f"delimiter is {sign!r}")
            for sign in ("\n", "\r", "\0", '"', "é", "\ud800")
        ),
    ],
)
def test_what_no_text_is_written_with_is_refused(
    said: dict[str, str], words: str, home: Home, tmp_path: Path
) -> None:
    """By name and value, before a file is read; nothing is recorded."""
    path = _write(tmp_path / "a.csv", GOOD.encode())
    with pytest.raises(InvalidInput, match=re.escape(words)) as told:
        ingest(home, "x", [path], options=DatasetOptions(**said))
    assert told.value.remedy
    assert list_datasets(home) == []


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("utf-16", GOOD.encode()),
        ("utf-16", GOOD.encode("utf-16")[:-1]),
        ("utf-32", GOOD.encode()),
        ("unicode_escape", GOOD.replace("n7", r"\ud800").encode()),
    ],
)
def test_bytes_that_a_declared_encoding_cannot_pass_over_are_told(
    encoding: str, content: bytes, home: Home, tmp_path: Path
) -> None:
    """With the file and the encoding; a row alone cannot be held for them."""
    path = _write(tmp_path / "a.csv", content)
    with pytest.raises(InvalidInput, match=rf"a\.csv is not text of encoding '{encoding}'"):
        ingest(home, "x", [path], options=DatasetOptions(encoding=encoding))
    assert list_datasets(home) == []


def test_compressed_files_are_what_they_hold(home: Home, tmp_path: Path) -> None:
    """Plain, gzip and zip files of the same rows give the same rows, and stay distinct files."""
    _write(tmp_path / "a.csv", GOOD.encode())
    _gz(tmp_path / "b.csv.gz")
    _zip(tmp_path / "c.zip", c=GOOD)
    for name in ("a.csv", "b.csv.gz", "c.zip"):
        result = ingest(home, name, [tmp_path / name])
        assert (result.accepted, result.reasons) == (20, {})


def test_a_header_without_rows_among_files_is_told(home: Home, tmp_path: Path) -> None:
    """One empty file of many is an anomaly, even if it comes first."""
    _write(tmp_path / "a.csv", b"id,name,score\n")
    _write(tmp_path / "b.csv", GOOD.encode())
    result = ingest(home, "x", [tmp_path])
    assert result.accepted == 20
    assert "NO_DATA_IN_SPAN" in [one.kind for one in result.anomalies]
    assert result.snapshot is not None
    assert str(read_snapshot(home, result.snapshot).schema.field("id").type) == "int64"


def test_a_file_written_to_while_it_is_read_is_a_conflict(home: Home, tmp_path: Path) -> None:
    """What was hashed and what was read must be the same bytes."""
    path = _write(tmp_path / "a.csv", GOOD.encode())

    def meddle(_done: int, _total: int) -> None:
        with path.open("a") as file:
            file.write("x\n")

    with pytest.raises(Conflict, match="written to while it was read"):
        ingest(home, "x", [path], progress=meddle)
    path.write_bytes(GOOD.encode())
    with pytest.raises(Conflict, match="written to while it was read"):
        ingest(home, "x", [path], progress=lambda done, total: os.utime(path, ns=(0, done)))
    assert list_datasets(home) == []


def test_blocks_and_parts_do_not_matter(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come out the same and in order, however they are read and filed."""
    path = _write(tmp_path / "a.csv", GOOD.replace("n7", "bad,bad").encode())
    whole = ingest(home, "whole", [path])
    monkeypatch.setattr(csv_source, "BLOCK_BYTES", 16)
    monkeypatch.setattr(arrow_source, "ROWS", 3)
    monkeypatch.setattr(gate, "ROWS_PER_FILE", 4)
    pieces = ingest(home, "pieces", [path])
    assert (pieces.accepted, pieces.reasons) == (whole.accepted, whole.reasons)
    assert pieces.snapshot is not None
    assert whole.snapshot is not None
    assert read_snapshot(home, pieces.snapshot).equals(read_snapshot(home, whole.snapshot))
    assert show_held(home, "pieces").column("line").to_pylist() == [9]


def _conserved(home: Home, result: IngestResult) -> None:
    """What is stored is what was counted, and nothing is missing."""
    held = result.quarantined + result.duplicate + result.late
    assert result.received == result.accepted + held
    assert sum(result.reasons.values()) == held
    assert show_held(home, result.dataset, ingest=result.ingest, limit=1 << 30).num_rows == held
    kept = read_snapshot(home, result.snapshot).num_rows if result.snapshot else 0
    assert kept == result.accepted


_damage = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "copy"]),
        st.integers(0, 400),
        st.binary(max_size=3)
        | st.sampled_from([b'"', b"\n", b"\r", b",", b"\0", b"\xff", b"\n\n"]),
    ),
    max_size=6,
)


def _damaged(data: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    for kind, at, other in damage:
        at = min(at, len(data))  # noqa: PLW2901
        if kind == "insert":
            data = data[:at] + other + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + len(other) :]
        elif kind == "flip":
            data = data[:at] + other + data[at + len(other) :]
        else:
            data += data[at : at + 40]
    return data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damage=_damage, later=_damage)
def test_no_damage_loses_or_doubles_a_row(
    tmp_path_factory: pytest.TempPathFactory,
    damage: list[tuple[str, int, bytes]],
    later: list[tuple[str, int, bytes]],
) -> None:
    """Whatever happens to a file, every row received is accepted or held, once, with a reason."""
    folder = tmp_path_factory.mktemp("damage")
    options = DatasetOptions(key=("id",), time="score", lateness_s=5.0, max_bad_fraction=0.9)
    with open_home(Settings(home=folder / "home")) as home:
        for name, harm in (("a.csv", damage), ("b.csv", later)):
            path = _write(folder / name, _damaged(GOOD.encode(), harm))
            try:
                result = ingest(home, "x", [path], options=options)
            except InvalidInput as error:
                assert error.remedy  # noqa: PT017 - either outcome is right
                continue
            _conserved(home, result)
            if not harm:
                assert result.received == 20
