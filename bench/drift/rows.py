"""Rows of fifty columns of all kinds, from a seed: what drift is looked for in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

WORDS = np.array([f"v{i}" for i in range(3000)])
_ZIPF = 1 / np.arange(1, len(WORDS) + 1) ** 1.1
_UP_TO = np.cumsum(_ZIPF / _ZIPF.sum())
_WORDS = pa.array(WORDS)


def fifty(rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """Makes rows of fifty columns: smooth, heavy-tailed, tied, rare, of few words and of many."""
    found: dict[str, Any] = {}
    for i in range(10):
        found[f"normal{i}"] = rng.normal(i, 1 + i, rows)
        found[f"wide{i}"] = rng.lognormal(0, 0.5 + i / 4, rows)
        found[f"whole{i}"] = rng.poisson(2 ** (i / 2), rows)
        found[f"mostly0_{i}"] = np.where(rng.random(rows) < 0.1 * i, 0, rng.exponential(size=rows))
    for i in range(5):
        found[f"words{i}"] = _words(np.searchsorted(_UP_TO[:-1], rng.random(rows)))
    found["two"] = rng.random(rows) < 0.01
    found["few"] = _words(rng.integers(0, 9, rows))
    found["flat"] = _words(rng.integers(0, 1000, rows))
    found["constant"] = np.full(rows, 3.5)
    found["gaps"] = pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.2)
    return found


def _words(codes: Any) -> pa.Array:
    return _WORDS.take(pa.array(codes))
