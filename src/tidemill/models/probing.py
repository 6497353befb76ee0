"""Made-up rows that ask an estimator where it decides, for a comparison without evaluation data.

Rows lie on, just under and just over the thresholds of trees, within the ranges that scalers have
learned, and among the categories that encoders know: where a compiled model would go wrong first.
They can show a difference; that they show none is weaker than evaluation data that show none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tidemill.models.boosters.estimators import forest_of
from tidemill.models.signature import Array, Batch, Signature

PROBE_ROWS = 1024


def probe_rows(
    estimator: Any,
    signature: Signature,
    *,
    thresholds: Mapping[int, Array] | None = None,
    n: int = PROBE_ROWS,
    seed: int = 0,
) -> Batch:
    """Returns n rows for the signature, the same ones for the same seed.

    Args:
        estimator: fitted; asked for what it knows.
        signature: its columns.
        thresholds: what each feature is compared with; the estimator's if None.
        n: how many rows.
        seed: of the draw.

    Example:
        >>> from tidemill.models.signature import Column
        >>> signature = Signature((Column("x", "float64", (3,)),), (Column("y", "int64"),))
        >>> probe_rows(object(), signature, n=5)["x"].shape
        (5, 3)
    """
    rng = np.random.default_rng(seed)
    width = sum(int(np.prod(column.shape, dtype=int)) for column in signature.inputs)
    if thresholds is None:
        forest = forest_of(estimator)
        thresholds = _thresholds(estimator, width) if forest is None else forest.thresholds()
    categories = dict(_categories(estimator))
    batch: Batch = {}
    at = 0
    for column in signature.inputs:
        size = int(np.prod(column.shape, dtype=int))
        known = categories.get(column.name)
        if known is not None:
            values = known[rng.integers(0, len(known), n)].astype(column.dtype)
        elif column.dtype.kind == "O":
            values = np.full(n, "", object)
        else:
            cells = [_numbers(rng, thresholds.get(at + i), n) for i in range(size)]
            values = _typed(np.stack(cells, axis=1), column.dtype)
        batch[column.name] = values.reshape((n, *column.shape))
        at += size
    return batch


def _numbers(rng: np.random.Generator, points: Array | None, n: int) -> Array:
    """Draws numbers near the points where something is decided, or of several sizes."""
    if points is None or len(points) == 0:
        scales = np.array([1.0, 1.0, 10.0, 1000.0])
        sized: Array = rng.standard_normal(n) * rng.choice(scales, n)
        return sized
    drawn = points[rng.integers(0, len(points), n)]
    under, over = np.nextafter(drawn, -np.inf, dtype="f4"), np.nextafter(drawn, np.inf, dtype="f4")
    spread = max(1.0, float(np.std(points)))
    far = drawn + rng.standard_normal(n) * spread
    near = np.stack([drawn, under, over, far, np.round(far)])
    picked: Array = near[rng.integers(0, len(near), n), np.arange(n)]
    return picked


def _typed(values: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "b":
        return values > 0
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return np.clip(
            np.round(values), max(bounds.min, -(1 << 24)), min(bounds.max, 1 << 24)
        ).astype(dtype)
    typed: Array = values.astype(dtype)
    return typed


def _thresholds(estimator: Any, width: int) -> dict[int, Array]:
    """Returns what trees compare each column with, where they see the columns as they come."""
    found: dict[int, list[float]] = {}
    for tree in _trees(estimator):
        inner = tree.feature >= 0
        for feature, threshold in zip(tree.feature[inner], tree.threshold[inner], strict=True):
            found.setdefault(int(feature), []).append(float(threshold))
    if not found or max(found) >= width:
        return {}
    return {feature: np.unique(values) for feature, values in found.items()}


def _trees(estimator: Any) -> Iterator[Any]:
    if hasattr(estimator, "tree_"):
        yield estimator.tree_
    members = getattr(estimator, "estimators_", ())
    for member in np.asarray(members, dtype=object).ravel():
        yield from _trees(member)


def _categories(estimator: Any) -> Iterator[tuple[str, Array]]:
    """Yields the categories that encoders in a pipeline know, by column name."""
    for _, step in getattr(estimator, "steps", ()):
        yield from _categories(step)
    for _, transformer, columns in getattr(estimator, "transformers_", ()):
        known = getattr(transformer, "categories_", None)
        if known is not None and not isinstance(columns, str):
            yield from zip(map(str, columns), known, strict=False)
