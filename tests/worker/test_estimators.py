"""An estimator answers alike in an environment of its own and where Tidemill runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from tidemill.models.packagers.sklearn import infer_sklearn_signature, package_sklearn
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill_worker.estimators import (
    EstimatorModel,
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
