"""Rows of fifty columns of all kinds, from a seed: what drift is looked for in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

WORDS = np.array([f"v{i}" for i in range(3000)])
_WORDS = pa.array(WORDS)
_SIZE = 1 << 16
"""Values that a discrete column draws from, each as likely: twenty times as fast as its own law."""


def _zipf() -> npt.NDArray[np.int32]:
    """Returns places of words, each as often as its rank has it."""
    parts = 1 / np.arange(1, len(WORDS) + 1) ** 1.1
    up_to = np.cumsum(parts / parts.sum())
    return np.searchsorted(up_to[:-1], (np.arange(_SIZE) + 0.5) / _SIZE).astype(np.int32)


_ZIPF = _zipf()
_WHOLE = [np.random.default_rng(i).poisson(2 ** (i / 2), _SIZE) for i in range(10)]


def fifty(rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """Makes rows of fifty columns: smooth, heavy-tailed, tied, rare, of few words and of many."""
    found: dict[str, Any] = {}
    for i in range(10):
        found[f"normal{i}"] = rng.normal(i, 1 + i, rows)
        found[f"wide{i}"] = rng.lognormal(0, 0.5 + i / 4, rows)
        found[f"whole{i}"] = _drawn(rng, _WHOLE[i], rows)
        found[f"mostly0_{i}"] = np.where(rng.random(rows) < 0.1 * i, 0, rng.exponential(size=rows))
    for i in range(5):
        found[f"words{i}"] = _words(_drawn(rng, _ZIPF, rows))
    found["two"] = rng.random(rows) < 0.01
    found["few"] = _words(rng.integers(0, 9, rows))
    found["flat"] = _words(rng.integers(0, 1000, rows))
    found["constant"] = np.full(rows, 3.5)
    found["gaps"] = pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.2)
    return found


def _drawn(rng: np.random.Generator, values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    return values[rng.integers(0, _SIZE, rows, dtype=np.uint16)]


def _words(codes: Any) -> pa.Array:
    return _WORDS.take(pa.array(codes))
