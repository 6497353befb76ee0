"""Forests of scikit-learn's, asked tree by tree.

A forest hands each of its trees to joblib, under a lock and with the warnings and settings of the
caller: with one thread that is nine tenths of what it takes to answer a few rows. The same trees,
added up in the same order, give the same answer without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

_MODULE = "sklearn.ensemble._forest"
_METHODS = {
    "RandomForestClassifier": "predict_proba",
    "ExtraTreesClassifier": "predict_proba",
    "RandomForestRegressor": "predict",
    "ExtraTreesRegressor": "predict",
}
_PROBES = (-1e3, -1.0, 0.0, 0.5, 1.0, 1e3)

Ask = Callable[[Any], Any]


def quicken(forest: Any) -> None:
    """Has a forest with one thread give its answers sooner; they are the same.

    It is held to its own answers first. One that is no forest of scikit-learn's, has several
    outputs or threads, or would say anything else, stays as it is.
    """
    name = type(forest).__name__
    if type(forest).__module__ != _MODULE or name not in _METHODS:
        return
    method = _METHODS[name]
    try:
        quick = _asked_directly(forest) if forest.n_jobs in (None, 1) else None
        if quick is not None and _agree(getattr(forest, method), quick, forest.n_features_in_):
            setattr(forest, method, quick)
    except (AttributeError, TypeError, ValueError):
        return  # another version's forest, or an unusual one: it is asked as it is


def _asked_directly(forest: Any) -> Ask | None:
    if forest.n_outputs_ != 1:
        return None
    asks = [tree.tree_.predict for tree in forest.estimators_]
    classes = getattr(forest, "n_classes_", None)
    wanted = 0 if classes is None else slice(None, classes)
    width, check = forest.n_features_in_, forest._validate_X_predict  # noqa: SLF001 - what its own method calls

    def ask(matrix: Any) -> Any:
        rows = _ready(matrix, width)
        if rows is None:
            rows = check(matrix)
        count = rows.shape[0]
        total: Any = np.zeros(count if classes is None else (count, classes))
        for tree in asks:
            total += tree(rows)[:, wanted]
        total /= len(asks)
        return total

    return ask


def _ready(matrix: Any, width: int) -> Any:
    """Returns numbers as trees take them; None for what the forest itself has to look at."""
    if type(matrix) is not np.ndarray or matrix.dtype.kind != "f" or matrix.ndim != 2:
        return None
    if matrix.shape[1] != width or not len(matrix):
        return None
    with np.errstate(over="ignore"):
        rows = matrix.astype(np.float32, order="C", copy=False)
    return rows if np.isfinite(rows).all() else None


def _agree(slow: Ask, quick: Ask, width: int) -> bool:
    """Says whether both give the very same numbers for some rows."""
    rows = np.repeat(np.array(_PROBES)[:, None], width, axis=1)
    rows[:, ::2] *= -0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the rows have no names, where features have
        return bool(np.array_equal(slow(rows), quick(rows)))
