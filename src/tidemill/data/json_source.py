"""Reads JSON Lines (plain, gzip, zip) as a stream of batches of text.

Each line is one object; its names are columns, and a name that it lacks is a missing value. Values
are judged by their texts, as those of CSV are: 5 and "5" are one. An object or a list within a row
is kept as its JSON text. Every line that is not blank comes out once: in a batch's table, or among
its unreadable rows:

    not_json   not one JSON object
    too_long   a line of more than 1 MiB (the first 64 KiB are kept)
    encoding   bytes that aren't text in the declared encoding
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tidemill.data.batches import (
    MAX_COLUMNS,
    Batch,
    Progress,
    SourceFile,
    Unreadable,
    check_names,
)
from tidemill.data.csv_records import MAX_RECORD_BYTES, Ints
from tidemill.data.csv_source import HELD_TEXT_BYTES
from tidemill.data.records import DatasetOptions
from tidemill.data.text_stream import Stream, open_text
from tidemill.foundation.errors import InvalidInput

BLOCK_BYTES = 4 << 20

_LARGE = re.compile(rb"[0-9]{19}")

_RULES = {
    "not_json": "a line is one JSON object",
    "too_long": f"a line has at most {MAX_RECORD_BYTES} bytes",
    "encoding": "text is in the declared encoding",
}


def read_json_lines(
    file: SourceFile, options: DatasetOptions, progress: Progress
) -> Iterator[Batch]:
    """Yields the rows of a file, at least one batch; the file is read twice, for its names first.

    Raises:
        InvalidInput: it is empty, truncated, not text, or none of its lines is an object.
    """
    names = _names(file, options, lambda done, total: progress(done // 2, total))

    def second(done: int, total: int) -> None:
        progress(total // 2 + done // 2, total)

    with open_text(file, options, second) as stream:
        for block in _blocks(stream):
            yield _batch(block, names, exact=options.key)


def read_objects(texts: Sequence[str], lines: Ints, names: Sequence[str]) -> Batch:
    """Returns rows that were kept as JSON objects as a batch; each text is one row.

    Args:
        texts: of the rows.
        lines: the line of each in its file.  # (rows,)
        names: of the file's columns.
    """
    rows = [text.encode("utf-8", "surrogatepass") for text in texts]
    block = [_Line(number=int(n), data=row) for n, row in zip(lines, rows, strict=True)]
    return _batch(block, list(names), exact=names)


def object_batch(rows: Sequence[Mapping[str, Any]], names: Sequence[str], before: int) -> Batch:
    """Returns objects as a batch, numbered after those before, their values as texts.

    Args:
        rows: what each column holds: null, numbers, booleans, texts, lists and objects of these.
        names: of the columns.
        before: how many rows came before.
    """

    def texts(indices: Ints) -> list[str]:
        return [json.dumps(rows[i], ensure_ascii=False) for i in indices.tolist()]

    lines = np.arange(before + 1, before + 1 + len(rows), dtype=np.int64)
    return Batch(table=_table(rows, names), lines=lines, texts=texts, form="json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    number: int
    data: bytes
    too_long: bool = False


def _blocks(stream: Stream) -> Iterator[list[_Line]]:
    """Yields the lines that are not blank, with their numbers, in bounded memory."""
    rest, number, skipping, final = b"", 1, False, False
    while not final:
        data = stream.read(BLOCK_BYTES)
        final = not data
        *whole, rest = (rest + data).split(b"\n")
        if number == 1 and whole:
            whole[0] = whole[0].removeprefix(codecs.BOM_UTF8)
        if final:
            whole, rest = [*whole, rest.removeprefix(codecs.BOM_UTF8) if number == 1 else rest], b""
        block: list[_Line] = []
        for line in whole:
            if not skipping and line.strip():
                too_long = len(line) > MAX_RECORD_BYTES
                block.append(_Line(number=number, data=line.rstrip(b"\r"), too_long=too_long))
            skipping = False
            number += 1
        if len(rest) > MAX_RECORD_BYTES:
            if not skipping:
                block.append(_Line(number=number, data=rest[:HELD_TEXT_BYTES], too_long=True))
            rest, skipping = b"", True
        if block:
            yield block


def _names(file: SourceFile, options: DatasetOptions, progress: Progress) -> list[str]:
    """Returns the names that any object of a file has, in the order of their first use."""
    names: dict[str, None] = {}
    lines = 0
    with open_text(file, options, progress) as stream:
        for block in _blocks(stream):
            lines += len(block)
            for line in block:
                found = _parse(line)
                if isinstance(found, dict):
                    names.update(dict.fromkeys(found))
                if len(names) > MAX_COLUMNS:
                    check_names(file.name, list(names))
    if not lines:
        raise InvalidInput(f"{file.name} is empty", remedy="Check how it was written.")
    if not names:
        raise InvalidInput(
            f"no line of {file.name} is a JSON object with a name",
            remedy="Write JSON Lines: one object on each line.",
        )
    check_names(file.name, list(names))
    return list(names)


def _batch(block: Sequence[_Line], names: list[str], *, exact: Sequence[str]) -> Batch:
    rows: list[dict[str, Any]] = []
    kept: list[_Line] = []
    unreadable: list[Unreadable] = []
    for line in block:
        found = _parse(line, exact)
        if isinstance(found, dict):
            rows.append(found)
            kept.append(line)
        else:
            text = _shown(line.data[:HELD_TEXT_BYTES])
            unreadable.append(
                Unreadable(line=line.number, reason=found, rule=_RULES[found], text=text)
            )

    def texts(indices: Ints) -> list[str]:
        return [_shown(kept[index].data) for index in indices.tolist()]

    return Batch(
        table=_table(rows, names),
        lines=np.asarray([line.number for line in kept], np.int64),
        unreadable=tuple(unreadable),
        texts=texts,
        form="json",
    )


def _parse(line: _Line, exact: Sequence[str] = ()) -> dict[str, Any] | str:
    """Returns the object on a line, or the reason why there is none.

    Args:
        line: as it was read.
        exact: names whose numbers keep all the digits that they were written with.
    """
    if line.too_long:
        return "too_long"
    try:
        if _LARGE.search(line.data):
            return _parse_slowly(line.data)
        found = orjson.loads(line.data)
    except orjson.JSONDecodeError:
        return _parse_slowly(line.data)
    if not isinstance(found, dict):
        return "not_json"
    if any(type(found.get(name)) is float for name in exact):
        return _parse_slowly(line.data)
    return found


def _parse_slowly(data: bytes) -> dict[str, Any] | str:
    """Reads what orjson does not, or not exactly: NaN, infinities, many digits."""
    try:
        found = json.loads(data.decode(), parse_float=_Written)
        json.dumps(found, ensure_ascii=False).encode()  # half a character is none
    except UnicodeError:
        return "encoding"
    except (ValueError, RecursionError):
        return "not_json"
    return found if isinstance(found, dict) else "not_json"


class _Written(float):
    """A number and the digits that it was written with, of which a float keeps but some."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.Table:
    return pa.table(
        {name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names}
    )


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Written):
        return value.text
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _shown(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
