"""The comparators of a schema: how far columns are from the previous rows, or from those served.

A comparator is a limit and nothing else, as in TFX: it knows no chance. Texts, truth values and
columns with ``values`` are compared value by value; numbers and times by the deciles of the other
rows, each decile's own value apart, so that every measure works on every number. Missing values
are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.data.anomaly_kinds import usual_severity
from tidemill.data.column_checks import comparable
from tidemill.data.drift.measures import (
    MEASURES,
    Measure,
    compare,
    compare_counts,
    ks_distance,
    wasserstein_distance,
)
from tidemill.data.queries import Queries, quoted
from tidemill.data.records import Anomaly
from tidemill.data.schema import Column, Comparator
from tidemill.data.schema_edits import SchemaEdit
from tidemill.foundation.errors import InvalidInput

Against = Literal["previous", "serving"]

KINDS: dict[Measure, str] = {
    "l_infinity": "COMPARATOR_L_INFTY_HIGH",
    "total_variation": "COMPARATOR_TOTAL_VARIATION_HIGH",
    "jensen_shannon": "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH",
    "psi": "COMPARATOR_PSI_HIGH",
    "ks": "COMPARATOR_KS_HIGH",
    "wasserstein": "COMPARATOR_WASSERSTEIN_HIGH",
}

Floats = npt.NDArray[np.float64]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One distance that a schema limits, whether it is over the limit or not.

    Attributes:
        column: the column.
        against: ``previous`` for drift, ``serving`` for skew.
        measure: which distance.
        value: how far the rows are from the others.
        limit: how far they may be.
    """

    column: str
    against: Against
    measure: str
    value: float
    limit: float


def comparator(column: Column, against: Against) -> Comparator | None:
    """Returns the limits of a column to rows of that kind."""
    return column.drift if against == "previous" else column.skew


def compare_rows(
    now: Queries, other: Queries, columns: Sequence[Column], against: Against
) -> Iterator[Measurement | Anomaly]:
    """Yields each distance that is limited, and each that is over its limit or can't be measured.

    Args:
        now: the rows that are judged.
        other: those that they are compared with.
        columns: those of the schema that are in force.
        against: which of a column's limits count.
    """
    for column in columns:
        limits = comparator(column, against) or Comparator()
        wanted = {each: limit for each in MEASURES if (limit := getattr(limits, each)) is not None}
        if not wanted:
            continue
        absent = _absent(column, now, other, against)
        if absent is not None:
            yield absent
            continue
        yield from _measured(column, now, other, against, wanted)


def _measured(
    column: Column,
    now: Queries,
    other: Queries,
    against: Against,
    wanted: dict[Measure, float],
) -> Iterator[Measurement | Anomaly]:
    try:
        sides = _Sides(column, now, other)
        found = {measure: sides.distance(measure) for measure in wanted}
    except InvalidInput as error:
        text = f"{column.name} could not be compared with {_rows(against)}: {error.what}"
        yield Anomaly(
            kind="STATS_NOT_AVAILABLE", column=column.name, severity="error", message=text
        )
        return
    for measure, value in found.items():
        limit = wanted[measure]
        yield Measurement(
            column=column.name, against=against, measure=measure, value=value, limit=limit
        )
        if value > limit:
            kind = KINDS[measure]
            yield Anomaly(
                kind=kind,
                column=column.name,
                severity=usual_severity(kind),
                message=f"{measure} of {column.name} to {_rows(against)} is {value:.6g}, over "
                f"{limit:g}{sides.largest(measure)}",
                fix=_widened(column, against, measure, value),
            )


def _widened(column: Column, against: Against, measure: str, value: float) -> SchemaEdit:
    limits = comparator(column, against) or Comparator()
    rule = "drift" if against == "previous" else "skew"
    return SchemaEdit(
        column=column.name, set={rule: msgspec.structs.replace(limits, **{measure: value})}
    )


