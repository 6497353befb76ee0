"""The comparators of a schema: how far columns are from the previous rows, or from those served.

A comparator is a limit and nothing else, as in TFX: it knows no chance. Texts, truth values and
columns with ``values`` are compared value by value; numbers and times by the deciles of the other
rows, each decile's own value apart, so that every measure works on every number. Missing values
are left out.

Of at most ``EXACT`` numbers on each side, distances are those of the numbers themselves. Of more,
they are counted batch by batch in cells that a sample of the other rows places, so that memory
does not grow with rows: ``ks`` is then too small by at most a cell's share, about 1/``FINE``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.data.anomaly_kinds import usual_severity
from tidemill.data.column_checks import comparable
from tidemill.data.drift.cells import NumberCounter, number_cells
from tidemill.data.drift.measures import (
    MEASURES,
    ORDERED,
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

EXACT = 1 << 20
FINE = 1024
SAMPLE = 1 << 16

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
        self._many: _ManyNumbers | None = None

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
        if self._named and measure not in ORDERED:
            return compare(*self._both_counted(), measure)
        many = self._counted_in_cells()
        if many is not None:
            return many.distance(measure)
        first, second = self._both_numbers()
        if measure == "ks":
            return ks_distance(first, second)
        if measure == "wasserstein":
            return wasserstein_distance(first, second)
        edges = _deciles(first)
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
        return np.concatenate([np.empty(0), *_batches(side, self._sql())])

    def _counted_in_cells(self) -> _ManyNumbers | None:
        """Returns both sides in cells if there are too many numbers to hold; else None."""
        if self._many is None and self._numbers is None:
            sql = self._sql()
            counts = [_count_of(side, sql) for side in self._sides]
            if max(counts) > EXACT:
                self._many = _ManyNumbers(*self._sides, sql, counts[0])
        return self._many

    def _sql(self) -> str:
        number = comparable(self._column)("x")
        scale = " / 1e6" if self._column.type == "timestamp" else ""
        return (
            f"SELECT y FROM (SELECT ({number})::DOUBLE{scale} AS y FROM ({self._source()})) "
            "WHERE y IS NOT NULL"
        )

    def _source(self) -> str:
        name = quoted(self._column.name)
        inner = f"unnest({name})" if self._column.holds_lists else name
        return f"SELECT {inner} AS x FROM rows"


class _ManyNumbers:
    """Numbers of both sides, counted in cells that a sample of the first places."""

    def __init__(self, first: Queries, second: Queries, sql: str, count: int) -> None:
        step = -(-count // SAMPLE)
        parts, before = [np.empty(0)], 0
        for numbers in _batches(first, sql):
            parts.append(numbers[-before % step :: step])
            before += len(numbers)
        sample = np.concatenate(parts)
        self._deciles = _deciles(sample)
        self._fine = number_cells(sample, most=FINE)
        self._sides = tuple(self._counted(side, sql) for side in (first, second))

    def _counted(self, side: Queries, sql: str) -> _Cells:
        counter = NumberCounter(self._fine)
        found = _Cells(
            fine=np.zeros(self._fine.count),
            sums=np.zeros(self._fine.count),
            coarse=np.zeros(2 * len(self._deciles) + 1),
        )
        for numbers in _batches(side, sql):
            place = counter.place(numbers)
            found.fine += np.bincount(place, minlength=len(found.fine))
            found.sums += np.bincount(place, numbers, minlength=len(found.sums))
            found.coarse += _cells(numbers, self._deciles)
            found.low = min(found.low, float(numbers.min()))
            found.high = max(found.high, float(numbers.max()))
        return found

    def distance(self, measure: Measure) -> float:
        """Returns how far the second is from the first."""
        first, second = self._sides
        if measure == "ks":
            return compare_counts(first.fine, second.fine, "ks")
        if measure == "wasserstein":
            return self._wasserstein(first, second)
        return compare_counts(first.coarse, second.coarse, measure)

    def _wasserstein(self, first: _Cells, second: _Cells) -> float:
        """Returns the area between both distribution functions.

        In each cell the integral of a distribution function is known: from the values below the
        cell, and the count and the sum of those in it. Only where both cross inside a cell the
        result is too small, by what lies on one side of the crossing there.
        """
        low, high = min(first.low, second.low), max(first.high, second.high)
        if not math.isfinite(high - low):
            raise InvalidInput("a number is infinite", remedy="Leave it out, or use ks.")
        edges = np.clip(self._fine.edges, low, high)
        bounds = np.concatenate([[low], edges, [high]])
        gap = first.integrals(bounds) - second.integrals(bounds)
        return float(np.abs(gap).sum())


@dataclass(slots=True, kw_only=True)
class _Cells:
    """Numbers of one side: their counts and sums in fine cells, their counts in coarse ones."""

    fine: Floats
    sums: Floats
    coarse: Floats
    low: float = math.inf
    high: float = -math.inf

    def integrals(self, bounds: Floats) -> Floats:
        """Returns the integral of the distribution function over each cell.  # (cells,)"""
        begin, end = bounds[:-1], bounds[1:]
        below = np.cumsum(self.fine) - self.fine
        inside = self.fine * end - self.sums
        return np.asarray((below * (end - begin) + inside) / self.fine.sum(), np.float64)


def _count_of(side: Queries, sql: str) -> int:
    return int(side.select(f"SELECT count(*) AS n FROM ({sql})")["n"][0].as_py())


def _batches(side: Queries, sql: str) -> Iterator[Floats]:
    """Yields the numbers that a query of one column finds; none is NaN."""
    for batch in side.batches(sql):
        if batch.num_rows:
            yield np.asarray(batch.column(0).to_numpy(zero_copy_only=False), np.float64)


def _deciles(numbers: Floats) -> Floats:
    return np.unique(np.quantile(numbers, np.linspace(0, 1, 11), method="lower"))


def _cells(numbers: Floats, edges: Floats) -> Floats:
    """Counts numbers below, at, between and above edges.  # (2 * edges + 1,)"""
    place = np.searchsorted(edges, numbers, "left") + np.searchsorted(edges, numbers, "right")
    return np.bincount(place, minlength=2 * len(edges) + 1).astype(np.float64)
