"""scikit-learn's estimators: what they say of themselves, and how a batch is put to them.

Needs NumPy; joblib or pickle only where a file is loaded, pandas only where features have names.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import threading
from typing import Any

import numpy as np

from tidemill_worker.forests import quicken
from tidemill_worker.frames import Batch
from tidemill_worker.functions import InvalidInput, InvalidModel, NotReady, conform, no_answers
from tidemill_worker.imports import import_without
from tidemill_worker.signatures import Column, Signature

_LIKELIEST = {
    "sklearn.calibration.CalibratedClassifierCV",
    "sklearn.ensemble._bagging.BaggingClassifier",
    "sklearn.ensemble._voting.VotingClassifier",
    "sklearn.tree._classes.DecisionTreeClassifier",
    "sklearn.tree._classes.ExtraTreeClassifier",
}
_PIPELINES = {"sklearn.pipeline", "imblearn.pipeline"}
_NEIGHBOURS = "sklearn.neighbors._classification.KNeighborsClassifier"


def load_pickled(data: bytes) -> Any:
    """Returns the object in the bytes of a joblib or pickle file; runs code that they name.

    Raises:
        InvalidModel: they hold none, or what they name is not installed.
    """
    try:
        if b"sklearn" in data:  # it imports pandas, and that Arrow, and f2py's, and uses none
            with contextlib.suppress(ModuleNotFoundError):  # unpickling says what is missing
                import_without("sklearn.utils.fixes", "pandas", "charset_normalizer")
        try:
            load = importlib.import_module("joblib").load
        except ModuleNotFoundError:
            load = pickle.load
        model = load(io.BytesIO(data))
        if getattr(model, "feature_names_in_", None) is not None:
            with contextlib.suppress(ModuleNotFoundError):  # whoever asks the model says so
                _pandas()  # it is needed: now, rather than with the first query
    except Exception as error:
        raise InvalidModel(
            f"the model cannot be unpickled: {type(error).__name__}: {str(error)[:300]}",
            remedy="Require the versions of the libraries that it was made with.",
        ) from error
    return model


def as_estimator(model: Any) -> Any:
    """Returns the model, which is an estimator.

    Raises:
        InvalidModel: it is not.
    """
    if not hasattr(model, "predict"):
        raise InvalidModel(
            f"the file holds a {type(model).__name__}, which cannot predict",
            remedy="Save a fitted estimator or pipeline.",
        )
    return model


class EstimatorModel:
    """A fitted estimator that answers batches; threads take turns.

    Args:
        estimator: fitted.
        signature: what it takes and gives.
    """

    def __init__(self, estimator: Any, signature: Signature) -> None:
        self._estimator: Any = estimator
        self._turn = threading.Lock()
        self.signature = signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each.

        Raises:
            InvalidInput: the estimator raised ValueError or TypeError.
            InvalidModel: its answer does not fit the signature.
            NotReady: it is closed.
        """
        inputs, outputs = self.signature.inputs, self.signature.outputs
        n = batch[inputs[0].name].shape[0]
        estimator = self._estimator
        if estimator is None:
            raise NotReady("the model is closed", remedy="Open it again.")
        if n == 0:
            return no_answers(outputs)
        try:
            with self._turn:
                matrix = features(estimator, inputs, batch)
                raw = answers(estimator, matrix, [column.name for column in outputs])
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"the model refuses the batch: {str(error)[:500]}") from error
        return {column.name: conform(raw, column, n) for column in outputs}

    def close(self) -> None:
        """Gives the estimator back once no call uses it; closing twice does nothing."""
        self._estimator = None


def describe_estimator(estimator: Any) -> Signature:
    """Returns the columns of a fitted estimator.

    Without feature names the input is one vector ``x`` of float64. With them it is one scalar per
    feature: of the type of its encoder's categories where it has one, else float64. Classifiers
    give ``label`` and ``probabilities``, regressors ``value``.

    Raises:
        InvalidModel: it is not fitted, or has several outputs of classes.
    """
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        raise InvalidModel(
            f"the {type(estimator).__name__} does not know its features",
            remedy="Fit it first, or give a signature.",
        )
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        inputs: tuple[Column, ...] = (Column("x", "float64", (int(count),)),)
    else:
        known = _category_types(estimator)
        inputs = tuple(Column(str(name), known.get(str(name), "float64")) for name in names)
    return Signature(inputs, _outputs(estimator))