def _absent(column: Column, now: Queries, other: Queries, against: Against) -> Anomaly | None:
    """Returns the anomaly of a column that one side has no value of."""
    rule = "drift" if against == "previous" else "skew"
    for queries, kind, where in (
        (other, "COMPARATOR_CONTROL_DATA_MISSING", _rows(against)),
        (now, "COMPARATOR_TREATMENT_DATA_MISSING", "the rows"),
    ):
        sql = f"SELECT count({quoted(column.name)}) AS n FROM rows"
        if column.name not in queries.schema.names or not queries.select(sql)["n"][0].as_py():
            return Anomaly(
                kind=kind,
                column=column.name,
                severity=usual_severity(kind),
                message=f"{column.name} cannot be compared: {where} have no value of it",
                fix=SchemaEdit(column=column.name, set={rule: None}),
            )
    return None


def _rows(against: Against) -> str:
    return "the previous rows" if against == "previous" else "the rows served"


class _Sides:
    """A column of both sides, read when a measure asks for it."""

    def __init__(self, column: Column, now: Queries, other: Queries) -> None:
        self._column = column
        self._sides = (other, now)
        self._counted: tuple[dict[Any, int], dict[Any, int]] | None = None
        self._numbers: tuple[Floats, Floats] | None = None

    @property
    def _named(self) -> bool:
        column = self._column
        return (
            column.type in ("string", "bool")
            or column.values is not None
            or (column.domain == "bool")
        )

    def distance(self, measure: Measure) -> float:
        """Returns how far the rows are from the others."""
        if measure == "ks":
            return ks_distance(*self._both_numbers())
        if measure == "wasserstein":
            return wasserstein_distance(*self._both_numbers())
        if self._named:
            return compare(*self._both_counted(), measure)
        first, second = self._both_numbers()
        edges = np.unique(np.quantile(first, np.linspace(0, 1, 11), method="lower"))
        return compare_counts(_cells(first, edges), _cells(second, edges), measure)

    def largest(self, measure: Measure) -> str:
        """Says which value differs most, where values are compared."""
        if measure != "l_infinity" or not self._named:
            return ""
        first, second = self._both_counted()
        sums = sum(first.values()), sum(second.values())
        values = {**first, **second}
        worst = max(
            values, key=lambda x: abs(first.get(x, 0) / sums[0] - second.get(x, 0) / sums[1])
        )
        return f"; the value that differs most is {str(worst)[:80]!r}"

    def _both_counted(self) -> tuple[dict[Any, int], dict[Any, int]]:
        if self._counted is None:
            first, second = (self._count(side) for side in self._sides)
            self._counted = first, second
        return self._counted

    def _count(self, side: Queries) -> dict[Any, int]:
        found = side.select(
            f"SELECT x, count(*) AS n FROM ({self._source()}) WHERE x IS NOT NULL GROUP BY x "
            "ORDER BY x"
        )
        return dict(zip(found["x"].to_pylist(), found["n"].to_pylist(), strict=True))

    def _both_numbers(self) -> tuple[Floats, Floats]:
        if self._numbers is None:
            first, second = (self._read(side) for side in self._sides)
            self._numbers = first, second
        return self._numbers

    def _read(self, side: Queries) -> Floats:
        number = comparable(self._column)("x")
        scale = " / 1e6" if self._column.type == "timestamp" else ""
        found = side.select(
            f"SELECT y FROM (SELECT ({number})::DOUBLE{scale} AS y FROM ({self._source()})) "
            "WHERE y IS NOT NULL"
        )
        return np.asarray(found["y"].to_numpy(), np.float64)

    def _source(self) -> str:
        name = quoted(self._column.name)
        inner = f"unnest({name})" if self._column.holds_lists else name
        return f"SELECT {inner} AS x FROM rows"


def _cells(numbers: Floats, edges: Floats) -> Floats:
    """Counts numbers below, at, between and above edges.  # (2 * edges + 1,)"""
    place = np.searchsorted(edges, numbers, "left") + np.searchsorted(edges, numbers, "right")
    return np.bincount(place, minlength=2 * len(edges) + 1).astype(np.float64)
