"""Reuse distances: how many other keys were asked for since the same key was asked for last.

A cache of the c keys used last answers a request exactly if fewer than c other keys came between
(Mattson et al., "Evaluation techniques for storage hierarchies", 1970). Measured on the requests of
a sample of the keys, a distance d stands for d / rate (Waldspurger et al., "Efficient MRC
construction with SHARDS", FAST 2015).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def previous(keys: npt.NDArray[np.uint64]) -> Ints:
    """Returns, for each request, the place of the last one of its key; -1 for a first one.

    Example:
        >>> previous(np.array([7, 8, 7, 7], np.uint64)).tolist()
        [-1, -1, 0, 2]
    """
    found = np.full(len(keys), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    found[order[1:][same]] = order[:-1][same]
    return found


def distances(keys: npt.NDArray[np.uint64]) -> Ints:
    """Returns how many other keys came since each request's key came last; -1 for first ones.

    Between a request i and its last one p lie i - p - 1 others; those whose own last one lies after
    p, too, repeat a key that was counted. All such requests before i are those with a later last
    one than i's: inversions, counted by merging, in O(n log² n).

    Args:
        keys: of the requests, in order.  # (n,)

    Example:
        >>> distances(np.array([1, 2, 2, 1, 3, 1], np.uint64)).tolist()
        [-1, -1, 0, 1, -1, 1]
    """
    last = previous(keys)
    places = np.arange(len(keys))
    found = places - last - 1 - _greater_before(last)
    found[last < 0] = -1
    return found


def _greater_before(values: Ints) -> Ints:
    """Returns, for each value, how many before it are greater."""
    n = len(values)
    counts = np.zeros(n, np.int64)
    by_value = np.argsort(values, kind="stable")
    rank = np.empty(n, np.int64)  # equal values take the rank of the first: none is greater
    rank[by_value] = np.searchsorted(values[by_value], values[by_value])
    places = np.arange(n)
    width = 1
    while width < n:
        pair = places // (2 * width)
        left = (places // width) % 2 == 0
        order = np.lexsort((~left, rank, pair))  # in a pair by value, the left of equals first
        lefts = left[order].astype(np.int64)
        seen = np.cumsum(lefts)
        starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
        lengths = np.diff(np.append(starts, n))
        before = np.repeat(seen[starts] - lefts[starts], lengths)
        total = np.repeat(np.add.reduceat(lefts, starts), lengths)
        greater = total - (seen - before)
        right = lefts == 0
        counts[order[right]] += greater[right]
        width *= 2
    return counts
