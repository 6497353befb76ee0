"""Spoils rows of CSV as they are spoilt in life, each fault with the lines that it touched.

Everything is drawn from the given generator: the same seed gives the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HEADER = ("id", "at", "carrier", "share", "distance", "note")
Row = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoilt:
    """A file with faults in it.

    Attributes:
        data: its bytes.
        lines: the lines that were touched, from 1, where single rows were.
        reasons: what their rows may be held for.
    """

    data: bytes
    lines: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()


def clean_rows(draw: random.Random, count: int, first: int = 0) -> list[Row]:
    """Returns rows with nothing wrong, their ids from ``first`` on."""
    return [
        [
            str(first + i),
            f"2024-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}T12:00:00Z",
            draw.choice(("AA", "UA", "B6")),
            f"{draw.uniform(1, 100):.2f}",
            str(draw.randint(100, 5000)),
            draw.choice(("Zoë", "plain", "né")),
        ]
        for i in range(count)
    ]


def written(rows: Sequence[Row]) -> bytes:
    """Returns rows as CSV with a header."""
    return "".join(",".join(row) + "\n" for row in (HEADER, *rows)).encode()


def _cells(change: Callable[[random.Random, Row], None], *reasons: str) -> Fault:
    """Makes a fault of some rows from a change of one."""

    def spoil(draw: random.Random, rows: Sequence[Row]) -> Spoilt:
        places = sorted(draw.sample(range(len(rows)), max(1, len(rows) // 10)))
        changed = [list(row) for row in rows]
        for place in places:
            change(draw, changed[place])
        lines = tuple(place + 2 for place in places)
        return Spoilt(data=written(changed), lines=lines, reasons=reasons)

    return spoil


Fault = Callable[[random.Random, Sequence[Row]], Spoilt]


def _swap(_: random.Random, row: Row) -> None:
    row[2], row[3] = row[3], row[2]


def _metres(_: random.Random, row: Row) -> None:
    row[4] = str(int(row[4]) * 1609)


def _semicolons(_: random.Random, row: Row) -> None:
    row[:] = [";".join(row)]


def _set(column: int, *values: str) -> Callable[[random.Random, Row], None]:
    def change(draw: random.Random, row: Row) -> None:
        row[column] = draw.choice(values)

    return change


def _open_quote(_: random.Random, row: Row) -> None:
    row[5] = 'a"b"c'
    row[2] = '"' + row[2]


def _twice(draw: random.Random, rows: Sequence[Row]) -> Spoilt:
    again = [list(row) for row in draw.sample(list(rows), max(1, len(rows) // 10))]
    lines = tuple(range(len(rows) + 2, len(rows) + 2 + len(again)))
    return Spoilt(data=written([*rows, *again]), lines=lines, reasons=("duplicate",))


def _latin(draw: random.Random, rows: Sequence[Row]) -> Spoilt:
    parts = written(rows).splitlines(keepends=True)
    places = [i for i, part in enumerate(parts) if not part.isascii()]
    places = sorted(draw.sample(places, max(1, len(places) // 3))) if places else []
    for place in places:
        parts[place] = parts[place].decode().encode("latin-1")
    lines = tuple(place + 1 for place in places)
    return Spoilt(data=b"".join(parts), lines=lines, reasons=("encoding",))


def _cut(draw: random.Random, rows: Sequence[Row]) -> Spoilt:
    """Cuts the last row before its last field."""
    last = rows[-1]
    kept = ",".join(last[: draw.randint(1, len(last) - 1)])
    data = written(rows[:-1]) + kept.encode()
    return Spoilt(data=data, lines=(len(rows) + 1,), reasons=("wrong_fields",))


ROW_FAULTS: dict[str, Fault] = {
    "swapped columns": _cells(_swap, "wrong_type", "not_in_domain"),
    "another unit": _cells(_metres, "out_of_range"),
    "another encoding": _latin,
    "a truncated file": _cut,
    "duplicate rows": _twice,
    "another delimiter": _cells(_semicolons, "wrong_fields"),
    "NaN": _cells(_set(3, "nan", "NaN", "-nan"), "not_finite", "wrong_type"),
    "infinity": _cells(_set(3, "inf", "-Infinity", "1e999"), "not_finite"),
    "a day in no calendar": _cells(
        _set(1, "2024-02-30", "2023-02-29", "2024-13-01", "2024-01-01T25:00:00"), "wrong_type"
    ),
    "a billion percent": _cells(_set(3, "1000000000", "1e9"), "out_of_range"),
    "no value": _cells(_set(4, "", "NA", "null"), "missing"),
    "a NUL byte": _cells(_set(5, "a\0b"), "binary"),
    "an open quote": _cells(_open_quote, "open_quote", "wrong_fields"),
}
"""Faults of single rows: each is to be held, and no other row."""


def whole_delimiter(rows: Sequence[Row]) -> bytes:
    """Returns the file with another delimiter throughout."""
    return written(rows).replace(b",", b";")


def swapped_header(rows: Sequence[Row]) -> bytes:
    """Returns the file with two names of its header changed for each other."""
    first, _, rest = written(rows).partition(b"\n")
    names = first.split(b",")
    names[2], names[3] = names[3], names[2]
    return b",".join(names) + b"\n" + rest
