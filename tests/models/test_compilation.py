"""A compiled model is used only where it was found equal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tidemill.models.compilation import COMPILED, _compare, compile_sklearn
from tidemill.models.format import read_manifest
from tidemill.models.packagers.sklearn import infer_sklearn_signature
from tidemill.models.runtimes.onnx import OnnxRuntime, open_session
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill.models.signature import Batch, Signature

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(400, 5))
Y = (X.sum(axis=1) > 0).astype(np.int64)


def compiled(estimator: Any, folder: Path, rows: Batch | None = None) -> Any:
    """Returns the report of compiling the estimator."""
    signature = infer_sklearn_signature(estimator)
    return compile_sklearn(estimator, signature, rows or {"x": X}, folder=folder)


def compared(estimator: Any, signature: Signature, data: bytes, x: Any) -> Any:
    """Returns in what a graph differs from the estimator."""
    original, graph = (
        SklearnRuntime(estimator, signature),
        OnnxRuntime(open_session(data), signature),
    )
    return _compare(original, graph, estimator.classes_, ({"x": x},), 1e-5)


def test_a_forest_on_digits_is_equal(digits: Any) -> None:
    """The forest of digits compiles: no label differs, and every row was compared, twice."""
    manifest = read_manifest(digits.folder)
    report = manifest.compiled_from
    assert manifest.runtime == "onnx"
    assert manifest.trust == "data"
    assert report is not None
    assert report.equal
    assert report.rows == report.shuffled_rows == 1797
    assert report.label_disagreements == 0
    assert report.max_difference is not None
    assert report.max_difference <= report.tolerance == 1e-5
    assert report.original_latency is not None
    assert manifest.latency is not None
    assert report.original_latency.batch_1_s > 10 * manifest.latency.batch_1_s


@pytest.mark.parametrize("name", ["delays", "minutes"])
def test_tables_with_strings_and_numbers_are_equal(request: Any, name: str) -> None:
    """One-hot strings, integers and floats compile, for classifiers and regressors."""
    report = read_manifest(request.getfixturevalue(name).folder).compiled_from
    assert report is not None
    assert report.equal, report.reason


def test_a_scaler_before_trees_is_detected(scaled: Any) -> None:
    """Scaling in 32 bits moves values over thresholds: the estimator is served, with the reason."""
    manifest = read_manifest(scaled.folder)
    report = manifest.compiled_from
    assert manifest.runtime == "sklearn"
    assert manifest.trust == "code"
    assert report is not None
    assert not report.equal
    assert report.reason is not None
    assert "differ" in report.reason
    assert report.attempts
    assert not list(scaled.folder.rglob("*.onnx"))


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(10, random_state=0),
        LogisticRegression(),
        RidgeClassifier(),
        SVC(),
        LinearRegression(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_common_estimators_compile(estimator: Any, tmp_path: Path) -> None:
    """What skl2onnx knows becomes one file that the runtime loads under the signature."""
    estimator.fit(X, Y)
    report = compiled(estimator, tmp_path)
    assert report.equal, report.reason
    signature = infer_sklearn_signature(estimator)
    runtime = OnnxRuntime(open_session((tmp_path / COMPILED).read_bytes()), signature)
    assert set(runtime.predict({"x": X})) == {column.name for column in signature.outputs}


@pytest.mark.parametrize(
    "labels",
    [Y.astype(bool), Y.astype(float), Y * 7 - 3, np.array(["no", "yés"], dtype=object)[Y]],
    ids=["bool", "float", "negative", "text"],
)
def test_labels_keep_their_type(labels: Any, tmp_path: Path) -> None:
    """Labels of any kind come out of the compiled model as they do of the original."""
    estimator = LogisticRegression().fit(X, labels)
    report = compiled(estimator, tmp_path)
    assert report.equal, report.reason
    runtime = OnnxRuntime(
        open_session((tmp_path / COMPILED).read_bytes()), infer_sklearn_signature(estimator)
    )
    np.testing.assert_array_equal(runtime.predict({"x": X})["label"], estimator.predict(X))


class Stubborn(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator that no converter knows."""

    def fit(self, x: Any, y: Any) -> "Stubborn":
        self.classes_ = np.unique(y)
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, x: Any) -> Any:
        return self.classes_[(x[:, 0] > 0).astype(int)]


