"""Judges a candidate: how well it predicts, where it is worst, and whether it may go live.

What is judged are predictions, not models: a served model, a compiled one and a table's answers
are all judged alike. Rules give their reasons in words, with the numbers that they compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array
from tidemill.monitoring.metrics import accuracy, auc, brier, log_loss

MAX_SLICES = 1000
"""Of one column, so many of the largest slices are reported."""

_SHOWN = 5

Share = Annotated[float, msgspec.Meta(ge=0.0)]


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """How well scores predict labels.

    Args:
        rows: judged.
        positives: the share of rows whose label is 1.
        log_loss: mean negative logarithm of the probability given to what happened, in nats.
        brier: mean squared difference of score and label.
        accuracy: share of rows on the right side of 0.5.
        auc: probability that a positive has the higher score; None where all labels are alike.
    """

    rows: int
    positives: float
    log_loss: float
    brier: float
    accuracy: float
    auc: float | None


class SliceReport(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that agree in one column: how well they are predicted, and by the constant."""

    column: str
    value: str
    metrics: Metrics
    constant_log_loss: float

    @property
    def rows(self) -> int:
        """How many rows agree."""
        return self.metrics.rows

    @property
    def title(self) -> str:
        """The slice in words.

        Example: ``carrier=UA (412 rows)``.
        """
        return f"{self.column}={self.value} ({self.rows} rows)"


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found.

    Args:
        metrics: over all rows.
        constant: the probability that the constant baseline gives to every row.
        constant_metrics: of that baseline.
        slices: by column, the largest first.
        slices_left_out: how many more there were than are reported.
        examples: tells whether two reports are of the same examples.
    """

    metrics: Metrics
    constant: float
    constant_metrics: Metrics
    slices: tuple[SliceReport, ...]
    slices_left_out: int
    examples: str

    @property
    def worst_slices(self) -> tuple[SliceReport, ...]:
        """The slices, that which loses most against the constant first."""
        return tuple(sorted(self.slices, key=lambda s: s.constant_log_loss - s.metrics.log_loss))


class BlessingRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a candidate must show before it may go live.

    Args:
        min_loss_gain: by how much its log loss must be below the constant's, in nats.
        min_auc_gain: by how much its AUC must be above 0.5.
        max_loss_increase: by what part its log loss may be above the champion's.
        max_slice_loss_increase: by what part its log loss in a slice may be above the
            champion's there; without a champion, above the constant's.
        min_slice_rows: slices of fewer rows are listed, not judged.
    """

    min_loss_gain: Share = 0.0
    min_auc_gain: Share = 0.01
    max_loss_increase: Share = 0.01
    max_slice_loss_increase: Share = 0.1
    min_slice_rows: Annotated[int, msgspec.Meta(ge=1)] = 200


