"""Reads CSV (plain, gzip, zip) as a stream of batches of text.

Every row comes out once: in a batch's table, or among its unreadable rows with line number, text
and reason:

    wrong_fields  more or fewer fields than the header
    open_quote    a quote that isn't closed, or text behind a closing quote
    too_long      a record of more than 1 MiB (of held rows the first 64 KiB are kept)
    binary        a NUL byte
    encoding      bytes that aren't text in the declared encoding

A file whose last line has no line end may have been cut in its last field; that can't be told
from a file written so, and is said as an anomaly, not held.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from tidemill.data.batches import Batch, Progress, SourceFile, Unreadable, check_names
from tidemill.data.csv_records import MAX_RECORD_BYTES, Ints, Records, split
from tidemill.data.records import Anomaly, DatasetOptions
from tidemill.data.text_stream import Stream, open_text
from tidemill.foundation.errors import InvalidInput

BLOCK_BYTES = 4 << 20
HELD_TEXT_BYTES = 64 << 10


def read_csv(file: SourceFile, options: DatasetOptions, progress: Progress) -> Iterator[Batch]:
    """Yields the rows of a CSV file, text as it is there, at least one batch.

    Raises:
        InvalidInput: it is empty, truncated, not text, or has no header.
    """
    with open_text(file, options, progress) as stream:
        names: list[str] | None = None
        for piece in _pieces(stream, options.delimiter):
            first = names is None
            names = names or _header(file.name, piece.records, options)
            yield _text_batch(piece, names, options.delimiter, header=first)
        if names is None:
            raise InvalidInput(f"{file.name} is empty", remedy="Check how it was written.")


def read_rows(texts: Sequence[str], lines: Ints, *, names: Sequence[str], delimiter: str) -> Batch:
    """Returns rows that were kept as text as a batch: each text is one row, whatever is in it.

    Args:
        texts: without line ends.
        lines: the line of each in its file.  # (rows,)
        names: of the file's columns.
        delimiter: between fields.
    """
    rows = [text.encode("utf-8", "surrogatepass") for text in texts]
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    starts = np.cumsum(sizes + 1) - sizes - 1
    data = b"\n".join(rows)
    whole = split(data, delimiter=delimiter, final=True)
    fields, problems = whole.fields, whole.problems
    alike = np.array_equal(whole.starts, starts) and np.array_equal(whole.ends, starts + sizes)
    if problems or not alike:  # a quote of one row may have taken others with it
        fields, problems = _one_by_one(rows, delimiter)
    records = Records(
        data=data,
        starts=starts,
        ends=starts + sizes,
        lines=np.asarray(lines, np.int64),
        fields=fields,
        problems=problems,
        used=len(data),
        line=0,
    )
    return _text_batch(_Piece(records=records), list(names), delimiter, header=False)


def _one_by_one(rows: Sequence[bytes], delimiter: str) -> tuple[Ints, dict[int, str]]:
    fields = np.zeros(len(rows), np.int64)
    problems: dict[int, str] = {}
    for index, row in enumerate(rows):
        found = split(row, delimiter=delimiter, final=True)
        if len(found.starts) == 1 and not found.problems and found.bytes_of(0) == row:
            fields[index] = found.fields[0]
        else:
            problems[index] = "open_quote"
    return fields, problems


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    records: Records
    unreadable: tuple[Unreadable, ...] = ()
    cut: bool = False  # the file ends in the middle of a line


def _pieces(stream: Stream, delimiter: str) -> Iterator[_Piece]:
    rest = b""
    line = 1
    skipping = False
    final = False
    while not final:
        data = stream.read(BLOCK_BYTES)
        final = not data
        data = rest + data
        if line == 1 and not rest:
            data = data.removeprefix(codecs.BOM_UTF8)
        if skipping:
            skipping, line, data = _skip_line(data, line, final=final)
        records = split(data, delimiter=delimiter, final=final, line=line)
        rest, line = data[records.used :], records.line
        unreadable: tuple[Unreadable, ...] = ()
        if not final and len(rest) > MAX_RECORD_BYTES:
            unreadable = (_too_long(rest, line),)
            rest, skipping = b"", True
        if len(records.starts) or unreadable:
            cut = final and not data.endswith((b"\n", b"\r"))
            yield _Piece(records=records, unreadable=unreadable, cut=cut)


def _skip_line(data: bytes, line: int, *, final: bool) -> tuple[bool, int, bytes]:
    found = data.find(b"\n")
    if found < 0:
        return not final, line, b""
    return False, line + 1, data[found + 1 :]


def _too_long(data: bytes, line: int) -> Unreadable:
    return Unreadable(
        line=line, reason="too_long", rule=_RULES["too_long"], text=_text(data[:HELD_TEXT_BYTES])
    )


_RULES = {
    "open_quote": "quotes around a field are closed before a delimiter or a line end",
    "too_long": f"a record has at most {MAX_RECORD_BYTES} bytes",
    "binary": "text has no NUL byte",
    "encoding": "text is in the declared encoding",
}


def _header(path: str, records: Records, options: DatasetOptions) -> list[str]:
    """Returns the column names in the first record."""
    line = records.bytes_of(0) if len(records.starts) else b"\0"
    if line[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise InvalidInput(f"{path} is UTF-16", remedy="Give --encoding utf-16.")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the header of {path} is not {options.encoding}: {error.reason}",
            remedy="If it is a CSV file, give its --encoding: latin-1, cp1252, …",
        ) from error
    if "\0" in text or 0 in records.problems:
        raise InvalidInput(
            f"{path} is not a CSV file: its first line is not a line of text",
            remedy="Give CSV (plain, .gz, .zip) or Parquet.",
        )
    parsed = csv.reader(io.StringIO(text, newline=""), delimiter=options.delimiter)
    try:
        names = [name.strip() for name in next(parsed)]
    except csv.Error as error:
        raise InvalidInput(
            f"the header of {path} cannot be read: {error}",
            remedy="Give CSV (plain, .gz, .zip) or Parquet.",
        ) from error
    if len(names) == 1 and any(other in text for other in ";\t|"):
        raise InvalidInput(
            f"{path} has one column, {text[:80]!r}",
            remedy="If its fields are separated by something else, give that as --delimiter.",
        )
    _check_header(path, names)
    return names


def _check_header(path: str, names: list[str]) -> None:
    numbers = [name for name in names if _is_number(name)]
    if len(numbers) * 2 > len(names) or (len(numbers) > 1 and len(set(numbers)) < len(numbers)):
        raise InvalidInput(
            f"{path} has no header: its first line begins {','.join(names)[:80]!r}",
            remedy="Write the column names as the first line.",
        )
    check_names(path, names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text_batch(piece: _Piece, names: list[str], delimiter: str, *, header: bool) -> Batch:
    records = piece.records
    problems = _problems(records, len(names))
    rows = np.ones(len(records.starts), np.bool_)
    rows[list(problems)] = False
    if header:
        rows[0] = False
        problems.pop(0, None)
    good = np.flatnonzero(rows)
    table = _parse(_bytes_of(records, good), names, delimiter, len(good))
    unreadable = [
        Unreadable(
            line=int(records.lines[index]),
            reason=reason,
            rule=rule,
            value=f"{records.fields[index]} fields" if reason == "wrong_fields" else None,
            text=_text(records.bytes_of(index)[:HELD_TEXT_BYTES]),
        )
        for index, (reason, rule) in problems.items()
    ]

    def texts(indices: Ints) -> list[str]:
        return [_text(records.bytes_of(index)) for index in good[indices].tolist()]

    return Batch(
        table=table,
        lines=records.lines[good],
        unreadable=(*unreadable, *piece.unreadable),
        texts=texts,
        form="csv",
        delimiter=delimiter,
        notes=(_NO_FINAL_NEWLINE,) if piece.cut and len(good) else (),
    )


_NO_FINAL_NEWLINE = Anomaly(
    kind="no_final_newline",
    severity="warning",
    message="the last line has no line end: its last field may be cut",
    rows=1,
)


def _problems(records: Records, width: int) -> dict[int, tuple[str, str]]:
    """Returns (reason, rule) by index of each record that isn't a row."""
    wrong = np.flatnonzero(records.fields != width).tolist()
    found = dict.fromkeys(wrong, ("wrong_fields", f"a row has {width} fields"))
    found.update({i: (reason, _RULES[reason]) for i, reason in records.problems.items()})
    for index in _undecodable(records):
        found[index] = ("encoding", _RULES["encoding"])
    if b"\0" in records.data:
        for index in range(len(records.starts)):
            if b"\0" in records.bytes_of(index):
                found[index] = ("binary", _RULES["binary"])
    return dict(sorted(found.items()))


def _undecodable(records: Records) -> list[int]:
    if records.data.isascii() or _decodes(records.data[: records.used]):
        return []
    return [i for i in range(len(records.starts)) if not _decodes(records.bytes_of(i))]


def _decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bytes_of(records: Records, rows: Ints) -> bytes:
    """Returns the records at some indices, one after the other, in as few copies as possible."""
    if not len(rows):
        return b""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    runs = np.split(rows, breaks)
    view = memoryview(records.data)
    return b"\n".join(view[int(records.starts[r[0]]) : int(records.ends[r[-1]])] for r in runs)


def _parse(data: bytes, names: list[str], delimiter: str, rows: int) -> pa.Table:
    if not rows:
        return pa.table({name: pa.array([], pa.string()) for name in names})
    table = pa_csv.read_csv(
        pa.BufferReader(data + b"\n"),
        read_options=pa_csv.ReadOptions(column_names=names, block_size=len(data) + 2),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=False,
            check_utf8=False,
        ),
    )
    if table.num_rows != rows:
        raise InvalidInput(
            f"{rows} records of a CSV file were read as {table.num_rows} rows",
            remedy="Report this with the file: two readers of CSV disagree about it.",
        )
    return table


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
