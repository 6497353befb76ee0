"""The score of one group of served predictions: metrics, baseline, delays and a curve to plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.monitoring import metrics
from tidemill.monitoring.metrics import Floats

Kind = Literal["binary", "multiclass", "regression"]

CURVE_POINTS = 200
WINDOW = 500
"""The labelled predictions of which a point of the curve is also the mean."""

_BUCKETS = 10
_ROUNDING = 1e-6
_DELAYS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """How it stood after a prediction: means of all so far, and of the last ``WINDOW``."""

    n: int
    time: float
    loss: float
    window_loss: float
    baseline_loss: float


class CoverageBucket(msgspec.Struct, frozen=True, kw_only=True):
    """How many predictions with scores from ``low`` to ``high`` have labels.

    Unequal shares mean that labels depend on what was predicted, and the metrics with them.
    """

    low: float
    high: float
    predictions: int
    labelled: int


class ServedScore(msgspec.Struct, frozen=True, kw_only=True):
    """How a group of predictions, as they were served, fared.

    Only mature predictions count. ``reasons`` say why a metric is None.

    Args:
        predictions: mature predictions.
        labelled: those of them that have a usable label.
        coverage: ``labelled / predictions``.
        unusable: mature and labelled, with a score or a label that cannot be measured.
        late: labelled, but observed after the horizon: a decision at the horizon missed them.
        loss: mean log loss in nats; of a regression the mean squared error.
        baseline_loss: the same loss of the constant forecaster that knows, at each prediction,
            only the labels of those before it: their mean.
        prevalence: share of positives; of a regression the mean label.
        label_delay_s: quantiles of ``observed_at`` minus the prediction's time.
        coverage_by_score: of a binary classification, ten buckets.
        curve: at most ``CURVE_POINTS`` points, in prediction order.
    """

    predictions: int
    labelled: int
    coverage: float | None
    unusable: int
    late: int
    loss: float | None = None
    baseline_loss: float | None = None
    prevalence: float | None = None
    auc: float | None = None
    brier: float | None = None
    accuracy: float | None = None
    rmse: float | None = None
    mae: float | None = None
    label_delay_s: dict[str, float] | None = None
    coverage_by_score: tuple[CoverageBucket, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Mature predictions in prediction order, one entry each; NaN where there is nothing.

    ``loss`` and ``right`` (the predicted class is the true one) are given for several classes,
    where score and label alone do not determine them.
    """

    kind: Kind
    time: Floats
    score: Floats
    label: Floats
    labelled: NDArray[np.bool_]
    delay_s: Floats
    loss: Floats
    right: Floats

    def of(self, chosen: NDArray[np.bool_]) -> Rows:
        """Returns the chosen rows, in their order."""
        return Rows(
            kind=self.kind,
            time=self.time[chosen],
            score=self.score[chosen],
            label=self.label[chosen],
            labelled=self.labelled[chosen],
            delay_s=self.delay_s[chosen],
            loss=self.loss[chosen],
            right=self.right[chosen],
        )


def score_rows(rows: Rows, horizon_s: float | None) -> ServedScore:
    """Returns the score of a group; with few labels or none, one that says what it lacks."""
    usable = rows.labelled & np.isfinite(rows.label)
    if rows.kind != "multiclass":
        usable &= np.isfinite(rows.score)
    if rows.kind == "binary":
        usable &= _probable(rows.score)
    judged = rows.of(usable)
    n, labelled = len(rows.time), int(usable.sum())
    reasons: list[str] = []
    found = _metrics(judged, reasons)
    unusable = int(rows.labelled.sum()) - labelled
    if unusable:
        reasons.append(f"{unusable} labelled predictions have a score or label of no use")
    losses = judged.loss if rows.kind == "multiclass" else _losses(judged)
    baseline = _baseline_losses(judged)
    counted = np.isfinite(losses)
    late = np.zeros(labelled, bool) if horizon_s is None else judged.delay_s > horizon_s
    return ServedScore(
        predictions=n,
        labelled=labelled,
        coverage=labelled / n if n else None,
        unusable=unusable,
        late=int(late.sum()),
        loss=_mean(losses[counted]),
        baseline_loss=_mean(baseline[np.isfinite(baseline)]),
        prevalence=None if rows.kind == "multiclass" else _mean(judged.label),
        auc=found.get("auc"),
        brier=found.get("brier"),
        accuracy=found.get("accuracy"),
        rmse=found.get("rmse"),
        mae=found.get("mae"),
        label_delay_s=_quantiles(judged.delay_s),
        coverage_by_score=_coverage_by_score(rows, usable),
        curve=_curve(judged.time[counted], losses[counted], baseline[counted]),
        reasons=tuple(reasons),
    )


