"""River's models: what they say of themselves, and how a batch is put to them, row by row.

River's own ``predict_many`` adds in another order than ``predict_one``, and is quicker only from
some hundred rows on: it is not used, so that a row has the same answer whatever rows come with it.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill_worker.frames import Batch
from tidemill_worker.functions import InvalidInput, InvalidModel, NotReady, conform
from tidemill_worker.signatures import Column, Signature
from tidemill_worker.warmup import synthetic_row

Class = bool | int | float | str
Row = dict[Any, Any]
Answer = Mapping[str, Any]

_PER_FEATURE = (
    *("counts", "means", "min", "abs_max", "median", "values", "_latest", "variances"),
    *("weights", "w", "feature_counts", "limits", "features_"),
)
"""Where estimators of River keep one thing per feature, by its name."""

_KEEPING_NAMES = frozenset(
    (
        *("StandardScaler", "AdaptiveStandardScaler", "MinMaxScaler", "MaxAbsScaler"),
        *("RobustScaler", "Normalizer", "Binarizer", "PreviousImputer", "StatImputer"),
        *("Select", "SelectType", "VarianceThreshold"),
    )
)
"""Transformers whose features come out under the names that they went in by."""

_ANOMALY_BASE = "river.anomaly.base"
_MAX_CLASSES = 10_000
_TYPES: dict[type, str] = {bool: "bool", int: "int64", float: "float64", str: "string"}


def is_river(model: Any) -> bool:
    """Says whether an object is a model of River's; River is not imported to find out."""
    base = sys.modules.get("river.base")
    return base is not None and isinstance(model, base.Base)


def describe_river(
    model: Any, inputs: Sequence[Column] | None = None, rows: Batch | None = None
) -> tuple[Signature, tuple[Class, ...]]:
    """Returns the columns of a model that has learned, and its classes if it has any, in order.

    Inputs are one scalar per feature: float64, or what a one-hot encoder has seen; features that
    are numbered from 0 are one vector ``x``. Classifiers give ``label`` and, if they can,
    ``probabilities``, in the sorted order of the classes; regressors give ``value``, detectors of
    anomalies ``score``, and ``anomaly`` if they decide, clusterers ``cluster``.

    Args:
        model: it has learned.
        inputs: what it takes; found in what it has learned if None.
        rows: more rows to ask for its classes; it is asked zeros anyway if None.

    Raises:
        InvalidModel: it is of another kind, does not know its features, or does not answer.
    """
    known = tuple(inputs) if inputs is not None else _inputs(model)
    asked = list(_rows(known, synthetic_row(known) if rows is None else rows))
    last = _last(model)
    if _is_a(last, "Classifier"):
        classes = _classes(model, asked)
        label = Column("label", _type_of(classes))
        if not _tells_probabilities(model, asked[0]):
            return Signature(known, (label,)), classes
        shape = (len(classes),)
        return Signature(known, (label, Column("probabilities", "float32", shape))), classes
    return Signature(known, _outputs(last)), ()


