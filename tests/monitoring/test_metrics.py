from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from tidemill.foundation.errors import InvalidInput
from tidemill.monitoring.metrics import (
    accuracy,
    auc,
    brier,
    classification_metrics,
    log_loss,
    log_losses,
    mae,
    rmse,
)

# Few distinct scores make ties, and 0 and 1 make certainty; both are where formulas differ.
SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
ROWS = st.lists(st.tuples(SCORES, st.integers(0, 1)), min_size=2, max_size=200)
NUMBERS = st.floats(-1e6, 1e6)


@given(ROWS)
@settings(deadline=None)
def test_classification_metrics_are_scikit_learns(rows: list[tuple[float, int]]) -> None:
    """For any scores, ties and certainties included, the numbers agree to 1e-12."""
    scores, labels = (np.array(column, float) for column in zip(*rows, strict=True))
    assert log_loss(scores, labels) == pytest.approx(
        reference.log_loss(labels, scores, labels=[0, 1]), rel=1e-12, abs=1e-12
    )
    assert brier(scores, labels) == pytest.approx(
        reference.brier_score_loss(labels, scores), abs=1e-12
    )
    assert accuracy(scores, labels) == pytest.approx(
        reference.accuracy_score(labels, scores > 0.5), abs=1e-12
    )
    if 0 < labels.sum() < len(labels):
        assert auc(scores, labels) == pytest.approx(
            reference.roc_auc_score(labels, scores), abs=1e-12
        )
    assert classification_metrics(scores, labels)["brier"] == brier(scores, labels)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=100))
@settings(deadline=None)
def test_regression_metrics_are_scikit_learns(rows: list[tuple[float, float]]) -> None:
    """Root mean squared and mean absolute error agree to 1e-12, relatively."""
    predicted, actual = (np.array(column) for column in zip(*rows, strict=True))
    assert rmse(predicted, actual) == pytest.approx(
        reference.root_mean_squared_error(actual, predicted), rel=1e-12
    )
    assert mae(predicted, actual) == pytest.approx(
        reference.mean_absolute_error(actual, predicted), rel=1e-12
    )


@given(ROWS)
@settings(deadline=None)
def test_auc_depends_on_order_alone(rows: list[tuple[float, int]]) -> None:
    """It is the same after a rising change of the scores, and turns around with the labels."""
    scores, labels = (np.array(column, float) for column in zip(*rows, strict=True))
    if 0 < labels.sum() < len(labels):
        ranks = np.unique(scores, return_inverse=True)[1]
        assert auc(ranks * 7.0 - 3, labels) == pytest.approx(auc(scores, labels), abs=1e-12)
        assert auc(scores, 1 - labels) == pytest.approx(1 - auc(scores, labels), abs=1e-12)


def test_large_groups_are_exact_and_fast() -> None:
    """A million rows with many ties: the sums of ranks do not overflow or drift."""
    random = np.random.default_rng(0)
    scores = random.integers(0, 100, 1_000_000) / 100
    labels = random.random(1_000_000) < scores
    assert auc(scores, labels) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)


def test_what_cannot_be_measured_is_refused_with_its_row() -> None:
    """A score, a label or a shape that makes no sense is named; nothing becomes a number."""
    with pytest.raises(InvalidInput, match=r"score 1\.5 in row 1 is not a probability"):
        log_loss([0.5, 1.5], [0, 1])
    with pytest.raises(InvalidInput, match="score nan in row 0 is not a finite number"):
        auc([np.nan, 1], [0, 1])
    with pytest.raises(InvalidInput, match=r"label 2\.0 in row 1 is not 0 or 1"):
        brier([0.5, 0.5], [0, 2])
    with pytest.raises(InvalidInput, match="shape"):
        rmse([1.0, 2.0], [1.0])
    with pytest.raises(InvalidInput, match="must be numbers"):
        accuracy(["a"], [1])
    with pytest.raises(InvalidInput, match="1 positive and 0 negative"):
        auc([0.5], [1])
    for empty in (log_loss, brier, accuracy, rmse, mae):
        with pytest.raises(InvalidInput, match="no row"):
            empty([], [])


def test_what_is_not_defined_is_none_in_the_summary() -> None:
    """One class has no AUC; no rows have nothing."""
    assert classification_metrics([0.5], [1])["auc"] is None
    assert set(classification_metrics([], []).values()) == {None}


def test_a_certain_error_is_bounded() -> None:
    """One row that was sure and wrong does not make the mean infinite."""
    assert log_losses([0.0, 1.0], [1, 0]).max() < 36.05
