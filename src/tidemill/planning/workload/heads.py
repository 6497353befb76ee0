"""What the keys that were asked most in one stretch of requests carry in another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


def ranked(keys: Words) -> Words:
    """Returns the distinct keys of some requests, the most frequent first.

    Example:
        >>> ranked(np.array([7, 8, 8], np.uint64)).tolist()
        [8, 7]
    """
    distinct, counts = np.unique(keys, return_counts=True)
    ordered: Words = distinct[np.argsort(-counts, kind="stable")]
    return ordered


def carried(ranks: Words, keys: Words) -> Floats:
    """Returns the share of requests that the first 1, 2, … of ranked keys carry, (ranks,).

    Args:
        ranks: distinct keys.
        keys: of the requests, at least one.

    Example:
        >>> carried(np.array([8, 7], np.uint64), np.array([7, 9, 8, 8], np.uint64)).tolist()
        [0.5, 0.75]
    """
    distinct, counts = np.unique(keys, return_counts=True)
    at = np.minimum(np.searchsorted(distinct, ranks), len(distinct) - 1)
    each = np.where(distinct[at] == ranks, counts[at], 0)
    shares: Floats = np.cumsum(each) / len(keys)
    return shares


def carries(shares: Floats, k: float) -> float:
    """Returns what k keys carry, between whole ones a straight line."""
    places = np.arange(len(shares) + 1)
    return float(np.interp(k, places, np.append(0.0, shares)))
