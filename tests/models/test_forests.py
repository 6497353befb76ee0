"""Trees and forests of scikit-learn's, compiled by us, answer as they did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from tidemill.models.compilation import compile_sklearn
from tidemill.models.forests import build_forest_graph, is_forest
from tidemill.models.packagers.sklearn import infer_sklearn_signature
from tidemill.models.runtimes.onnx import OnnxRuntime, check_stands_alone, open_session
from tidemill.models.runtimes.sklearn import SklearnRuntime

FORESTS = (RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)
TREES = (DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor)
LABELS = {
    "numbers": lambda codes: codes * 3 - 2,
    "text": lambda codes: np.array(["a", "b\x00c", "ä", "d"])[codes % 4],
    "unsigned": lambda codes: codes.astype(np.uint8),
}


def both(estimator: Any, rows: Any) -> tuple[Any, Any]:
    """Returns what the estimator answers, and what its graph does."""
    signature = infer_sklearn_signature(estimator)
    data = build_forest_graph(estimator, signature)
    check_stands_alone(data)
    batch = {"x": np.asarray(rows, dtype=np.float64)}
    compiled = OnnxRuntime(open_session(data), signature)
    return SklearnRuntime(estimator, signature).predict(batch), compiled.predict(batch)


def check_same(wanted: Any, got: Any) -> None:
    """Values within the sum's rounding; labels too, but where two classes are as likely."""
    assert wanted.keys() == got.keys()
    if "value" in wanted:
        np.testing.assert_allclose(got["value"], wanted["value"], rtol=1e-5, atol=1e-5)
        return
    np.testing.assert_allclose(got["probabilities"], wanted["probabilities"], atol=2e-6)
    top = np.sort(wanted["probabilities"], axis=1)[:, -2:]
    clear = top[:, -1] - top[:, 0] > 1e-5 if top.shape[1] > 1 else np.ones(len(top), bool)
    assert (got["label"] == wanted["label"])[clear].all()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(FORESTS + TREES),
    labels=st.sampled_from(sorted(LABELS)),
    classes=st.integers(2, 5),
    shape=st.tuples(st.sampled_from([1, 3, None]), st.sampled_from([0.0, 0.1, 1.0])),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_answers_as_the_estimator(
    kind: Any, labels: str, classes: int, shape: tuple[int | None, float], seed: int
) -> None:
    """On its own rows, on others, and on those that lie on a threshold, to the last bit."""
    depth, step = shape
    random = np.random.default_rng(seed)
    rows = random.normal(size=(60, 3)) * random.choice([1e-3, 1.0, 1e6])
    rows = np.round(rows / step) * step if step else rows
    codes = random.integers(0, classes, size=60)
    target = LABELS[labels](codes) if "Classifier" in kind.__name__ else rows[:, 0] * codes
    if len(set(target.tolist())) < 2:
        return
    forest = {"n_estimators": 7} if kind in FORESTS else {}
    estimator = kind(max_depth=depth, random_state=seed % 1000, **forest).fit(rows, target)
    trees = [each.tree_ for each in getattr(estimator, "estimators_", [estimator])]
    cuts = np.concatenate([tree.threshold for tree in trees])[:200]
    edges = np.stack([cuts] * 3, axis=1)
    for asked in (rows, random.normal(size=(50, 3)), edges, np.nextafter(edges, np.inf)):
        check_same(*both(estimator, asked))


def test_a_lone_leaf_and_a_class_that_hardly_shows() -> None:
    """Trees without a question; probabilities of 0 where no leaf knows a class."""
    rows = np.zeros((9, 2))
    for target in (np.arange(9) % 3, np.array([0] * 8 + [1])):
        check_same(*both(RandomForestClassifier(3, random_state=0).fit(rows, target), rows))
    check_same(*both(DecisionTreeRegressor().fit(rows, np.arange(9.0)), rows))


def test_missing_values_go_where_they_went() -> None:
    """A tree that learned where NaN goes keeps to it."""
    rows = np.random.default_rng(0).normal(size=(200, 2))
    rows[::3, 0] = np.nan
    estimator = RandomForestClassifier(5, random_state=0).fit(rows, np.isnan(rows[:, 0]))
    estimator.classes_ = np.array([0, 1])
    signature = infer_sklearn_signature(estimator)
    compiled = OnnxRuntime(open_session(build_forest_graph(estimator, signature)), signature)
    got = compiled.predict({"x": rows})["probabilities"]
    np.testing.assert_allclose(got, estimator.predict_proba(rows), atol=1e-6)


def test_what_is_no_plain_forest_goes_another_way() -> None:
    """Somebody's subclass, several outputs, boolean classes, another estimator."""
    rows, target = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2

    class Turned(RandomForestClassifier):
        def predict_proba(self, x: Any) -> Any:
            return super().predict_proba(x)[:, ::-1]

    assert is_forest(RandomForestClassifier(2).fit(rows, target))
    assert not is_forest(Turned(2).fit(rows, target))
    assert not is_forest(RandomForestClassifier(2).fit(rows, np.stack([target] * 2, axis=1)))
    assert not is_forest(RandomForestClassifier(2).fit(rows, target == 1))
    assert not is_forest(GradientBoostingClassifier(n_estimators=2).fit(rows, target))
    assert not is_forest(BaseEstimator())


def test_a_forest_is_compiled_without_the_general_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a second that a forest need not wait for; the graph is small, and equal."""
    x, y = load_digits(return_X_y=True, as_frame=True)
    estimator = RandomForestClassifier(20, random_state=0).fit(x, y)
    signature = infer_sklearn_signature(estimator)
    rows = {column.name: x[column.name].to_numpy()[:300] for column in signature.inputs}
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    report = compile_sklearn(estimator, signature, rows, folder=tmp_path)
    assert report.equal, report.reason
    assert set(report.input_types.values()) == {"float32"}
    assert (tmp_path / "model.onnx").stat().st_size < 400_000
