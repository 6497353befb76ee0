from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data import csv_source
from tidemill.data.csv_records import MAX_RECORD_BYTES, split
from tidemill.data.csv_source import _pieces


def _records(data: bytes) -> list[bytes]:
    records = split(data, final=True)
    return [records.bytes_of(i) for i in range(len(records.starts))]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_ends_a_record(end: bytes) -> None:
    """LF, CRLF and CR end records; blank lines are none, yet count as lines."""
    records = split(end.join([b"a,b", b"1,2", b"", b"3,4,5", b""]), final=True)
    assert [records.bytes_of(i) for i in range(3)] == [b"a,b", b"1,2", b"3,4,5"]
    assert records.lines.tolist() == [1, 2, 4]
    assert records.fields.tolist() == [2, 2, 3]


def test_a_quoted_newline_belongs_to_its_field() -> None:
    """A quoted field may hold delimiters, quotes and line ends; the next record's line is right."""
    records = split(b'1,"x,\ny ""z"""\n2,w\n', final=True)
    assert records.fields.tolist() == [2, 2]
    assert records.lines.tolist() == [1, 3]
    assert not records.problems


def test_a_stray_quote_costs_one_row() -> None:
    """A record that can't be read gives up its first line and no other."""
    records = split(b'1,"open\n2,b\n3,"c"d\n4,5" x\n', final=True)
    assert records.problems == {0: "open_quote", 2: "open_quote"}
    assert records.fields.tolist() == [0, 2, 0, 2]
    assert records.lines.tolist() == [1, 2, 3, 4]


def test_what_is_not_whole_waits() -> None:
    """Bytes behind the last whole record are not consumed until the file ends."""
    for data, used in ((b"1,2\n3,", 4), (b'1,2\n3,"x\n4,5\n', 4), (b"1\r", 0), (b'"1"\r', 0)):
        assert split(data, final=False).used == used
        assert split(data, final=True).used == len(data)


def test_an_open_quote_is_given_up_on_in_bounded_memory() -> None:
    """A quote that stays open for over a MiB costs its line, not the rest of the file."""
    lines = b"1,2\n" * (MAX_RECORD_BYTES // 4 + 10)
    records = split(b'0,"\n' + lines, final=False)
    assert records.problems == {0: "open_quote"}
    assert len(records.starts) == MAX_RECORD_BYTES // 4 + 11


_fields = st.lists(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=4),
        min_size=2,
        max_size=3,
    ),
    max_size=6,
)


@given(rows=_fields, end=st.sampled_from(["\n", "\r\n"]))
def test_what_the_standard_library_writes_is_read_back(rows: list[list[str]], end: str) -> None:
    """Records and field counts are those that the csv module wrote."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows(rows)
    records = split(text.getvalue().encode(), final=True)
    assert records.fields.tolist() == [len(row) for row in rows]
    assert not records.problems


@given(
    data=st.lists(st.sampled_from([b"a", b",", b'"', b"\n", b"\r", b"\r\n", b"bc"]), max_size=40),
    block=st.integers(1, 9),
)
def test_the_size_of_pieces_does_not_matter(data: list[bytes], block: int) -> None:
    """A file read in pieces gives the records, lines and problems of a file read at once."""
    whole = b"".join(data)
    at_once = split(whole, final=True)
    expected = [
        (at_once.bytes_of(i), int(at_once.lines[i]), at_once.problems.get(i))
        for i in range(len(at_once.starts))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_source, "BLOCK_BYTES", block)
        found = [
            (piece.records.bytes_of(i), int(piece.records.lines[i]), piece.records.problems.get(i))
            for piece in _pieces(io.BytesIO(whole), ",")
            for i in range(len(piece.records.starts))
        ]
    assert found == expected


def test_records_are_consecutive() -> None:
    """Plain records come out as they went in."""
    assert _records(b"1,2\n3,4") == [b"1,2", b"3,4"]