def final_estimator(estimator: Any) -> Any:
    """Returns the estimator at the end of a (nested) pipeline, or the estimator itself."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def with_threads(estimator: Any, threads: int) -> Any:
    """Returns the estimator, which uses so many threads from now on, in the quickest way."""
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    jobs = {name: threads for name in parameters if name.rpartition("__")[2] == "n_jobs"}
    if jobs:
        estimator.set_params(**jobs)
    quicken(final_estimator(estimator))
    return estimator


def features(estimator: Any, inputs: Any, batch: Batch) -> Any:
    """Returns a data frame where the estimator knows its features by name, else a matrix.

    Args:
        estimator: fitted.
        inputs: the columns that it takes.
        batch: arrays by their names.

    Raises:
        ModuleNotFoundError: its features have names, and there is no pandas.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if inputs[0].shape:
        array = batch[inputs[0].name]
        matrix = array.reshape(array.shape[0], -1)
        return matrix if names is None else _pandas().DataFrame(matrix, columns=names)
    if names is None:
        return np.column_stack([batch[column.name] for column in inputs])
    return _pandas().DataFrame({name: batch[name] for name in names})


def answers(estimator: Any, matrix: Any, wanted: list[str]) -> dict[str, Any]:
    """Returns what the estimator says of the rows, by the names of the outputs wanted."""
    if "value" in wanted:
        return {"value": estimator.predict(matrix)}
    found = {}
    if "probabilities" in wanted:
        found["probabilities"] = estimator.predict_proba(matrix)
    if "label" in wanted:
        if "probabilities" in found and _predicts_the_likeliest(estimator):
            best = found["probabilities"].argmax(axis=1)
            found["label"] = estimator.classes_.take(best)
        else:
            found["label"] = estimator.predict(matrix)
    return found


def _pandas() -> Any:
    return importlib.import_module("pandas")


def _predicts_the_likeliest(estimator: Any) -> bool:
    """Says whether ``predict`` is the first of the highest ``predict_proba``, by definition.

    Asking it twice would double the cost. What others make of these classes may predict otherwise.
    """
    module = type(estimator).__module__
    if hasattr(estimator, "steps"):
        return module in _PIPELINES and _predicts_the_likeliest(estimator.steps[-1][1])
    kind = f"{module}.{type(estimator).__qualname__}"
    if kind == _NEIGHBOURS:
        return bool(
            estimator.weights == "uniform"
        )  # else either sums the weights up in its own way
    return kind in _LIKELIEST or kind.startswith("sklearn.ensemble._forest.")


def _outputs(estimator: Any) -> tuple[Column, ...]:
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        outputs = int(getattr(final_estimator(estimator), "n_outputs_", 1))
        return (Column("value", "float32", () if outputs == 1 else (outputs,)),)
    if isinstance(classes, list):
        raise InvalidModel(
            "the classifier has several outputs", remedy="Push one model for each of them."
        )
    label = Column("label", _class_type(classes))
    if not hasattr(estimator, "predict_proba"):
        return (label,)
    return (label, Column("probabilities", "float32", (len(classes),)))


def _category_types(estimator: Any) -> dict[str, str]:
    """Returns the types of the features that a column transformer's encoders know."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[0][1]
    types: dict[str, str] = {}
    for _, transformer, columns in getattr(estimator, "transformers_", ()):
        while hasattr(transformer, "steps"):
            transformer = transformer.steps[0][1]  # noqa: PLW2901 - the first step sees the column
        names = [columns] if isinstance(columns, str) else columns
        if isinstance(names, slice) or not hasattr(transformer, "categories_"):
            continue
        for column, categories in zip(names, transformer.categories_, strict=True):
            types[str(column)] = _class_type(categories)
    return types


def _class_type(values: Any) -> str:
    kinds = {"i": "int64", "u": "int64", "b": "bool", "f": "float64"}
    return kinds.get(np.asarray(values).dtype.kind, "string")
