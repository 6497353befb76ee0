"""A model is kept as it came, and one that answers oddly is told so, whatever it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from tidemill.foundation.errors import InvalidModel, ModelFailed
from tidemill.models.packagers.sklearn import infer_sklearn_signature, package_sklearn
from tidemill.models.runtimes.onnx import OnnxRuntime, open_session
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill.models.signature import Column, Signature

X = np.random.default_rng(1).random((60, 2))
Y = (X.sum(axis=1) > 1).astype(int)


class Odd(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Answers one row too many, or fails, where a row says so."""

    classes_ = np.array([0, 1])
    n_features_in_ = 2

    def predict_proba(self, rows: Any) -> Any:
        """One half for each class."""
        if np.max(rows) > 20:
            raise MemoryError("no room\x00")
        return np.full((len(rows) + int(np.max(rows) > 10), 2), 0.5)

    def predict(self, rows: Any) -> Any:
        """Always the first class."""
        return np.zeros(len(rows), dtype=int)


@pytest.fixture
def odd() -> SklearnRuntime:
    """The odd estimator, as it is served."""
    estimator = Odd()
    return SklearnRuntime(estimator, infer_sklearn_signature(estimator))


def test_an_answer_of_other_rows_is_no_answer(odd: SklearnRuntime) -> None:
    """One row too many is an error, not the answer to somebody else's row."""
    assert odd.predict({"x": np.array([[1.0, 2.0]])})["probabilities"].shape == (1, 2)
    with pytest.raises(InvalidModel, match=r"\(2, 2\), not \(1, 2\)"):
        odd.predict({"x": np.array([[1.0, 11.0]])})


@pytest.mark.parametrize("at", [0, 40])
def test_whatever_a_model_raises_is_its_own_failure(tmp_path: Path, at: int) -> None:
    """Errors that no one foresaw name the model as the one that failed."""
    rows = np.ones((64, 2))
    rows[at] = 21.0
    with pytest.raises((InvalidModel, ModelFailed), match="the model raised MemoryError: no room"):
        package_sklearn(Odd(), "odd", None, tmp_path / "m", {"x": rows})


def test_a_graph_that_always_answers_two_rows() -> None:
    """An ONNX output that does not follow the batch is refused for every other number of rows."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [2]),
    ]
    value = helper.make_tensor("two", TensorProto.FLOAT, [2], [1.0, 2.0])
    node = helper.make_node("Constant", [], ["y"], value=value)
    model = helper.make_model(
        helper.make_graph([node], "two", [ends[0]], [ends[1]]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    signature = Signature((Column("x", "float32"),), (Column("y", "float32"),))
    runtime = OnnxRuntime(open_session(model.SerializeToString()), signature)
    assert runtime.predict({"x": np.zeros(2, np.float32)})["y"].tolist() == [1.0, 2.0]
    with pytest.raises(InvalidModel, match="not"):
        runtime.predict({"x": np.zeros(3, np.float32)})


@pytest.mark.parametrize("rows", [{"x": X}, None])
def test_a_stored_estimator_is_kept_byte_for_byte(tmp_path: Path, rows: Any) -> None:
    """Compiled or not, the package holds the very file that it was made from."""
    given = tmp_path / "given.joblib"
    joblib.dump(LogisticRegression().fit(X, Y), given, compress=3)
    manifest = package_sklearn(joblib.load(given), "m", None, tmp_path / "m", rows, stored=given)
    kept = tmp_path / "m" / ("model.joblib" if rows is None else "original/model.joblib")
    assert manifest.runtime == ("sklearn" if rows is None else "onnx")
    assert kept.read_bytes() == given.read_bytes()
