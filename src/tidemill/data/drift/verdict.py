"""Is it drift: a column has moved far enough to matter, and further than chance would move it.

Two things of a column are judged, each by a distance, a limit to it and a chance:

    values    the values that are there. The chance is the smaller, doubled, of Kolmogorov's (of
              numbers; at the edges of cells, where it is at most too large) and the pooled
              chi-square test's on the cells
    missing   the difference of the shares of rows without a value, where any is missing

It is an alarm if the distance is over its limit and the chance, adjusted by Benjamini and
Yekutieli over all that was judged, is at most ``DriftRules.chance``. What could not be judged is
an error and no pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np

from tidemill.data.drift.measures import MEASURES, ORDERED, Bins, Measure, compare, compare_counts
from tidemill.data.drift.reference import CountedRows, FrozenColumn, Reference, Tally
from tidemill.data.drift.significance import adjusted, kolmogorov, same_cells
from tidemill.data.schema import Comparator
from tidemill.foundation.errors import InvalidInput

Severity = Literal["info", "warning", "error"]
Part = Literal["values", "missing"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class DriftRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts as drift.

    Attributes:
        limit: the part of the rows that may have moved: ``ks`` of numbers, ``total_variation`` of
            texts and truth values, and the difference of the parts missing.
        grave: over it an alarm is an error and no warning.
        chance: the false discovery rate, the part of alarms that may be chance; where nothing has
            drifted, the chance of any alarm.
        columns: limits of columns that have their own; over one of them an alarm is an error.

    Example:
        >>> DriftRules(limit=0.1, columns={"age": Comparator(psi=0.2)}).limit
        0.1
    """

    limit: Share = 0.05
    grave: Share = 0.2
    chance: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    columns: dict[str, Comparator] = {}


class DriftCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One thing of a column that was judged.

    Attributes:
        part: ``values`` or ``missing``.
        measure: one of ``measures.MEASURES``, or ``missing``: a difference of shares.
        distance: how far apart.
        limit: how far they may be.
        chance: the p-value.
        adjusted: it, adjusted for all that was judged.
        severity: ``warning`` and ``error`` are alarms; ``info``: more than chance, and within its
            limit; None: nothing.
        message: what differs most; None if there is nothing to say.
    """

    part: Part
    measure: str
    distance: float
    limit: float
    chance: float
    adjusted: float
    severity: Severity | None = None
    message: str | None = None

    @property
    def alarm(self) -> bool:
        """Tells whether it is drift."""
        return self.severity in ("warning", "error")


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one column.

    Attributes:
        name: the column.
        kind: how it was counted: ``numbers``, ``values`` or ``hashes``.
        rows: how many rows have a value, of the reference and now.
        missing: which part of the rows has none, of the reference and now.
        distances: every distance of the values that is defined for them, on the frozen cells.
        checks: what was judged.
    """

    name: str
    kind: str
    rows: tuple[int, int]
    missing: tuple[float, float]
    distances: dict[str, float]
    checks: tuple[DriftCheck, ...]

    @property
    def severity(self) -> Severity | None:
        """The gravest of its checks'."""
        return max((one.severity for one in self.checks), key=_GRAVITY.index, default=None)


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of all columns.

    Attributes:
        rows: how many rows there were, of the reference and now.
        columns: those compared, the gravest first.
        errors: columns that could not be compared, and why.
        left_out: columns that were not to be compared, and why.
    """

    rows: tuple[int, int]
    columns: tuple[ColumnDrift, ...]
    errors: dict[str, str]
    left_out: dict[str, str]

    @property
    def alarms(self) -> list[str]:
        """The columns that have drifted."""
        return [one.name for one in self.columns if one.severity in ("warning", "error")]

    @property
    def ok(self) -> bool:
        """Tells whether everything was compared, and nothing has drifted."""
        return not self.errors and not self.alarms


_GRAVITY: tuple[Severity | None, ...] = (None, "info", "warning", "error")


def judge(
    reference: Reference, current: CountedRows, rules: DriftRules | None = None
) -> DriftReport:
    """Returns what has drifted.

    Args:
        reference: the frozen rows.
        current: the rows now, counted in its cells.
        rules: what counts as drift.

    Raises:
        InvalidInput: there are no rows now.
    """
    rules = rules or DriftRules()
    if not current.rows:
        raise InvalidInput("there are no rows to compare", remedy="Give at least one row.")
    errors = dict(current.errors)
    left_out = {**reference.left_out}
    left_out.update(dict.fromkeys(current.new, "the reference has no such column"))
    columns = []
    for frozen in reference.columns:
        tally = current.tallies.get(frozen.name)
        if tally is None:
            continue
        try:
            columns.append(_column(frozen, tally, rules))
        except InvalidInput as error:
            errors[frozen.name] = error.what
    chances = adjusted([check.chance for column in columns for check in column.checks])
    following = iter(chances)
    judged = [
        msgspec.structs.replace(
            column,
            checks=tuple(
                _judged(check, next(following), rules, own=column.name in rules.columns)
                for check in column.checks
            ),
        )
        for column in columns
    ]
    judged.sort(key=_rank)
    return DriftReport(
        rows=(reference.rows, current.rows),
        columns=tuple(judged),
        errors=errors,
        left_out=left_out,
    )


def _rank(column: ColumnDrift) -> tuple[int, float]:
    furthest = max((check.distance / (check.limit or 1e-9) for check in column.checks), default=0)
    return (-_GRAVITY.index(column.severity), -furthest)


def _judged(check: DriftCheck, chance: float, rules: DriftRules, *, own: bool) -> DriftCheck:
    severity: Severity | None = None
    if chance <= rules.chance:
        severity = "info"
        if check.distance > check.limit:
            mine = own and check.part == "values"
            severity = "error" if mine or check.distance > rules.grave else "warning"
    return msgspec.structs.replace(
        check,
        adjusted=chance,
        severity=severity,
        message=check.message if severity else None,
    )


def _column(frozen: FrozenColumn, now: Tally, rules: DriftRules) -> ColumnDrift:
    then = frozen.tally
    checks = []
    distances: dict[str, float] = {}
    if then.present and now.present:
        distances = _distances(frozen, now)
        checks += _value_checks(frozen, now, distances, rules)
    elif frozen.name in rules.columns:
        where = "the reference has" if not then.present else "the rows have"
        raise InvalidInput(f"{where} no value of it", remedy="Give rows with values.")
    shares = tuple(one.missing / (one.missing + one.present) for one in (then, now))
    if then.missing or now.missing:
        checks.append(
            DriftCheck(
                part="missing",
                measure="missing",
                distance=abs(shares[1] - shares[0]),
                limit=rules.limit,
                chance=same_cells(
                    [then.missing, then.present], [now.missing, now.present], ordered=True
                ),
                adjusted=1.0,
                message=f"missing in {shares[0]:.2%} of the rows before, {shares[1]:.2%} now",
            )
        )
    return ColumnDrift(
        name=frozen.name,
        kind=frozen.cells.kind,
        rows=(then.present, now.present),
        missing=(shares[0], shares[1]),
        distances=distances,
        checks=tuple(checks),
    )


def _value_checks(
    frozen: FrozenColumn, now: Tally, distances: Mapping[str, float], rules: DriftRules
) -> list[DriftCheck]:
    usual: Measure = "ks" if frozen.cells.ordered else "total_variation"
    own = rules.columns.get(frozen.name)
    limits = {each: most for each in MEASURES if (most := getattr(own, each, None)) is not None}
    limits = limits or {usual: rules.limit}
    undefined = [each for each in limits if each not in distances]
    if undefined:
        raise InvalidInput(
            f"{undefined[0]} is not defined for its values", remedy="Limit another measure."
        )
    chance = _chance(frozen, now)
    return [
        DriftCheck(
            part="values",
            measure=measure,
            distance=distances[measure],
            limit=limit,
            chance=chance,
            adjusted=1.0,
            message=_most_different(frozen, now),
        )
        for measure, limit in limits.items()
    ]


def _chance(frozen: FrozenColumn, now: Tally) -> float:
    then, ordered = frozen.tally, frozen.cells.ordered
    cells = same_cells(then.counts, now.counts, ordered=ordered)
    if not ordered:
        return cells
    n, m = then.present, now.present
    largest = compare_counts(then.counts, now.counts, "ks")
    return min(1.0, 2 * min(cells, kolmogorov(largest * math.sqrt(n / (n + m) * m))))


def _distances(frozen: FrozenColumn, now: Tally) -> dict[str, float]:
    then = frozen.tally
    found: dict[str, float] = {
        measure: compare_counts(then.counts, now.counts, measure)
        for measure in MEASURES
        if measure != "wasserstein" and (frozen.cells.ordered or measure not in ORDERED)
    }
    low = min(x for x in (then.low, now.low, *frozen.cells.edges[:1], math.inf) if x is not None)
    high = max(
        x for x in (then.high, now.high, *frozen.cells.edges[-1:], -math.inf) if x is not None
    )
    if frozen.cells.ordered and math.isfinite(low) and math.isfinite(high):
        edges = [low, *frozen.cells.edges, high]
        found["wasserstein"] = compare(
            Bins.of(edges, then.counts), Bins.of(edges, now.counts), "wasserstein"
        )
    return found


def _most_different(frozen: FrozenColumn, now: Tally) -> str | None:
    """Says which cell differs most, where a cell means something."""
    if frozen.cells.kind == "hashes":
        return None
    then = np.asarray(frozen.tally.counts) / frozen.tally.present
    shares = np.asarray(now.counts) / now.present
    at = int(np.abs(then - shares).argmax())
    return f"{_cell(frozen, at)}: {then[at]:.2%} of the values before, {shares[at]:.2%} now"


def _cell(frozen: FrozenColumn, at: int) -> str:
    if frozen.cells.kind == "values":
        values = frozen.cells.values
        return repr(values[at][:80]) if at < len(values) else "other values"
    edges = frozen.cells.edges
    if at == 0:
        return f"up to {edges[0]:.6g}"
    if at == len(edges):
        return f"over {edges[-1]:.6g}"
    below, end = edges[at - 1], edges[at]
    if np.nextafter(below, np.inf) == end:
        return f"{end:.6g}"
    return f"over {below:.6g} up to {end:.6g}"
