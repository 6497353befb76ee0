"""How good predictions were, from scores and labels; numbers equal scikit-learn's.

Scores are probabilities of the positive class, labels are 0 and 1 (or False and True); both are
one-dimensional and of one length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidemill.foundation.errors import InvalidInput

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


def log_losses(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Returns each row's minus log of the probability that was given to what happened, in nats.

    Scores are kept 2.2e-16 away from 0 and 1, so that no row costs more than 36.04.

    Raises:
        InvalidInput: a score is not in 0 … 1, or a label is neither 0 nor 1.
    """
    given, truth = _pair(scores, labels)
    _check_probabilities(given)
    _check_binary(truth)
    kept = np.clip(given, _EPS, 1 - _EPS)
    return -np.log(np.where(truth == 1, kept, 1 - kept))


def log_loss(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean of ``log_losses``.

    Raises:
        InvalidInput: as ``log_losses``, or there is no row.

    Example:
        >>> round(log_loss([0.9, 0.2], [1, 0]), 4)
        0.1643
    """
    return _mean(log_losses(scores, labels))


def brier(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean squared difference of score and label.

    Raises:
        InvalidInput: as ``log_loss``.
    """
    given, truth = _pair(scores, labels)
    _check_probabilities(given)
    _check_binary(truth)
    return _mean((given - truth) ** 2)


def accuracy(scores: ArrayLike, labels: ArrayLike, *, threshold: float = 0.5) -> float:
    """Returns the share of rows whose score is above the threshold exactly if the label is 1.

    Raises:
        InvalidInput: a score is not finite, a label is neither 0 nor 1, or there is no row.
    """
    given, truth = _pair(scores, labels)
    _check_binary(truth)
    return _mean((given > threshold) == (truth == 1))


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the chance that a positive has a higher score than a negative, ties counting half.

    The Mann-Whitney statistic from mid-ranks, in O(n log n). Scores may be any finite numbers.

    Raises:
        InvalidInput: a score is not finite, a label is neither 0 nor 1, or all labels are alike.

    Example:
        >>> auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    given, truth = _pair(scores, labels)
    _check_binary(truth)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        raise InvalidInput(
            f"AUC of {positives} positive and {negatives} negative labels is not defined",
            remedy="Wait for labels of both classes.",
        )
    _, at, counts = np.unique(given, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2
    above = mid_ranks[at][truth == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def rmse(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Returns the root of the mean squared difference.

    Raises:
        InvalidInput: a value is not finite, or there is no row.
    """
    given, truth = _pair(predicted, actual)
    return float(np.sqrt(_mean((given - truth) ** 2)))


def mae(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Returns the mean absolute difference.

    Raises:
        InvalidInput: as ``rmse``.
    """
    given, truth = _pair(predicted, actual)
    return _mean(np.abs(given - truth))


def classification_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Returns ``log_loss``, ``auc``, ``brier`` and ``accuracy``; None where one is not defined.

    Raises:
        InvalidInput: as ``log_losses``.

    Example:
        >>> classification_metrics([0.9, 0.8], [1, 1])["auc"] is None
        True
    """
    given, truth = _pair(scores, labels)
    _check_probabilities(given)
    _check_binary(truth)
    some = len(truth) > 0
    both = some and bool(truth.min() != truth.max())
    return {
        "log_loss": log_loss(given, truth) if some else None,
        "auc": auc(given, truth) if both else None,
        "brier": brier(given, truth) if some else None,
        "accuracy": accuracy(given, truth) if some else None,
    }


def _pair(left: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    try:
        given, truth = np.asarray(left, np.float64), np.asarray(right, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"scores and labels must be numbers: {error}", remedy="Turn text labels into 0 and 1."
        ) from error
    if given.ndim != 1 or given.shape != truth.shape:
        raise InvalidInput(
            f"scores have shape {given.shape} and labels {truth.shape}",
            remedy="Give one score and one label for each row.",
        )
    for name, values in (("score", given), ("label", truth)):
        _refuse(name, values, ~np.isfinite(values), "a finite number")
    return given, truth


def _check_probabilities(scores: Floats) -> None:
    _refuse("score", scores, (scores < 0) | (scores > 1), "a probability from 0 to 1")


def _check_binary(labels: Floats) -> None:
    _refuse("label", labels, (labels != 0) & (labels != 1), "0 or 1")


def _refuse(name: str, values: Floats, bad: NDArray[np.bool_], wanted: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise InvalidInput(
            f"{name} {values[row]} in row {row} is not {wanted}",
            remedy=f"{int(bad.sum())} of {len(values)} rows are like it; leave them out.",
        )


def _mean(values: NDArray[Any]) -> float:
    if not len(values):
        raise InvalidInput("no row to measure", remedy="Wait for labels.")
    return float(values.mean())