class Blessing(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict; of one that is not blessed, what spoke against it comes first."""

    blessed: bool
    reasons: tuple[str, ...]


def evaluate(
    scores: Any,
    labels: Any,
    slices: Mapping[str, Any] | None = None,
    *,
    constant: float | None = None,
) -> EvaluationReport:
    """Returns how well scores predict labels, overall and in every slice.

    Args:
        scores: probabilities of the label 1.  # (rows,), or (rows, 2) with one column per class
        labels: 0 or 1, or booleans.  # (rows,)
        slices: by name, a column whose equal values make a slice.  # (rows,) each
        constant: what the constant baseline answers, such as the share of positives among the
            training labels. If None, the share among these labels, which no other constant beats.

    Raises:
        InvalidInput: there are no rows, labels are all alike or not 0 and 1, scores are no
            probabilities, or lengths differ.

    Example:
        >>> report = evaluate([0.9, 0.2, 0.7, 0.4], [1, 0, 1, 0], {"day": ["mo", "mo", "tu", "tu"]})
        >>> report.metrics.auc, [s.title for s in report.slices]
        (1.0, ['day=mo (2 rows)', 'day=tu (2 rows)'])
    """
    truth = _labels(labels)
    probabilities = _probabilities(scores, len(truth))
    if constant is None:
        constant = float(truth.mean())
    elif not 0.0 <= constant <= 1.0:
        raise InvalidInput(f"the constant {constant} is no probability")
    columns = {name: _slice_column(name, v, len(truth)) for name, v in (slices or {}).items()}
    reports: list[SliceReport] = []
    left_out = 0
    for name, column in columns.items():
        found = list(_slices(name, column, probabilities, truth, constant))
        reports.extend(found[:MAX_SLICES])
        left_out += len(found[MAX_SLICES:])
    return EvaluationReport(
        metrics=_metrics(probabilities, truth),
        constant=constant,
        constant_metrics=_metrics(np.full(len(truth), constant), truth),
        slices=tuple(reports),
        slices_left_out=left_out,
        examples=_digest(truth, columns),
    )


def compare(
    candidate: EvaluationReport,
    champion: EvaluationReport | None,
    rules: BlessingRules | None = None,
) -> Blessing:
    """Decides whether the candidate may go live, and says why.

    Args:
        candidate: of the new model.
        champion: of the live model on the same examples; None if nothing is live.
        rules: what to ask for; the defaults if None.

    Raises:
        InvalidInput: the reports are of different examples.
    """
    rules = rules or BlessingRules()
    if champion is not None and champion.examples != candidate.examples:
        raise InvalidInput(
            "candidate and champion were evaluated on different examples",
            remedy="Evaluate both on the same rows, labels and slices.",
        )
    findings = [_beats_constant(candidate, rules), _ranks(candidate, rules)]
    if champion is not None:
        findings.append(_keeps_up(candidate, champion, rules))
    findings.extend(_slice_findings(candidate, champion, rules))
    failed = [text for passed, text in findings if not passed]
    passed = [text for passed, text in findings if passed]
    return Blessing(blessed=not failed, reasons=(*failed, *passed, *_unjudged(candidate, rules)))


_Finding = tuple[bool, str]


def _beats_constant(candidate: EvaluationReport, rules: BlessingRules) -> _Finding:
    loss, constant = candidate.metrics.log_loss, candidate.constant_metrics.log_loss
    good = loss < constant - rules.min_loss_gain
    wanted = f" by more than {rules.min_loss_gain:g}" if rules.min_loss_gain else ""
    return good, (
        f"log loss {loss:.5f} is {'' if good else 'not '}below the constant's "
        f"{constant:.5f}{wanted}"
    )


def _ranks(candidate: EvaluationReport, rules: BlessingRules) -> _Finding:
    auc_found = candidate.metrics.auc
    assert auc_found is not None  # labels of one class are refused
    wanted = 0.5 + rules.min_auc_gain
    good = auc_found > wanted
    return good, f"AUC {auc_found:.4f} is {'' if good else 'not '}above {wanted:.4f}"


def _keeps_up(
    candidate: EvaluationReport, champion: EvaluationReport, rules: BlessingRules
) -> _Finding:
    loss, old = candidate.metrics.log_loss, champion.metrics.log_loss
    limit = old * (1.0 + rules.max_loss_increase)
    good = loss <= limit
    return good, (
        f"log loss {loss:.5f} is {'within' if good else 'above'} {limit:.5f}, which is the "
        f"champion's {old:.5f} and {rules.max_loss_increase:.1%}"
    )


def _slice_findings(
    candidate: EvaluationReport, champion: EvaluationReport | None, rules: BlessingRules
) -> Iterator[_Finding]:
    judged = [s for s in candidate.slices if s.rows >= rules.min_slice_rows]
    if not judged:
        return
    known = {} if champion is None else {(s.column, s.value): s for s in champion.slices}

    def reference(part: SliceReport) -> float:
        other = known.get((part.column, part.value))
        return part.constant_log_loss if other is None else other.metrics.log_loss

    ranked = sorted(judged, key=lambda s: s.metrics.log_loss - reference(s), reverse=True)
    bad = [s for s in ranked if s.metrics.log_loss > _limit(reference(s), rules)]
    whose = "constant's" if champion is None else "champion's"
    for part in bad[:_SHOWN] or ranked[:1]:
        loss, limit = part.metrics.log_loss, _limit(reference(part), rules)
        place = f"in {part.title}" if bad else f"in the worst slice, {part.title},"
        yield (
            not bad,
            (
                f"{place} log loss {loss:.5f} is {'above' if bad else 'within'} {limit:.5f}, "
                f"which is the {whose} {reference(part):.5f} and "
                f"{rules.max_slice_loss_increase:.1%}"
            ),
        )
    if len(bad) > _SHOWN:
        yield False, f"the same holds in {len(bad) - _SHOWN} more slices"


def _limit(reference: float, rules: BlessingRules) -> float:
    return reference * (1.0 + rules.max_slice_loss_increase)


def _unjudged(candidate: EvaluationReport, rules: BlessingRules) -> Iterator[str]:
    small = [s.title for s in candidate.slices if s.rows < rules.min_slice_rows]
    count = len(small) + candidate.slices_left_out
    if count:
        more = "" if count <= _SHOWN else ", …"
        listed = f": {', '.join(small[:_SHOWN])}{more}" if small else ""
        yield f"not judged, having fewer than {rules.min_slice_rows} rows, {count} slices{listed}"


def _labels(labels: Any) -> Array:
    truth = np.asarray(labels)
    if truth.ndim != 1 or truth.size == 0:
        raise InvalidInput(f"labels have the shape {truth.shape}", remedy="Give one per row.")
    if truth.dtype.kind not in "biuf" or not np.isin(truth, (0, 1)).all():
        other = next((v for v in truth.tolist() if v not in (0, 1)), truth[0])
        raise InvalidInput(
            f"a label is {other!r}", remedy="Give 0 and 1: two classes are told apart here."
        )
    if truth.min() == truth.max():
        raise InvalidInput(
            f"all {truth.size} labels are {int(truth[0])}",
            remedy="Evaluate on examples of both classes.",
        )
    return truth.astype(np.float64)


def _probabilities(scores: Any, rows: int) -> Array:
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim == 2 and found.shape[1] == 2:
        found = found[:, 1]
    if found.shape != (rows,):
        raise InvalidInput(
            f"scores have the shape {found.shape} for {rows} labels", remedy="Give one per label."
        )
    bad = ~((found >= 0.0) & (found <= 1.0))
    if bad.any():
        raise InvalidInput(
            f"the score of row {int(bad.argmax())} is {found[bad][0]}",
            remedy="Give probabilities between 0 and 1.",
        )
    return found


def _slice_column(name: str, values: Any, rows: int) -> Array:
    column = np.asarray(values)
    if column.shape != (rows,):
        raise InvalidInput(f"slice column {name!r} has {column.shape} values for {rows} rows")
    if column.dtype.kind == "O":
        column = np.array(["null" if v is None else str(v) for v in column.tolist()])
    return column


def _slices(
    name: str, column: Array, scores: Array, labels: Array, constant: float
) -> Iterator[SliceReport]:
    values, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(counts)
    for at in np.argsort(-counts, kind="stable").tolist():
        rows = order[ends[at] - counts[at] : ends[at]]
        part = labels[rows]
        yield SliceReport(
            column=name,
            value=str(values[at]),
            metrics=_metrics(scores[rows], part),
            constant_log_loss=log_loss(np.full(len(part), constant), part),
        )


def _metrics(scores: Array, labels: Array) -> Metrics:
    both = labels.min() != labels.max()
    return Metrics(
        rows=len(labels),
        positives=float(labels.mean()),
        log_loss=log_loss(scores, labels),
        brier=brier(scores, labels),
        accuracy=accuracy(scores, labels),
        auc=auc(scores, labels) if both else None,
    )


def _digest(labels: Array, slices: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(labels.astype(np.int8).tobytes())
    for name in sorted(slices):
        digest.update(name.encode())
        digest.update("\0".join(map(str, slices[name].tolist())).encode())
    return digest.hexdigest()[:32]