class RiverModel:
    """A River model that answers batches and learns nothing from them; threads take turns.

    Args:
        model: it has learned.
        signature: what it takes and gives.
        classes: of a classifier, in the order of its ``probabilities``.

    Raises:
        InvalidModel: the signature is not one that a River model can have.
    """

    def __init__(self, model: Any, signature: Any, classes: Sequence[Class]) -> None:
        _check_inputs(signature.inputs)
        _forbid_learning()
        self._model: Any = model
        self._turn = threading.Lock()
        self._answer = _answering(model, signature.outputs, tuple(classes))
        self.signature = signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each.

        Raises:
            InvalidInput: a value is no single value, or the model refuses it.
            InvalidModel: its answer does not fit the signature.
            NotReady: it is closed.
        """
        inputs, outputs = self.signature.inputs, self.signature.outputs
        n = batch[inputs[0].name].shape[0]
        _check_batch(inputs, batch)
        try:
            with self._turn:
                if self._model is None:
                    raise NotReady("the model is closed", remedy="Open it again.")
                found = [self._answer(row) for row in _rows(inputs, batch)]
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidInput(f"the model refuses the batch: {str(error)[:500]}") from error
        return {c.name: conform({c.name: [row[c.name] for row in found]}, c, n) for c in outputs}

    def check_steady(self, batch: Batch) -> None:
        """Makes sure that rows are answered alike when they come again, in another order.

        Raises:
            InvalidModel: they are not: the model learns, or draws, while it predicts.
        """
        first = self.predict(batch)
        again = self.predict({name: array[::-1] for name, array in batch.items()})
        for name, array in first.items():
            if not np.array_equal(array, again[name][::-1], equal_nan=array.dtype.kind == "f"):
                raise InvalidModel(
                    f"the model gives another {name!r} when it is asked the same rows again",
                    remedy="Save one whose predict_one neither learns nor draws.",
                )

    def close(self) -> None:
        """Gives the model back once no call uses it; closing twice does nothing."""
        with self._turn:
            self._model = self._answer = None  # type: ignore[assignment]


def _inputs(model: Any) -> tuple[Column, ...]:
    features = _features(model)
    if not features:
        raise InvalidModel(
            f"the {type(_last(model)).__name__} does not tell the names of its features",
            remedy="Say what it takes and gives, with --signature.",
        )
    if set(features) == set(range(len(features))):
        return (Column("x", "float64", (len(features),)),)
    if not all(isinstance(name, str) for name in features):
        # Columns have names: asked by them, it would take each feature for one that it never saw.
        raise InvalidModel(
            f"the {type(_last(model)).__name__} numbers its features otherwise than from 0 on: "
            f"{', '.join(map(str, features))[:200]}",
            remedy="Say that it takes one vector up to the last of them, with --signature.",
        )
    return tuple(Column(str(name), kind) for name, kind in features.items())


def _features(step: Any) -> dict[Any, str] | None:
    """Returns the features that a step has seen, with their types; None if it does not tell."""
    if hasattr(step, "transformers"):
        found: dict[Any, str] = {}
        for each in step.transformers.values():
            told = _features(each)
            if told is None:
                return None
            found |= told
        return found
    if not hasattr(step, "steps"):
        return _own_features(step)
    known: dict[Any, str] | None = None
    for each in step.steps.values():
        told = _features(each)
        if told is not None:
            known = told if known is None else {n: told.get(n, kind) for n, kind in known.items()}
        if type(each).__name__ not in _KEEPING_NAMES:
            break
    return known


def _own_features(step: Any) -> dict[Any, str] | None:
    if type(step).__name__ == "Select":
        names = sorted(step.keys, key=str)
        return dict.fromkeys(names, "float64") if all(type(n) in _TYPES for n in names) else None
    for attribute in _PER_FEATURE:
        told = getattr(step, attribute, None)
        if not isinstance(told, Mapping | list) or not told:
            continue
        if not all(isinstance(name, str | int) for name in told):
            continue
        if isinstance(told, Mapping) and attribute == "values":
            return {name: _type_of(seen) for name, seen in told.items()}
        return dict.fromkeys(told, "float64")
    return None


def _outputs(last: Any) -> tuple[Column, ...]:
    if _is_a(last, "Regressor"):
        return (Column("value", "float32"),)
    detector = last.anomaly_detector if _is_a(last, "AnomalyFilter") else last
    if _is_a(detector, "AnomalyDetector"):
        score = Column("score", "float32")
        return (score,) if detector is last else (score, Column("anomaly", "bool"))
    if _is_a(last, "Clusterer"):
        return (Column("cluster", "int64"),)
    raise InvalidModel(
        f"a {type(last).__name__} answers no single rows",
        remedy="Save a classifier, regressor, detector of anomalies or clusterer of River's.",
    )


def _is_a(step: Any, kind: str) -> bool:
    """Says whether a step is of one of River's kinds, wherever its version keeps that."""
    found = (getattr(sys.modules.get(place), kind, None) for place in ("river.base", _ANOMALY_BASE))
    return any(each is not None and isinstance(step, each) for each in found)


def _last(model: Any) -> Any:
    while hasattr(model, "steps"):
        model = list(model.steps.values())[-1]
    return model


def _classes(model: Any, rows: list[Row]) -> tuple[Class, ...]:
    found: set[Any] = set()
    for row in rows:
        try:
            found |= set(model.predict_proba_one(row))
        except NotImplementedError:
            found |= {*getattr(_last(model), "classes", ()), model.predict_one(row)}
    found = {each.item() if isinstance(each, np.generic) else each for each in found} - {None}
    if not found or not all(type(each) in _TYPES for each in found):
        raise InvalidModel(
            f"the {type(_last(model)).__name__} knows no classes: {sorted(map(str, found))[:5]}",
            remedy="Save a classifier that has learned from rows with labels.",
        )
    if len(found) > _MAX_CLASSES:
        raise InvalidModel(f"the model knows {len(found)} classes, over {_MAX_CLASSES}")
    return tuple(sorted(found, key=lambda each: (type(each).__name__, each)))


