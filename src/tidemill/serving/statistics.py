"""Inference statistics as the protocol's extension has them: plain integers, merged, then shown.

They begin when a version is loaded. Counting is done elsewhere; here nothing is timed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

Spent = tuple[int, int]
"""How many times, and how many nanoseconds in all."""

_NOTHING: Spent = (0, 0)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway has counted of one version of an application.

    Args:
        application: whose version.
        version: which.
        last_ms: when the last batch came back, in milliseconds since the epoch; 0 for never.
        success: queries that were answered, from arrival to answer.
        fail: queries that ended as an error.
        queue: waits for a replica.
        compute: what queries spent with a replica.
        cache_hit: answers from the cache.
        cache_miss: queries that the cache had no answer to.
        batches: batches that came back, by their rows; under 0 those of too many different sizes.
        rows: rows in all of them.
    """

    application: str
    version: int
    last_ms: int = 0
    success: Spent = _NOTHING
    fail: Spent = _NOTHING
    queue: Spent = _NOTHING
    compute: Spent = _NOTHING
    cache_hit: Spent = _NOTHING
    cache_miss: Spent = _NOTHING
    batches: dict[int, Spent] = {}
    rows: int = 0


def merge_tallies(tallies: Iterable[Tally]) -> list[Tally]:
    """Returns one tally for each version of each application, in their order.

    Example:
        >>> one = Tally(application="a", version=1, success=(2, 10), batches={1: (2, 8)})
        >>> merge_tallies([one, one])[0].batches
        {1: (4, 16)}
    """
    merged: dict[tuple[str, int], Tally] = {}
    for tally in tallies:
        key = tally.application, tally.version
        merged[key] = _sum(merged[key], tally) if key in merged else tally
    return [merged[key] for key in sorted(merged)]


def describe_tally(tally: Tally) -> dict[str, Any]:
    """Returns a tally as one entry of ``model_stats``.

    Reading tensors and writing answers is not timed apart from computing: it shows as 0 ns.
    """
    untimed = (tally.compute[0], 0)
    return {
        "name": tally.application,
        "version": str(tally.version),
        "last_inference": tally.last_ms,
        "inference_count": tally.rows,
        "execution_count": sum(count for count, _ in tally.batches.values()),
        "inference_stats": {
            "success": _shown(tally.success),
            "fail": _shown(tally.fail),
            "queue": _shown(tally.queue),
            "compute_input": _shown(untimed),
            "compute_infer": _shown(tally.compute),
            "compute_output": _shown(untimed),
            "cache_hit": _shown(tally.cache_hit),
            "cache_miss": _shown(tally.cache_miss),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _shown((spent[0], 0)),
                "compute_infer": _shown(spent),
                "compute_output": _shown((spent[0], 0)),
            }
            for rows, spent in sorted(tally.batches.items())
            if rows
        ],
    }


def _sum(one: Tally, other: Tally) -> Tally:
    return Tally(
        application=one.application,
        version=one.version,
        last_ms=max(one.last_ms, other.last_ms),
        success=_add(one.success, other.success),
        fail=_add(one.fail, other.fail),
        queue=_add(one.queue, other.queue),
        compute=_add(one.compute, other.compute),
        cache_hit=_add(one.cache_hit, other.cache_hit),
        cache_miss=_add(one.cache_miss, other.cache_miss),
        batches={
            rows: _add(one.batches.get(rows, _NOTHING), other.batches.get(rows, _NOTHING))
            for rows in one.batches.keys() | other.batches.keys()
        },
        rows=one.rows + other.rows,
    )


def _add(one: Spent, other: Spent) -> Spent:
    return one[0] + other[0], one[1] + other[1]


def _shown(spent: Spent) -> dict[str, int]:
    return {"count": spent[0], "ns": spent[1]}
