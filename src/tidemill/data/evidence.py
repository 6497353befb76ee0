"""What is known of a column before its rules are asked of every row: that a rule can't be broken.

Most rules of most columns are kept, and little shows it: the extremes of a column, how many values
it has, which they are where they are few. That comes from statistics that were made of the same
rows, or from one cheap pass. Only what is not shown so is asked of the rows: verdicts are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from tidemill.data.casting import type_of
from tidemill.data.column_checks import Check, microseconds
from tidemill.data.queries import Queries, quoted
from tidemill.data.schema import Bound, Column
from tidemill.data.summaries import ColumnStatistics

BELOW = ("INT_TYPE_SMALL_INT", "FLOAT_TYPE_SMALL_FLOAT", "TIMESTAMP_TYPE_EARLY_TIME")
ABOVE = ("INT_TYPE_BIG_INT", "FLOAT_TYPE_BIG_FLOAT", "TIMESTAMP_TYPE_LATE_TIME")
NOT_FINITE = ("FLOAT_TYPE_HAS_NAN", "FLOAT_TYPE_HAS_INF")
COLUMNS = 200
"""Columns that one query looks at."""

_EXACT_S = 2.0**31
"""Seconds up to which a float tells every microsecond apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one column's values.

    Attributes:
        present: rows with a value.
        missing: rows without one.
        low: none is less; times are microseconds. None: not known.
        high: none is more.
        finite: none is NaN or infinite.
        values: all the different ones; None: not known.
        distinct: how many those are.
    """

    present: int
    missing: int
    low: Any = None
    high: Any = None
    finite: bool = False
    values: frozenset[Any] | None = None
    distinct: int | None = None

    def counts(self, column: Column, check: Check) -> Mapping[str, Any] | None:
        """Returns what the rows would answer to a check; None if they have to be asked."""
        kind = check.kind
        if kind == "FEATURE_TYPE_LOW_FRACTION_PRESENT":
            return {kind: self.missing}
        if check.breaks is None:  # it is about all rows
            known = {"distinct": self.distinct} if self.distinct is not None else {}
            return known if check.measures.keys() <= known.keys() else None
        return {kind: 0} if self._kept(column, kind) else None

    def within(self, values: Sequence[Any]) -> bool:
        """Tells whether it is known that every value is one of these."""
        return self.values is not None and self.values <= set(values)

    def _kept(self, column: Column, kind: str) -> bool:
        if column.holds_lists:
            return False
        known = {
            **dict.fromkeys(NOT_FINITE, self.finite),
            **dict.fromkeys(BELOW, _ordered(column, column.min, self.low)),
            **dict.fromkeys(ABOVE, _ordered(column, self.high, column.max)),
            "BOOL_TYPE_SMALL_INT": _ordered(column, 0, self.low),
            "BOOL_TYPE_BIG_INT": _ordered(column, self.high, 1),
            "BOOL_TYPE_UNEXPECTED_FLOAT": self.finite and self.within((0, 1)),
        }
        return self.present == 0 or known.get(kind, False)


def _ordered(column: Column, less: Bound | None, more: Bound | None) -> bool:
    """Tells whether it is known that the first is no more than the second, as SQL compares."""
    if less is None or more is None or (column.type == "string"):
        return False
    low, high = (microseconds(x) if isinstance(x, datetime) else x for x in (less, more))
    if column.type == "float64" or isinstance(low, float) or isinstance(high, float):
        return float(low) <= float(high)
    return low <= high


# --- from statistics -----------------------------------------------------------------------------


def of_statistics(column: Column, seen: ColumnStatistics) -> Evidence:
    """Returns what statistics of the same rows show."""
    low, high = seen.min, seen.max
    if seen.type == "timestamp":
        low, high = _exact(low), _exact(high)
    if seen.type == "string" or seen.infinite or (seen.nan and column.type != "float64"):
        low = high = None
    values: frozenset[Any] | None = None
    if seen.domain is not None:
        values = frozenset(seen.domain)
    elif seen.type in ("int64", "float64") and seen.distinct_exact:
        known = [value for value, _ in seen.top]
        values = frozenset(known) if len(known) == seen.distinct else None
    finite = not seen.nan and not seen.infinite
    # Of lists, statistics count what is in them; and times that are one as floats, as one.
    counted = seen.distinct_exact and finite and not column.holds_lists
    if seen.type == "timestamp" and (low is None or high is None):
        counted = False
    return Evidence(
        present=seen.count - seen.missing,
        missing=seen.missing,
        low=low,
        high=high,
        finite=finite,
        values=values,
        distinct=seen.distinct if counted else None,
    )


def _exact(seconds: float | None) -> int | None:
    """Returns a time in microseconds, where a float of seconds still tells them apart."""
    if seconds is None or abs(seconds) >= _EXACT_S:
        return None
    return round(seconds * 1e6)


# --- from the rows -------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A column in the cheap pass: the aggregates that it needs."""

    column: Column
    kind: pa.DataType
    sql: dict[str, str] = field(default_factory=dict)