def _tells_probabilities(model: Any, row: Row) -> bool:
    try:
        model.predict_proba_one(row)
    except NotImplementedError:
        return False
    return True


def _type_of(values: Any) -> str:
    kinds = {_TYPES.get(type(value), "string") for value in values}
    if kinds == {"int64", "float64"}:
        return "float64"
    return kinds.pop() if len(kinds) == 1 else "string"


def _check_inputs(inputs: Sequence[Any]) -> None:
    scalars = all(column.shape == () for column in inputs)
    if not scalars and (len(inputs) > 1 or len(inputs[0].shape) > 1):
        raise InvalidModel(
            "a River model takes one value per feature, or one vector",
            remedy="Give a signature whose inputs have no shape, or one input with one dimension.",
        )


def _check_batch(inputs: Sequence[Any], batch: Batch) -> None:
    # River would take a list for a value, and encode it.
    for column in inputs:
        if batch[column.name].ndim != 1 + len(column.shape):
            raise InvalidInput(f"{column.name!r} holds {batch[column.name].shape}, no row's values")


def _forbid_learning() -> None:
    # What ``compose.learn_during_predict`` sets; a model's own code may have, as it was loaded.
    pipeline = importlib.import_module("river.compose").Pipeline
    pipeline._LEARN_UNSUPERVISED_DURING_PREDICT = False  # noqa: SLF001 - there is no other way


def _rows(inputs: Sequence[Any], batch: Batch) -> Iterator[Row]:
    """Yields rows as River takes them: values by the names of features, or by their numbers."""
    if inputs[0].shape:
        return (dict(enumerate(row)) for row in batch[inputs[0].name].tolist())
    names = [column.name for column in inputs]
    columns = [batch[name].tolist() for name in names]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _answering(
    model: Any, outputs: Sequence[Any], classes: tuple[Class, ...]
) -> Callable[[Row], Answer]:
    """Returns what answers one row, by the names of the outputs."""
    names = [column.name for column in outputs]
    if "score" in names:
        last = _last(model)
        return lambda row: _scored(model.score_one(row), last if "anomaly" in names else None)
    if classes:
        if "probabilities" in names:
            likeliest = _predicts_the_likeliest(model)
            return lambda row: _classified(model, row, classes, likeliest=likeliest)
        return lambda row: {"label": _known(model.predict_one(row), classes)}
    if len(names) == 1:
        return lambda row: {names[0]: _number(model.predict_one(row), names[0])}
    return lambda row: _several(model.predict_one(row), names)


def _scored(score: Any, decides: Any) -> Answer:
    found = {"score": _number(score, "score")}
    return found if decides is None else {**found, "anomaly": bool(decides.classify(score))}


def _predicts_the_likeliest(model: Any) -> bool:
    # So do most classifiers, by inheritance: asking them twice would double the cost.
    classifier = importlib.import_module("river.base").Classifier
    return type(_last(model)).predict_one is classifier.predict_one


def _classified(model: Any, row: Row, classes: tuple[Class, ...], *, likeliest: bool) -> Answer:
    probabilities = model.predict_proba_one(row)
    for each in probabilities:
        _known(each, classes)
    if likeliest and probabilities:
        label = max(probabilities, key=probabilities.get)
    else:
        label = _known(model.predict_one(row), classes)
    return {"label": label, "probabilities": [probabilities.get(each, 0.0) for each in classes]}


def _known(label: Any, classes: tuple[Class, ...]) -> Class:
    if label not in classes:
        raise InvalidModel(
            f"the model answers with the class {str(label)[:100]!r}, which is none of its "
            f"{len(classes)} when it was pushed",
            remedy="Push it with --sample rows of every class.",
        )
    return label  # type: ignore[no-any-return]


def _several(answers: Any, names: list[str]) -> Answer:
    if not isinstance(answers, Mapping) or not set(names) <= set(answers):
        raise InvalidModel(f"the model answers {str(answers)[:200]}, not {', '.join(names)}")
    return {name: _number(answers[name], name) for name in names}


def _number(answer: Any, name: str) -> Any:
    if answer is None:
        raise InvalidModel(f"the model gives no {name!r}", remedy="Let it learn before it serves.")
    return answer
