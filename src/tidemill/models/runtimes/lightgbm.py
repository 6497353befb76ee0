"""LightGBM's boosters in LightGBM itself: the fallback where compilation was not equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tidemill.foundation.errors import InvalidModel, Unavailable
from tidemill.models.boosters.lightgbm import read_lightgbm
from tidemill.models.format import ModelManifest, read_verified
from tidemill.models.runtimes.boosted import BoostedRuntime, check_fits
from tidemill.models.signature import Array, Signature


def open_lightgbm(folder: Path, manifest: ModelManifest, threads: int) -> BoostedRuntime:
    """Loads the entry of a verified model folder.

    Raises:
        InvalidModel: it is no text file of LightGBM's, or does not fit the signature.
        Corrupted: the entry is not what was written.
        Unavailable: LightGBM is not installed.
    """
    data = read_verified(folder, manifest, manifest.entry)
    return load_lightgbm(data, manifest.signature, threads=threads)


def check_lightgbm(folder: Path, manifest: ModelManifest) -> None:
    """Does nothing for a verified model folder whose booster may be loaded.

    Raises:
        InvalidModel: its file is not what the library writes, or does not fit the signature.
        Corrupted: the entry is not what was written.
    """
    forest = read_lightgbm(read_verified(folder, manifest, manifest.entry))
    check_fits(forest, manifest.signature)


def load_lightgbm(data: bytes, signature: Signature, *, threads: int = 1) -> BoostedRuntime:
    """Loads the bytes of a text file, which are checked first.

    Raises:
        InvalidModel: they are no such file, or do not fit the signature.
        Unavailable: LightGBM is not installed.
    """
    forest = read_lightgbm(data)
    try:
        import lightgbm  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "models of LightGBM need it", remedy="pip install 'tidemill[lightgbm]'."
        ) from error
    try:
        booster = lightgbm.Booster(model_str=forest.native.decode())
    except lightgbm.basic.LightGBMError as error:
        raise InvalidModel(
            f"LightGBM {lightgbm.__version__} cannot load the model: {str(error)[:500]}"
        ) from error

    def scores(matrix: Array) -> Array:
        return np.asarray(booster.predict(matrix, num_threads=threads, validate_features=False))

    return BoostedRuntime(scores, forest, signature)
