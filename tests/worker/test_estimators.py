"""An estimator answers alike in an environment of its own and where Tidemill runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from tidemill.models.packagers.sklearn import infer_sklearn_signature, package_sklearn
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill_worker.estimators import (
    EstimatorModel,
    answers,
    as_estimator,
    describe_estimator,
    load_pickled,
)
from tidemill_worker.functions import Corrupted, InvalidInput, InvalidModel, NotTrusted
from tidemill_worker.loading import open_model

DRAWN = np.random.default_rng(5)
ROWS = DRAWN.normal(size=(60, 2))
NAMED = pd.DataFrame(ROWS, columns=["a", "b"])
LATE = np.where(ROWS[:, 0] > 0, "late", "early")
COARSE = DRAWN.integers(0, 3, (90, 2)).astype(float)
"""So few different rows of so many classes that most rows have several likeliest classes."""
MIXED = DRAWN.choice(["c", "a", "b"], 90)
BOTH = ["label", "probabilities"]


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (RandomForestClassifier(3, random_state=0).fit(ROWS, LATE), {"x": ROWS}),
        (LogisticRegression().fit(NAMED, LATE), {"a": ROWS[:, 0], "b": ROWS[:, 1]}),
        (LinearRegression().fit(ROWS, ROWS[:, 0]), {"x": ROWS}),
    ],
)
def test_it_answers_as_where_tidemill_runs(estimator: Any, rows: dict[str, Any]) -> None:
    """The same columns, and the same answers of the same types."""
    described = describe_estimator(as_estimator(load_pickled(pickle.dumps(estimator))))
    signature = infer_sklearn_signature(estimator)
    assert msgspec.to_builtins(described) == msgspec.to_builtins(signature)
    ours = SklearnRuntime(estimator, signature).predict(rows)
    theirs = EstimatorModel(estimator, described).predict(rows)
    assert {name: (a.dtype, a.shape) for name, a in ours.items()} == {
        name: (a.dtype, a.shape) for name, a in theirs.items()
    }
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_a_folder_is_opened_once_it_is_whole_and_trusted(tmp_path: Path) -> None:
    """Neither an unvouched nor a changed estimator is unpickled; a refusal is typed."""
    estimator = LogisticRegression().fit(ROWS, LATE)
    package_sklearn(estimator, "it", infer_sklearn_signature(estimator), tmp_path, None)
    with pytest.raises(NotTrusted):
        open_model(tmp_path, trust_code=False, threads=1)
    model = open_model(tmp_path, trust_code=True, threads=1)
    with pytest.raises(InvalidInput, match="refuses"):
        model.predict({"x": np.full((1, 2), np.nan)})
    entry = next(tmp_path.glob("*.joblib"))
    entry.write_bytes(entry.read_bytes() + b".")
    with pytest.raises(Corrupted):
        open_model(tmp_path, trust_code=True, threads=1)


@pytest.mark.parametrize(
    ("data", "said"), [(b"nothing", "cannot be unpickled"), (pickle.dumps(3), "cannot predict")]
)
def test_what_is_no_estimator_is_refused(data: bytes, said: str) -> None:
    """The refusal says what it is instead."""
    with pytest.raises(InvalidModel, match=said):
        as_estimator(load_pickled(data))


@pytest.mark.parametrize(
    "estimator",
    [
        KNeighborsClassifier(4),
        KNeighborsClassifier(4, algorithm="brute"),
        make_pipeline(StandardScaler(), KNeighborsClassifier(2, algorithm="kd_tree")),
        DecisionTreeClassifier(max_depth=2, random_state=0),
        ExtraTreeClassifier(max_depth=1, random_state=0),
        BaggingClassifier(n_estimators=4, random_state=0),
        BaggingClassifier(KNeighborsClassifier(2), n_estimators=2, random_state=0),
        VotingClassifier([("near", KNeighborsClassifier(2))], voting="soft"),
        CalibratedClassifierCV(DecisionTreeClassifier(max_depth=2, random_state=0)),
    ],
    ids=repr,
)
def test_who_predicts_the_likeliest_is_asked_once(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label is the one that the estimator predicts, also where classes are as likely."""
    rows = np.unique(COARSE, axis=0)
    estimator.fit(COARSE, MIXED)
    predicted, probabilities = estimator.predict(rows), estimator.predict_proba(rows)

    def asked_twice(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(estimator, "predict", asked_twice)
    found = answers(estimator, rows, BOTH)
    np.testing.assert_array_equal(found["label"], predicted)
    np.testing.assert_array_equal(found["probabilities"], probabilities)


class Contrary(KNeighborsClassifier):
    """Predicts the unlikeliest."""

    def predict(self, rows: Any) -> Any:
        return self.classes_.take(self.predict_proba(rows).argmin(axis=1))


class Cautious(Pipeline):
    """Predicts its first class, unless it is sure."""

    def predict(self, X: Any, **_: Any) -> Any:  # noqa: N803 - scikit-learn's name
        found = self.predict_proba(X)
        return self.classes_.take(np.where(found.max(axis=1) > 0.9, found.argmax(axis=1), 0))


@pytest.mark.parametrize(
    "estimator",
    [
        Contrary(5),
        KNeighborsClassifier(4, weights="distance"),
        Cautious([("tree", DecisionTreeClassifier(max_depth=2, random_state=0))]),
    ],
)
def test_who_may_predict_otherwise_is_asked_what_it_predicts(estimator: Any) -> None:
    """A class that somebody made of scikit-learn's, and one that sums up in another way."""
    estimator.fit(COARSE, MIXED)
    found = answers(estimator, COARSE + 0.25, BOTH)
    np.testing.assert_array_equal(found["label"], estimator.predict(COARSE + 0.25))
