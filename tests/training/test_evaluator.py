from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array
from tidemill.training.evaluator import (
    MAX_SLICES,
    BlessingRules,
    EvaluationReport,
    compare,
    evaluate,
)

ROWS = 3_000
GENERATOR = np.random.default_rng(0)
CHANCE = GENERATOR.uniform(0.05, 0.95, ROWS)
LABELS = (GENERATOR.random(ROWS) < CHANCE).astype(int)
CARRIER = GENERATOR.choice(["AA", "B6", "UA"], ROWS)
SLICES = {"carrier": CARRIER}


def report(scores: Array) -> EvaluationReport:
    return evaluate(scores, LABELS, SLICES)


def test_metrics_are_those_of_scikit_learn() -> None:
    """Overall and in slices, the numbers are what scikit-learn computes."""
    from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

    found = report(CHANCE)
    parts = [(found.metrics, np.ones(ROWS, bool))]
    parts += [(part.metrics, np.asarray(part.value == CARRIER)) for part in found.slices]
    assert len(parts) == 4
    for metrics, rows in parts:
        scores, labels = CHANCE[rows], LABELS[rows]
        assert metrics.rows == rows.sum()
        assert metrics.positives == pytest.approx(labels.mean())
        assert metrics.log_loss == pytest.approx(log_loss(labels, scores))
        assert metrics.auc == pytest.approx(roc_auc_score(labels, scores))
        assert metrics.brier == pytest.approx(brier_score_loss(labels, scores))
        assert metrics.accuracy == pytest.approx(accuracy_score(labels, scores >= 0.5))


def test_the_constant_is_the_best_in_hindsight_unless_given() -> None:
    """The baseline answers the share of positives, here or as it was in training."""
    assert report(CHANCE).constant == LABELS.mean()
    given = evaluate(CHANCE, LABELS, constant=0.3)
    assert given.constant == 0.3
    assert given.constant_metrics.log_loss > report(CHANCE).constant_metrics.log_loss
    assert given.constant_metrics.auc == 0.5


def test_one_score_or_one_per_class_is_the_same() -> None:
    """A classifier's two columns are judged by the second."""
    both = np.stack([1 - CHANCE, CHANCE], axis=1)
    assert report(both) == report(CHANCE) == evaluate(CHANCE, LABELS.astype(bool), SLICES)


def test_slices_are_listed_by_size_and_by_harm() -> None:
    """Small slices and those of one class are listed as well; the worst is found."""
    labels = np.array([0, 1] * 50 + [1] * 3)
    column = ["many"] * 60 + ["some"] * 40 + [None] * 3
    scores = np.where(np.arange(103) < 60, np.where(labels == 1, 0.8, 0.2), 0.1)
    found = evaluate(scores, labels, {"size": np.array(column, dtype=object)})
    assert [part.title for part in found.slices] == [
        "size=many (60 rows)",
        "size=some (40 rows)",
        "size=null (3 rows)",
    ]
    assert found.slices[2].metrics.auc is None
    assert [part.value for part in found.worst_slices] == ["null", "some", "many"]


def test_a_column_of_very_many_values_is_cut() -> None:
    """The report stays bounded and says what it left out."""
    rows = MAX_SLICES + 10
    found = evaluate(np.full(rows, 0.5), np.arange(rows) % 2, {"row": np.arange(rows)})
    assert (len(found.slices), found.slices_left_out) == (MAX_SLICES, 10)


def test_a_good_candidate_is_blessed_with_reasons() -> None:
    """Without a champion: below the constant's loss, above chance, in every slice."""
    blessing = compare(report(CHANCE), None)
    assert blessing.blessed
    text = "\n".join(blessing.reasons)
    assert "below the constant's" in text
    assert "AUC 0." in text
    assert "worst slice" in text


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (np.full(ROWS, LABELS.mean()), "not below the constant's"),
        (np.full(ROWS, LABELS.mean()), "AUC 0.5000 is not above 0.5100"),
        (1 - CHANCE, "not below the constant's"),
        (np.where(CHANCE < 0.5, 1e-9, 1 - 1e-9), "not below the constant's"),
    ],
)
def test_a_candidate_no_better_than_a_constant_is_not_blessed(scores: Array, reason: str) -> None:
    """Constants, inverted and overconfident scores fail, and the failure comes first."""
    blessing = compare(report(scores), None)
    assert not blessing.blessed
    assert any(reason in text for text in blessing.reasons[:2])


