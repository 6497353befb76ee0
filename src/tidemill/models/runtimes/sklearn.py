"""scikit-learn estimators, as they are: the fallback where compilation was not equal."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.foundation.errors import InvalidInput, InvalidModel, NotReady, Unavailable
from tidemill.models.format import ModelManifest, read_verified
from tidemill.models.runtimes.pickled import load_bytes
from tidemill.models.signature import Array, Batch, Signature
from tidemill_worker.estimators import answers, features, with_threads


def open_sklearn(folder: Path, manifest: ModelManifest, threads: int) -> SklearnRuntime:
    """Loads the entry of a verified and trusted model folder.

    Raises:
        InvalidModel: it is no estimator.
        Corrupted: the entry is not what was written.
        Unavailable: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise Unavailable(
            "scikit-learn models need scikit-learn", remedy="pip install 'tidemill[sklearn]'."
        )
    where = manifest.entry
    estimator = as_estimator(load_bytes(read_verified(folder, manifest, where), where), where)
    return SklearnRuntime(with_threads(estimator, threads), manifest.signature)


def as_estimator(model: Any, where: str) -> Any:
    """Returns what was unpickled, which is an estimator.

    Raises:
        InvalidModel: it is not.
    """
    if not hasattr(model, "predict"):
        raise InvalidModel(
            f"{where!r} holds a {type(model).__name__}, which cannot predict",
            remedy="Save a fitted estimator or pipeline.",
        )
    return model


class SklearnRuntime:
    """A fitted estimator; safe to share between threads.

    Classifiers give ``label`` and, if they have any, ``probabilities`` (float32, one per class in
    the order of ``classes_``); regressors give ``value`` (float32). These are the types that
    compiled models give, so that a model answers alike whatever runs it.

    Args:
        estimator: fitted.
        signature: either one vector, the rows of the matrix, or one scalar per feature.
    """

    def __init__(self, estimator: Any, signature: Signature) -> None:
        self._estimator: Any = estimator
        self._signature = signature

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self._signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each."""
        estimator = self._estimator
        if estimator is None:
            raise NotReady("the model is closed", remedy="Open it again.")
        n = batch[self._signature.inputs[0].name].shape[0]
        if n == 0:
            return self._signature.empty_outputs()
        wanted = [column.name for column in self._signature.outputs]
        try:
            matrix = features(estimator, self._signature.inputs, batch)
            raw = answers(estimator, matrix, wanted)
        except ModuleNotFoundError as error:
            raise Unavailable(
                "a model whose features have names needs pandas", remedy="pip install pandas."
            ) from error
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"the model refuses the batch: {str(error)[:500]}") from error
        return {
            column.name: _conform(raw[column.name], column.dtype, (n, *column.shape))
            for column in self._signature.outputs
        }

    def close(self) -> None:
        """Gives the estimator back once no call uses it."""
        self._estimator = None


def _conform(answer: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    array = np.asarray(answer)
    if dtype.kind == "O" and array.dtype.kind != "U":
        array = np.array([str(value) for value in array.ravel()], dtype=object)
    try:
        return array.astype(dtype, copy=False).reshape(shape)
    except (ValueError, TypeError) as error:
        raise InvalidModel(f"the model answers {array.shape}, not {shape}") from error
