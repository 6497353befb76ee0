"""The records of statistics, as they are saved beside each snapshot."""

from __future__ import annotations

from typing import Any

import msgspec


class ColumnStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a column looks like. Timestamps count as seconds since the epoch.

    Attributes:
        name: the column.
        type: of the schema.
        count: rows, with or without a value.
        missing: rows without one.
        distinct: different values, exact or estimated.
        distinct_exact: which of the two.
        domain: every different string, if there are at most 100.
        top: the most frequent values with their counts, at most 20.
        zeros: numbers that are zero.
        min: smallest value; None without values, as with all that follow.
        max: largest value.
        mean: of numbers and timestamps; for bool the part that is true.
        std: sample standard deviation.
        quantiles: at 0.01, 0.05, 0.25, 0.5, 0.75, 0.95 and 0.99.
        min_length: shortest string, in characters.
        max_length: longest string.
        mean_length: of strings.
    """

    name: str
    type: str
    count: int
    missing: int
    distinct: int
    distinct_exact: bool
    top: tuple[tuple[Any, int], ...]
    domain: tuple[str, ...] | None = None
    zeros: int | None = None
    min: Any = None
    max: Any = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] = {}
    min_length: int | None = None
    max_length: int | None = None
    mean_length: float | None = None

    @property
    def missing_fraction(self) -> float:
        """The part of rows without a value; 0 without rows."""
        return self.missing / self.count if self.count else 0.0


class TableStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and the statistics of each column, in order."""

    rows: int
    columns: tuple[ColumnStatistics, ...]

    def column(self, name: str) -> ColumnStatistics | None:
        """Returns a column's statistics, or None."""
        return next((column for column in self.columns if column.name == name), None)