def test_a_candidate_must_keep_up_with_the_champion() -> None:
    """A loss above the champion's and its allowance fails with both numbers."""
    worse = report(0.6 * CHANCE + 0.2)
    blessing = compare(worse, report(CHANCE))
    assert not blessing.blessed
    assert f"{worse.metrics.log_loss:.5f} is above" in blessing.reasons[0]
    assert f"champion's {report(CHANCE).metrics.log_loss:.5f} and 1.0%" in blessing.reasons[0]
    rules = BlessingRules(max_loss_increase=0.5, max_slice_loss_increase=0.5)
    assert compare(worse, report(CHANCE), rules).blessed
    assert compare(report(CHANCE), worse).blessed
    assert compare(report(CHANCE), report(CHANCE)).blessed


def test_one_bad_slice_is_enough() -> None:
    """A candidate that is better overall but bad for one carrier is not blessed."""
    flat = np.where(CARRIER == "B6", 0.4 + 0.2 * CHANCE, CHANCE)
    blessing = compare(report(flat), report(CHANCE), BlessingRules(max_loss_increase=0.5))
    assert not blessing.blessed
    assert "in carrier=B6" in blessing.reasons[0]
    inverted = np.where(CARRIER == "B6", 1 - CHANCE, CHANCE)
    assert "constant's" in next(r for r in compare(report(inverted), None).reasons if "B6" in r)


def test_a_small_slice_is_listed_not_judged() -> None:
    """A slice with few rows cannot stop a candidate, and is said to be unjudged."""
    column = np.where(np.arange(ROWS) < 30, "rare", "common")
    scores = np.where(column == "rare", np.where(LABELS == 1, 0.01, 0.99), CHANCE)
    found = evaluate(scores, LABELS, {"kind": column})
    blessing = compare(found, None)
    assert blessing.blessed
    assert blessing.reasons[-1].endswith("1 slices: kind=rare (30 rows)")
    assert not compare(found, None, BlessingRules(min_slice_rows=30)).blessed


def test_reports_of_other_examples_are_not_compared() -> None:
    """A champion that was evaluated on other rows is no measure."""
    other = evaluate(CHANCE[1:], LABELS[1:], {"carrier": CARRIER[1:]})
    with pytest.raises(InvalidInput, match="different examples"):
        compare(report(CHANCE), other)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "shape"),
        ([0.5, 0.5], [1, 1], "all 2 labels are 1"),
        ([0.5, 0.5], [0, 2], "a label is 2"),
        ([0.5, 0.5], ["a", "b"], "a label is 'a'"),
        ([0.5, 0.5], [0.0, math.nan], "a label is nan"),
        ([0.5], [0, 1], "shape"),
        ([0.5, 1.5], [0, 1], "row 1 is 1.5"),
        ([math.nan, 0.5], [0, 1], "row 0 is nan"),
        (np.full((2, 3), 0.3), [0, 1], "shape"),
    ],
)
def test_what_cannot_be_judged_is_refused(scores: object, labels: object, message: str) -> None:
    """Empty, single-class and foreign labels and scores that are no probabilities are refused."""
    with pytest.raises(InvalidInput, match=message):
        evaluate(scores, labels)


def test_slices_and_constants_are_checked() -> None:
    """A slice column of another length and a constant that is no probability are refused."""
    with pytest.raises(InvalidInput, match="'day'"):
        evaluate([0.5, 0.5], [0, 1], {"day": [1]})
    with pytest.raises(InvalidInput, match="no probability"):
        evaluate([0.5, 0.5], [0, 1], constant=1.5)


def test_reports_and_rules_are_stored_as_json() -> None:
    """Reports come back as they were; rules with unknown keys or negative limits are refused."""
    found = report(CHANCE)
    assert msgspec.json.decode(msgspec.json.encode(found), type=EvaluationReport) == found
    for wrong in ({"min_auc": 0.1}, {"max_loss_increase": -0.1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, BlessingRules)
