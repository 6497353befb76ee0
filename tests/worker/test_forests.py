"""A forest that is asked tree by tree answers as scikit-learn's own method does."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tidemill_worker.estimators import with_threads
from tidemill_worker.forests import quicken

DRAWN = np.random.default_rng(3)
ROWS = DRAWN.normal(size=(200, 5))
CLASSES = np.where(ROWS[:, 0] > 0.3, "high", np.where(ROWS[:, 1] > 0, "middle", "low"))
ASKED = DRAWN.normal(size=(64, 5)) * 3

CLASSIFIERS = [
    RandomForestClassifier(20, random_state=0),
    ExtraTreesClassifier(20, random_state=0),
    make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)),
]
REGRESSORS = [RandomForestRegressor(20, random_state=0), ExtraTreesRegressor(20, random_state=0)]


def both(estimator: Any, rows: Any, told: Any) -> tuple[Any, Any]:
    """Returns a fitted estimator as it is, and one that is as quick as can be."""
    data = pickle.dumps(estimator.fit(rows, told))
    return with_threads(pickle.loads(data), 2), with_threads(pickle.loads(data), 1)


def quick(estimator: Any) -> bool:
    """Says whether an estimator, or the end of a pipeline, got another way to its answers."""
    return bool(
        {"predict", "predict_proba"}
        & vars(getattr(estimator, "steps", [(0, estimator)])[-1][1]).keys()
    )


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_a_classifier_gives_the_same_bits(estimator: Any, kind: type[Any]) -> None:
    """Probabilities and labels, of one row and of many, whatever the numbers' type."""
    slow, fast = both(estimator, ROWS, CLASSES)
    slow.set_params(**{name: 1 for name in slow.get_params() if name.endswith("n_jobs")})
    assert quick(fast)
    assert not quick(slow)
    for rows in (ASKED[:1].astype(kind), ASKED.astype(kind)):
        np.testing.assert_array_equal(fast.predict_proba(rows), slow.predict_proba(rows))
        np.testing.assert_array_equal(fast.predict(rows), slow.predict(rows))


@pytest.mark.parametrize("estimator", REGRESSORS, ids=lambda each: type(each).__name__)
def test_a_regressor_gives_the_same_bits(estimator: Any) -> None:
    """Values of one row and of many."""
    slow, fast = both(estimator, ROWS, ROWS[:, 0] - ROWS[:, 1])
    slow.set_params(n_jobs=1)
    assert quick(fast)
    for rows in (ASKED[:1], ASKED):
        np.testing.assert_array_equal(fast.predict(rows), slow.predict(rows))


def test_named_features_and_missing_values_are_the_forests_own_business() -> None:
    """A frame is read by its names, and missing values go where the trees learned to send them."""
    named = pd.DataFrame(np.where(ROWS > 1.5, np.nan, ROWS), columns=list("abcde"))
    slow, fast = both(RandomForestClassifier(20, random_state=0), named, CLASSES)
    slow.set_params(n_jobs=1)
    assert quick(fast)
    np.testing.assert_array_equal(fast.predict_proba(named), slow.predict_proba(named))


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("value", [np.inf, 1e300])
def test_what_a_forest_refuses_is_refused(value: float) -> None:
    """A number that is none, or that 32 bits do not hold, and a row of another width."""
    slow, fast = both(RandomForestClassifier(5, random_state=0), ROWS, CLASSES)
    rows = ASKED[:2].copy()
    rows[1, 3] = value
    for forest in (slow, fast):
        with pytest.raises(ValueError, match=r"infinity|too large"):
            forest.predict_proba(rows)
        with pytest.raises(ValueError, match="features"):
            forest.predict_proba(ASKED[:, :4])


def test_what_is_no_such_forest_stays_as_it_is() -> None:
    """Several outputs, several threads, another ensemble, a class of somebody's own, no trees."""

    class Own(RandomForestClassifier):
        """It may do anything."""

    several = RandomForestRegressor(3).fit(ROWS, ROWS[:, :2])
    threads = RandomForestClassifier(3, n_jobs=2).fit(ROWS, CLASSES)
    boosted = GradientBoostingClassifier(n_estimators=2).fit(ROWS, CLASSES)
    for forest in (several, threads, boosted, Own(3).fit(ROWS, CLASSES), RandomForestClassifier()):
        quicken(forest)
        assert not quick(forest)


def test_a_forest_that_would_say_something_else_stays_as_it_is() -> None:
    """Where its own method does not add its trees up, nobody does it in its place."""
    forest = RandomForestClassifier(5, random_state=0).fit(ROWS, CLASSES)
    forest.estimators_[0].predict_proba = lambda rows, check_input: np.ones((len(rows), 3)) / 3
    quicken(forest)
    assert not quick(forest)