def of_rows(
    queries: Queries, columns: Sequence[tuple[Column, pa.DataType, Sequence[Check]]]
) -> list[Evidence]:
    """Returns what extremes and numbers of values show, in one pass, and few values by name."""
    rows = int(queries.select("SELECT count(*) AS n FROM rows")["n"][0].as_py())
    found: list[Evidence] = []
    for begin in range(0, len(columns), COLUMNS):
        part = [_asked(*one) for one in columns[begin : begin + COLUMNS]]
        listed = ", ".join(
            f"{sql} AS {name}{place}"
            for place, one in enumerate(part)
            for name, sql in one.sql.items()
        )
        row = queries.select(f"SELECT {listed} FROM rows").to_pylist()[0]
        for place, one in enumerate(part):
            seen = {name: row[f"{name}{place}"] for name in one.sql}
            found.append(_seen(queries, one, seen, rows))
    return found


def _asked(column: Column, kind: pa.DataType, checks: Sequence[Check]) -> _Asked:
    name = quoted(column.name)
    asked = _Asked(column=column, kind=kind, sql={"present": f"count({name})"})
    bounded = any(one.kind in (*BELOW, *ABOVE, *NOT_FINITE) for one in checks)
    bounded |= column.domain == "bool"
    if column.holds_lists or not bounded or not _comparable(kind):
        return asked
    for pick in ("min", "max"):
        value = f"{pick}({name})"
        if pa.types.is_timestamp(kind):
            value = f"epoch_us({value})"
        elif column.type == "float64":
            value = f"{value}::DOUBLE"
        asked.sql[pick] = value
    return asked


def _comparable(kind: pa.DataType) -> bool:
    """Tells whether the least and the largest value say what a range asks for."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_timestamp(kind))


def _seen(queries: Queries, one: _Asked, seen: Mapping[str, Any], rows: int) -> Evidence:
    low, high = seen.get("min"), seen.get("max")
    # NaN is more than any number to DuckDB's max, so that it shows like an infinity.
    numbers = [x for x in (low, high) if isinstance(x, float)]
    return Evidence(
        present=seen["present"],
        missing=rows - seen["present"],
        low=low,
        high=high,
        finite=len(numbers) == 2 and all(map(math.isfinite, numbers)),
        values=_few_values(queries, one),
    )


def _few_values(queries: Queries, one: _Asked) -> frozenset[Any] | None:
    """Returns the different values of a column with a domain, if they are no more than it has."""
    column = one.column
    domain: Sequence[Any] | None = column.values
    if column.domain == "bool" and column.type == "float64":
        domain = (0, 1)
    same = not pa.types.is_nested(one.kind) and type_of(one.kind) == column.type
    if domain is None or column.holds_lists or not same:
        return None
    name = quoted(column.name)
    found = queries.select(
        f"SELECT DISTINCT {name} AS x FROM rows WHERE {name} IS NOT NULL LIMIT {len(domain) + 1}"
    )
    return frozenset(found["x"].to_pylist())
