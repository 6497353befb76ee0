"""What is claimed of looking up, and whether a run shows it."""

from __future__ import annotations

import statistics
from typing import Any

from bench.results import claim

LOOKUP, PREDICT = "tidemill, :lookup", "tidemill, :predict"
BARE, LMDB, REDIS = "bare asyncio + LMDB", "FastAPI + LMDB", "FastAPI + Redis"
AIMS = {BARE: 0.6, LMDB: 9.0, REDIS: 15.0}


def claims(summary: list[dict[str, Any]], turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judges the medians.

    Args:
        summary: requests a second of each server.
        turns: latencies beside a build, and beside a process that only burns, turn by turn. The
            ratio is judged: turns of several runs are asked at other rates.
    """
    rps = {each["target"]: each["rps"]["median"] for each in summary}
    found = [
        claim(f"lookups / {peer}", _divided(rps.get(LOOKUP), rps.get(peer)), ">=", aim)
        for peer, aim in AIMS.items()
    ]
    what = "p99 of lookups beside a build and its swap / beside as idle a burner"
    beside = statistics.median(map(beside_burner, turns)) if turns else None
    return [*found, claim(what, beside, "<=", 1.2)]


def beside_burner(turn: dict[str, Any]) -> float:
    """Returns a turn's p99 beside a build over that beside a burner: both at the turn's rate."""
    return float(turn["build"]["p99_ms"] / turn["burner"]["p99_ms"])


def servers_table(summary: list[dict[str, Any]]) -> str:
    """Returns the figures of each server as a Markdown table."""
    lines = ["| server | requests/s | p50 ms | p99 ms | CPU µs |", "|---|--:|--:|--:|--:|"]
    for each in summary:
        rps = each["rps"]
        told = f"{rps['median']:,.0f} ({rps['min']:,.0f}-{rps['max']:,.0f})"
        p50, p99 = (each[name]["median"] for name in ("p50_ms", "p99_ms"))
        cpu = each["cpu_us_per_request"]["median"]
        lines.append(f"| {each['target']} | {told} | {p50:.2f} | {p99:.2f} | {cpu:,.1f} |")
    return "\n".join(lines)


def turns_table(turns: list[dict[str, Any]]) -> str:
    """Returns latencies beside builds and burners as a Markdown table."""
    lines = [
        "| turn | keys | s | lookups/s | p50 ms beside it | p99 | beside a burner | p99 | ratio |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for turn in turns:
        told = " | ".join(
            f"{turn[name][share]:.2f}"
            for name in ("build", "burner")
            for share in ("p50_ms", "p99_ms")
        )
        facts = f"{turn['turn']} | {turn['built']:,} | {turn['seconds']:.1f} | {turn['rate']:,.0f}"
        lines.append(f"| {facts} | {told} | {beside_burner(turn):.2f} |")
    return "\n".join(lines)


def _divided(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