@pytest.mark.parametrize("estimator", [Stubborn(), HistGradientBoostingClassifier(max_iter=3)])
def test_what_cannot_be_compiled_is_a_reason(estimator: Any, tmp_path: Path) -> None:
    """A converter that fails is a reason in the report, with every attempt, and no file."""
    report = compiled(estimator.fit(X, Y), tmp_path)
    if isinstance(estimator, Stubborn):
        assert not report.equal
    assert report.equal == (tmp_path / COMPILED).exists()
    assert report.equal or (report.reason and report.attempts)


def test_without_rows_nothing_is_compared(tmp_path: Path) -> None:
    """No rows, no verdict: the estimator is not compiled."""
    report = compiled(LogisticRegression().fit(X, Y), tmp_path, {"x": X[:0]})
    assert not report.equal
    assert report.reason == "there are no rows to compare on"


def test_another_models_graph_is_not_equal(tmp_path: Path) -> None:
    """A graph that answers otherwise is found out by its probabilities and labels."""
    signature = infer_sklearn_signature(first := LogisticRegression().fit(X, Y))
    other = LogisticRegression().fit(X, np.roll(Y, 1))
    assert compiled(other, tmp_path).equal
    data = (tmp_path / COMPILED).read_bytes()
    found = compared(first, signature, data, X)
    assert found.reason is not None
    assert found.label_disagreements > 0


class Tied(LogisticRegression):  # type: ignore[misc]
    """Says the other class where the two are exactly as likely."""

    def predict(self, x: Any) -> Any:
        even = np.abs(self.decision_function(x)) < 1e-9
        return np.where(even, self.classes_[1] - super().predict(x), super().predict(x))


@pytest.mark.parametrize("rows", [1, 40])
def test_near_ties_are_allowed_and_counted(rows: int, tmp_path: Path) -> None:
    """Labels may differ where both classes are equally likely, and those rows are counted."""
    x = np.concatenate([X, np.zeros((rows, 5))])
    plain = LogisticRegression(fit_intercept=False).fit(X, Y)
    assert compiled(plain, tmp_path).equal
    data = (tmp_path / COMPILED).read_bytes()
    tied = Tied(fit_intercept=False).fit(X, Y)
    found = compared(tied, infer_sklearn_signature(plain), data, x)
    assert found.reason is None
    assert found.near_ties == rows


def test_large_integers_are_not_squeezed_into_32_bits(
    flights_rows: Any, make_tabular: Any, tmp_path: Path
) -> None:
    """Where integers are beyond what float32 holds, they are not fed as float32."""
    frame, batch, labels = flights_rows
    batch = {**batch, "distance": batch["distance"] + (1 << 26)}
    frame = frame.assign(distance=batch["distance"])
    estimator = make_tabular(trees=3).fit(frame, labels)
    signature = infer_sklearn_signature(estimator)
    signature = Signature(
        tuple(
            type(c)(c.name, "int64" if c.name in ("month", "distance") else c.type)
            for c in signature.inputs
        ),
        signature.outputs,
    )
    report = compile_sklearn(estimator, signature, batch, folder=tmp_path)
    assert report.input_types["distance"] in ("int64", "float64")


def test_the_scaler_itself_is_no_obstacle(
    flights_rows: Any, make_tabular: Any, tmp_path: Path
) -> None:
    """A scaler before a linear model, which has no thresholds, compiles."""
    frame, batch, labels = flights_rows
    estimator = make_tabular(StandardScaler())
    estimator.steps[-1] = ("linear", LogisticRegression(max_iter=2000))
    report = compile_sklearn(
        estimator.fit(frame, labels),
        infer_sklearn_signature(estimator),
        batch,
        folder=tmp_path,
    )
    assert report.equal, report.reason


def test_what_is_compiled_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Operator sets are listed in the order of their names, not in that of a set of strings."""
    import onnx

    forest = RandomForestClassifier(3, random_state=0).fit(X, Y)
    assert compiled(forest, tmp_path).equal
    used = onnx.load(tmp_path / COMPILED).opset_import
    assert len(used) > 1
    assert [each.domain for each in used] == sorted(each.domain for each in used)
