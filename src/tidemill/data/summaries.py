"""The records of statistics, as they are saved beside each snapshot."""

from __future__ import annotations

from typing import Any

import msgspec


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers in bins.

    Attributes:
        edges: ascending, one more than counts; a bin holds its beginning, the last also its end.
        counts: how many numbers, or their weight; whole numbers where it is exact.
    """

    edges: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()


class WeightedStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a column looks like where each row counts by its weight.

    Attributes:
        weight: of all rows.
        missing: weight of the rows without a value.
        top: the values of the greatest weight, at most 20.
        mean: weighted; None without numbers, as with the rest.
        std: weighted, of the whole rather than of a sample.
        quantiles: as of a column.
        histogram: of equal width.
    """

    weight: float
    missing: float
    top: tuple[tuple[Any, float], ...] = ()
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] = {}
    histogram: Histogram | None = None


class ColumnStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a column looks like. Timestamps count as seconds since the epoch.

    Attributes:
        name: the column.
        type: of the schema; of a column of lists, that of the values in them.
        count: rows, with or without a value.
        missing: rows without one.
        distinct: different values, exact or estimated.
        distinct_exact: which of the two.
        domain: every different string, if there are at most 100.
        top: the most frequent values with their counts, at most 20.
        zeros: numbers that are zero.
        min: smallest finite value; None without values, as with all that follow.
        max: largest finite value.
        mean: of numbers and timestamps; for bool the part that is true.
        std: sample standard deviation.
        quantiles: at 0.01, 0.05, 0.25, 0.5, 0.75, 0.95 and 0.99: values that are there, or the
            middle of two.
        min_length: shortest string, in characters.
        max_length: longest string.
        mean_length: of strings.
        nan: values that are no number.
        infinite: values that are an infinity; neither is in what is computed of numbers.
        rank_error: a quantile may be at a rank that is wrong by this part of all; 0 is exact.
        top_error: a count in ``top`` may be too low by so much; 0 is exact.
        histogram: of numbers, in 20 bins of equal width.
        quantile_histogram: of numbers, in at most 10 bins of equally many.
        length_quantiles: of the lengths of strings.
        ranks: counts of the 100 most frequent strings, in falling order.
        values: values in lists; None if the column holds no lists, as with the rest.
        list_lengths: quantiles of the number of values in a list, at 0, 0.5 and 1.
        mean_list_length: of lists.
        weighted: the same by the weights of the rows, if they have one.
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
    nan: int = 0
    infinite: int = 0
    rank_error: float = 0.0
    top_error: int = 0
    histogram: Histogram | None = None
    quantile_histogram: Histogram | None = None
    length_quantiles: dict[str, float] = {}
    ranks: tuple[int, ...] = ()
    values: int | None = None
    list_lengths: dict[str, float] = {}
    mean_list_length: float | None = None
    weighted: WeightedStatistics | None = None

    @property
    def missing_fraction(self) -> float:
        """The part of rows without a value; 0 without rows."""
        return self.missing / self.count if self.count else 0.0

    @property
    def median(self) -> float | None:
        """The value in the middle, or the middle of two; None without numbers."""
        return self.quantiles.get("0.5")


class TableStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and the statistics of each column, in order."""

    rows: int
    columns: tuple[ColumnStatistics, ...]

    def column(self, name: str) -> ColumnStatistics | None:
        """Returns a column's statistics, or None."""
        return next((column for column in self.columns if column.name == name), None)


class SliceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of the rows that have a value in common; None: those without one."""

    value: Any
    statistics: TableStatistics


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """How far two columns go together in a line: ``r`` from -1 to 1, over rows that have both."""

    first: str
    second: str
    rows: int
    r: float


class Association(msgspec.Struct, frozen=True, kw_only=True):
    """What a column tells of a label.

    Attributes:
        column: the column.
        bits: the mutual information, less what chance alone would give.
        share: the part of the label's entropy that it is; 1 tells all.
    """

    column: str
    bits: float
    share: float
