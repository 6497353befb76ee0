"""What a plan that is true must hold, and whether it did."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from bench.results import claim

from tidemill.recipes.rehearsal.comparison import Rehearsed

NEAR, ENOUGH = 0.15, 0.10


def planning_claims(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns how true the plans of these questions were."""
    found = [
        msgspec.convert(each, Rehearsed) for question in questions for each in question["found"]
    ]
    near = {
        name: sum(abs(each.off(name)) <= NEAR for each in found) / len(found)
        for name in ("cpu_us", "table_bytes")
    }
    inside = {
        name: sum(_inside(each, name) for each in found) / len(found)
        for name in ("p50_ms", "p99_ms")
    }
    pairs = [_pairs(question) for question in questions]
    return [
        claim("configurations", len(found), ">=", 12, ""),
        claim("CPU within 15%, share of them", near["cpu_us"], ">=", 1.0, ""),
        claim("bytes within 15%, share of them", near["table_bytes"], ">=", 1.0, ""),
        claim("p50 inside the repeats' spread, share", inside["p50_ms"], ">=", 1.0, ""),
        claim("p99 inside the repeats' spread, share", inside["p99_ms"], ">=", 1.0, ""),
        claim("pairs ranked by CPU as measured, share", float(np.mean(pairs)), ">=", 1.0, ""),
        claim("worst chosen over cheapest measured", max(map(_chosen, questions)), "<=", 1.1),
        claim("queries that failed", sum(r.failed for e in found for r in e.measured), "<=", 0, ""),
    ]


def _inside(each: Rehearsed, name: str) -> bool:
    low, high = each.spread(name)
    return low <= getattr(each.predicted, name) <= high


def _pairs(question: dict[str, Any]) -> float:
    """Returns the share of pairs that differ by over 10% as measured and are ranked so, too."""
    found = [msgspec.convert(each, Rehearsed) for each in question["found"]]
    right = [
        (one.predicted.cpu_us < other.predicted.cpu_us)
        == (one.median("cpu_us") < other.median("cpu_us"))
        for at, one in enumerate(found)
        for other in found[:at]
        if abs(one.median("cpu_us") / other.median("cpu_us") - 1.0) > ENOUGH
    ]
    return float(np.mean(right)) if right else 1.0


def _chosen(question: dict[str, Any]) -> float:
    """Returns what the cheapest as predicted takes, over what the cheapest as measured takes."""
    found = [msgspec.convert(each, Rehearsed) for each in question["found"]]
    best = min(zip(question["costs_month"], found, strict=True), key=lambda each: each[0])[1]
    return best.median("cpu_us") / min(each.median("cpu_us") for each in found)
