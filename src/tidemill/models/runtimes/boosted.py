"""What the runtimes of boosters share: a matrix in, scores out, columns of the signature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tidemill.foundation.errors import InvalidInput, InvalidModel, NotReady
from tidemill.models.boosters.forest import Forest
from tidemill.models.signature import Array, Batch, Column, Signature


class BoostedRuntime:
    """A booster in its own library; safe to share between threads.

    Classifiers give ``label``, a class's number, and ``probabilities``; all others ``value``.

    Args:
        scores: asks the library for the scores of a matrix, (n,) or (n, groups).
        forest: what the booster's file says.
        signature: one vector of its features, or one scalar per feature in their order.

    Raises:
        InvalidModel: the signature does not fit the booster.
    """

    def __init__(
        self, scores: Callable[[Array], Array], forest: Forest, signature: Signature
    ) -> None:
        check_fits(forest, signature)
        self._scores: Callable[[Array], Array] | None = scores
        self._dtype = np.dtype(forest.dtype)
        self._width = forest.width
        self._signature = signature

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self._signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each."""
        scores = self._scores
        if scores is None:
            raise NotReady("the model is closed", remedy="Open it again.")
        n = batch[self._signature.inputs[0].name].shape[0]
        if n == 0:
            return self._signature.empty_outputs()
        try:
            matrix = self._matrix(batch, n)
            found = scores(matrix)
        except Exception as error:
            raise InvalidInput(f"the model refuses the batch: {str(error)[:500]}") from error
        return {column.name: _output(column, found, n) for column in self._signature.outputs}

    def close(self) -> None:
        """Gives the booster back once no call uses it."""
        self._scores = None

    def _matrix(self, batch: Batch, n: int) -> Array:
        arrays = [batch[column.name] for column in self._signature.inputs]
        joined = arrays[0].reshape(n, -1) if len(arrays) == 1 else np.column_stack(arrays)
        if joined.shape != (n, self._width):
            raise ValueError(f"it has the shape {joined.shape}, not {(n, self._width)}")
        return np.ascontiguousarray(joined, dtype=self._dtype)


def check_fits(forest: Forest, signature: Signature) -> None:
    """Makes sure that a signature holds a booster's features and some of its outputs.

    Raises:
        InvalidModel: it does not.
    """
    inputs = signature.inputs
    width = sum(int(np.prod(column.shape, dtype=int)) for column in inputs)
    mixed = len(inputs) > 1 and any(column.shape for column in inputs)
    if width != forest.width or mixed or any(column.type == "string" for column in inputs):
        raise InvalidModel(
            f"the model takes {forest.width} numbers a row, and the signature says otherwise",
            remedy="Give one vector of them, or one single value for each in their order.",
        )
    gives = {column.name: column for column in forest.signature().outputs}
    for column in signature.outputs:
        own = gives.get(column.name)
        if own is None or own.shape != column.shape or column.type == "string":
            said = ", ".join(f"{each.name} {each.shape}" for each in gives.values())
            raise InvalidModel(
                f"the model does not give {column.name!r} of the shape {column.shape}",
                remedy=f"It gives: {said}.",
            )


def _output(column: Column, scores: Array, n: int) -> Array:
    if column.name == "label":
        found = scores.argmax(axis=1) if scores.ndim > 1 else scores > 0.5
    elif column.name == "probabilities" and scores.ndim == 1:
        found = np.stack([1 - scores, scores], axis=1)
    else:
        found = scores
    return found.astype(column.dtype, copy=False).reshape((n, *column.shape))
