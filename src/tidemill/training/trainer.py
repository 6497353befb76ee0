"""Fits an estimator to examples, as a plan says."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.foundation.errors import InvalidInput, InvalidModel, Unavailable
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.training.examples import feature_batch, feature_columns, label_array


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fitted to what.

    Args:
        features: the columns that the model takes.
        label: the column that it predicts.
        kind: "random-forest", "logistic-regression", or "module:function", a function
            ``(features: pandas.DataFrame, labels: numpy.ndarray, *, params: dict, seed: int)``
            that returns a fitted estimator.
        params: what the estimator (or the function) is given beside.
        seed: the same plan on the same examples gives the same model.
    """

    features: tuple[str, ...]
    label: str
    kind: str = "random-forest"
    params: dict[str, Any] = {}
    seed: int = 0


def fit(table: pa.Table, plan: TrainingPlan) -> tuple[Any, Signature]:
    """Returns a fitted estimator and the columns that it takes and gives.

    Strings are one-hot encoded, where an unknown one is all zeros; numbers are passed as they are
    (to the logistic regression, standardised). Classifiers give ``label`` and ``probabilities``,
    regressors ``value``.

    Args:
        table: the examples, one per row.
        plan: what to fit.

    Raises:
        InvalidInput: there are no examples or they are all of one class, a column is missing or
            misses values, or a parameter does not exist.
        InvalidModel: the plan's own function does not give a fitted estimator.
        Unavailable: scikit-learn or pandas is not installed.

    Example:
        >>> table = pa.table({"hour": [1, 2, 3, 4] * 10, "late": [0, 0, 1, 1] * 10})
        >>> estimator, signature = fit(table, TrainingPlan(features=("hour",), label="late"))
        >>> [column.name for column in signature.outputs]
        ['label', 'probabilities']
    """
    if table.num_rows == 0:
        raise InvalidInput("there are no examples to train on")
    columns = feature_columns(table.schema, plan.features)
    if plan.label in plan.features:
        raise InvalidInput(f"{plan.label!r} is both a feature and the label")
    batch = feature_batch(table, columns)
    labels = label_array(table, plan.label)
    make = _KINDS.get(plan.kind)
    if make is None:
        estimator = _fit_own(plan, batch, labels)
    else:
        _check_classes(plan, labels)
        estimator = _fit_known(make(columns, plan), plan, batch, labels)
    return estimator, Signature(columns, _outputs(estimator, plan))


def _check_classes(plan: TrainingPlan, labels: Array) -> None:
    if labels.dtype.kind == "f":
        raise InvalidInput(
            f"label {plan.label!r} holds numbers that are no classes, such as {labels.tolist()[0]}",
            remedy=f"A {plan.kind} tells classes apart: select a boolean, integer or text label.",
        )
    classes = np.unique(labels)
    if len(classes) < 2:
        raise InvalidInput(
            f"all {len(labels)} examples have the {plan.label!r} {classes.tolist()[0]!r}",
            remedy="Train on examples of at least two classes.",
        )


def _fit_known(estimator: Any, plan: TrainingPlan, batch: Batch, labels: Array) -> Any:
    targets = labels.astype(str) if labels.dtype == object else labels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: the evaluation is what counts
            estimator.fit(_frame(batch), targets)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"the {plan.kind} cannot be fitted: {' '.join(str(error).split())[:300]}",
            remedy="Correct the features or the parameters.",
        ) from error
    # Trained on every core; served on as many as the server gives it.
    if "n_jobs" in estimator[-1].get_params():
        estimator[-1].set_params(n_jobs=None)
    return estimator


def _fit_own(plan: TrainingPlan, batch: Batch, labels: Array) -> Any:
    function = own_function(plan.kind)
    estimator = function(_frame(batch), labels, params=dict(plan.params), seed=plan.seed)
    if not hasattr(estimator, "predict"):
        raise InvalidModel(
            f"{plan.kind!r} returned a {type(estimator).__name__}",
            remedy="Return a fitted estimator that can predict.",
        )
    return estimator


def own_function(kind: str) -> Callable[..., Any]:
    """Returns the function that ``module:function`` names.

    Raises:
        InvalidInput: it cannot be imported, or is no function.
    """
    module, separator, name = kind.partition(":")
    if not (separator and module and name):
        raise InvalidInput(
            f"the kind of model {kind!r} is not known",
            remedy=f"Use {', '.join(_KINDS)} or MODULE:FUNCTION.",
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"{kind!r} cannot be imported: {error}",
            remedy="Check the names, and that the module's folder is on PYTHONPATH.",
        ) from error
    if not callable(found):
        raise InvalidInput(f"{kind!r} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def _random_forest(columns: tuple[Column, ...], plan: TrainingPlan) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    defaults = {"n_estimators": 100, "min_samples_leaf": 20, "n_jobs": -1}
    return _pipeline(columns, "passthrough", RandomForestClassifier, defaults, plan)


def _logistic_regression(columns: tuple[Column, ...], plan: TrainingPlan) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    return _pipeline(columns, StandardScaler(), LogisticRegression, {"max_iter": 1000}, plan)


def _pipeline(
    columns: tuple[Column, ...],
    numbers: Any,
    model: type,
    defaults: Mapping[str, Any],
    plan: TrainingPlan,
) -> Any:
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415
    from sklearn.pipeline import Pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415

    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    texts = [column.name for column in columns if column.type == "string"]
    others = [column.name for column in columns if column.type != "string"]
    transformers = [("text", encoder, texts), ("numbers", numbers, others)]
    try:
        final = model(**{"random_state": plan.seed, **defaults, **plan.params})
    except TypeError as error:
        known = ", ".join(sorted(model().get_params()))
        raise InvalidInput(
            f"the {plan.kind} does not take these parameters: {', '.join(plan.params)}",
            remedy=f"Known parameters: {known}.",
        ) from error
    features = ColumnTransformer([each for each in transformers if each[2]])
    return Pipeline([("features", features), ("model", final)])


def _guarded(
    make: Callable[[tuple[Column, ...], TrainingPlan], Any],
) -> Callable[[tuple[Column, ...], TrainingPlan], Any]:
    def made(columns: tuple[Column, ...], plan: TrainingPlan) -> Any:
        try:
            return make(columns, plan)
        except ModuleNotFoundError as error:
            raise Unavailable(
                f"a {plan.kind} needs scikit-learn", remedy="pip install 'tidemill[sklearn]'."
            ) from error

    return made


_KINDS: dict[str, Callable[[tuple[Column, ...], TrainingPlan], Any]] = {
    "random-forest": _guarded(_random_forest),
    "logistic-regression": _guarded(_logistic_regression),
}


def _frame(batch: Batch) -> Any:
    try:
        pandas: Any = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise Unavailable("training needs pandas", remedy="pip install pandas.") from error
    return pandas.DataFrame(batch)


def _outputs(estimator: Any, plan: TrainingPlan) -> tuple[Column, ...]:
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return (Column("value", "float32"),)
    if isinstance(classes, list):
        raise InvalidModel(
            f"{plan.kind!r} gives a classifier with several outputs", remedy="Train one for each."
        )
    kind = {"i": "int64", "u": "int64", "b": "bool"}.get(np.asarray(classes).dtype.kind, "string")
    label = Column("label", kind)
    if not hasattr(estimator, "predict_proba"):
        return (label,)
    return (label, Column("probabilities", "float32", (len(classes),)))
