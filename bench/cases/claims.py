"""What the cases must come to, and whether they did."""

from __future__ import annotations

from typing import Any

from bench.results import claim


def case_claims(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns how many of these cases, and of their flips, agree with theory."""
    flips = [flip for case in cases for flip in case["flips"]]
    return [
        claim("cases decided as theory says", _share(cases), ">=", 1.0, "of all"),
        claim("inputs moved that decide as theory says", _share(flips), ">=", 1.0, "of all"),
    ]


def _share(told: list[dict[str, Any]]) -> float | None:
    return sum(each["agrees"] for each in told) / len(told) if told else None