def _metrics(rows: Rows, reasons: list[str]) -> dict[str, float | None]:
    if not len(rows.label):
        reasons.append("no mature prediction has a label")
        return {}
    if rows.kind == "regression":
        return {
            "rmse": metrics.rmse(rows.score, rows.label),
            "mae": metrics.mae(rows.score, rows.label),
        }
    if rows.kind == "multiclass":
        reasons.append("AUC and Brier score are those of two classes")
        if not np.isfinite(rows.loss).all():
            reasons.append("some labels are not the number of a class: they have no log loss")
        return {"accuracy": _mean(rows.right[np.isfinite(rows.right)])}
    found = metrics.classification_metrics(np.clip(rows.score, 0, 1), rows.label)
    if found["auc"] is None:
        reasons.append("AUC needs labels of both classes")
        return found
    # Of the scores as they were served: anybody who recomputes it gets the same ties.
    return {**found, "auc": metrics.auc(rows.score, rows.label)}


def _probable(scores: Floats) -> NDArray[np.bool_]:
    return (scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING)


def _losses(rows: Rows) -> Floats:
    if rows.kind == "regression":
        return np.asarray((rows.score - rows.label) ** 2, np.float64)
    return metrics.log_losses(np.clip(rows.score, 0, 1), rows.label)


def _baseline_losses(rows: Rows) -> Floats:
    """Returns the losses of a constant forecaster that has seen the labels before each row.

    Of two classes it starts from one imagined label of each (Laplace's rule of succession); of a
    regression it has nothing to say about the first row.
    """
    before = np.concatenate([[0.0], np.cumsum(rows.label)[:-1]]) if len(rows.label) else rows.label
    seen = np.arange(len(rows.label), dtype=np.float64)
    if rows.kind == "binary":
        return metrics.log_losses((before + 1) / (seen + 2), rows.label)
    nothing = np.full(len(rows.label), np.nan)
    if rows.kind == "multiclass":
        return nothing
    mean = np.divide(before, seen, out=nothing, where=seen > 0)
    return np.asarray((mean - rows.label) ** 2, np.float64)


def _coverage_by_score(rows: Rows, usable: NDArray[np.bool_]) -> tuple[CoverageBucket, ...]:
    if rows.kind != "binary":
        return ()
    scored = _probable(rows.score)
    at = np.clip((rows.score[scored] * _BUCKETS).astype(np.int64), 0, _BUCKETS - 1)
    every = np.bincount(at, minlength=_BUCKETS)
    labelled = np.bincount(at[usable[scored]], minlength=_BUCKETS)
    return tuple(
        CoverageBucket(
            low=k / _BUCKETS,
            high=(k + 1) / _BUCKETS,
            predictions=int(every[k]),
            labelled=int(labelled[k]),
        )
        for k in range(_BUCKETS)
        if every[k]
    )


def _curve(time: Floats, losses: Floats, baseline: Floats) -> tuple[CurvePoint, ...]:
    n = len(losses)
    if not n:
        return ()
    total = np.concatenate([[0.0], np.cumsum(losses)])
    known = np.isfinite(baseline)
    constant = np.cumsum(np.where(known, baseline, 0.0)) / np.maximum(np.cumsum(known), 1)
    points = np.unique(np.linspace(1, n, min(n, CURVE_POINTS)).round().astype(np.int64))
    return tuple(
        CurvePoint(
            n=int(k),
            time=float(time[k - 1]),
            loss=float(total[k] / k),
            window_loss=float((total[k] - total[max(k - WINDOW, 0)]) / min(k, WINDOW)),
            baseline_loss=float(constant[k - 1]),
        )
        for k in points
    )


def _quantiles(delays: Floats) -> dict[str, float] | None:
    known = delays[np.isfinite(delays)]
    if not len(known):
        return None
    found = np.quantile(known, list(_DELAYS.values()))
    return {name: float(value) for name, value in zip(_DELAYS, found, strict=True)}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
