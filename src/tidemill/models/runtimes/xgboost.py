"""XGBoost's boosters in XGBoost itself: the fallback where compilation was not equal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.foundation.errors import InvalidModel, Unavailable
from tidemill.models.boosters.xgboost import read_xgboost
from tidemill.models.format import ModelManifest, read_verified
from tidemill.models.runtimes.boosted import BoostedRuntime, check_fits
from tidemill.models.signature import Array, Signature


def open_xgboost(folder: Path, manifest: ModelManifest, threads: int) -> BoostedRuntime:
    """Loads the entry of a verified model folder.

    Raises:
        InvalidModel: it is no file of XGBoost's, or does not fit the signature.
        Corrupted: the entry is not what was written.
        Unavailable: XGBoost is not installed.
    """
    data = read_verified(folder, manifest, manifest.entry)
    return load_xgboost(data, manifest.signature, threads=threads)


def check_xgboost(folder: Path, manifest: ModelManifest) -> None:
    """Does nothing for a verified model folder whose booster may be loaded.

    Raises:
        InvalidModel: its file is not what the library writes, or does not fit the signature.
        Corrupted: the entry is not what was written.
    """
    forest = read_xgboost(read_verified(folder, manifest, manifest.entry))
    check_fits(forest, manifest.signature)


def load_xgboost(data: bytes, signature: Signature, *, threads: int = 1) -> BoostedRuntime:
    """Loads the bytes of a JSON or UBJSON file, which are checked first.

    Raises:
        InvalidModel: they are no such file, or do not fit the signature.
        Unavailable: XGBoost is not installed.
    """
    forest = read_xgboost(data)
    try:
        import xgboost  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "models of XGBoost need it", remedy="pip install 'tidemill[xgboost]'."
        ) from error
    try:
        booster = xgboost.Booster()
        booster.load_model(bytearray(forest.native))
        booster.set_param({"nthread": threads, "verbosity": 0})
    except xgboost.core.XGBoostError as error:
        raise InvalidModel(
            f"XGBoost {xgboost.__version__} cannot load the model: {_said(error)}"
        ) from error
    asked = _asking_trees(booster) if forest.trees else _asking_weights(booster, threads)

    def scores(matrix: Array) -> Array:
        try:
            if forest.answer != "classes":
                return asked(matrix, False)
            # "multi:softmax" answers with a label alone: its scores are asked for instead.
            margins = asked(matrix, True)
        except xgboost.core.XGBoostError as error:
            raise ValueError(_said(error)) from error
        raised = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    return BoostedRuntime(scores, forest, signature)


def _asking_trees(booster: Any) -> Callable[[Array, bool], Array]:
    def asked(matrix: Array, margins: bool) -> Array:  # noqa: FBT001
        kind = "margin" if margins else "value"
        found = booster.inplace_predict(matrix, predict_type=kind, validate_features=False)
        return np.asarray(found)

    return asked


def _asking_weights(booster: Any, threads: int) -> Callable[[Array, bool], Array]:
    """Linear boosters take the library's own matrices only, one call at a time."""
    import xgboost  # noqa: PLC0415

    turn = threading.Lock()

    def asked(matrix: Array, margins: bool) -> Array:  # noqa: FBT001
        with turn:
            given = xgboost.DMatrix(matrix, nthread=threads)
            found = booster.predict(given, output_margin=margins, validate_features=False)
            return np.asarray(found)

    return asked


def _said(error: Exception) -> str:
    """Returns what XGBoost says before its stack trace."""
    return str(error).partition("\nStack trace")[0].strip()[:500]
