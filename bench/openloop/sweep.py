"""Clipper's experiment: offered load from a tenth to twice the capacity, under an SLO."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.measure import PATIENCE_S, Target, measure
from bench.results import claim, say
from bench.servers import ROOT, BenchmarkFailed

SLO_MS = 20.0
STEPS_RPS = (10_000, 20_000, 30_000, 40_000, 60_000)
KEPT_UP_MS = 5.0
"""A generator keeps up if 99 of 100 questions leave at most so late."""
EDGE, MODEL = "edge", "model"
_MOST = ("lost", "silent_ms")
BEYOND, GOODPUT_KEPT, WARM_LOAD = 1.2, 0.9, 0.2


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is swept: an application with the SLO, and the same one where capacity is measured.

    ``limit`` is what saturates first, ``EDGE`` or ``MODEL``.
    """

    name: str
    limit: str
    target: Target
    unhurried: Target


def generator_capacity(floor: Target, *, seconds: float) -> dict[str, Any]:
    """Finds the highest rate that the generator keeps up with, against the floor."""
    steps, best = [], 0
    for rate in STEPS_RPS:
        found = offer(floor, rate, seconds=seconds)
        steps.append(found)
        if found["lag_p99_ms"] <= KEPT_UP_MS and not found["unsent"]:
            best = rate
    say(f"  the generator keeps up with {best:,}/s at {steps[-1]['generator_cpu_us']:.0f} µs each")
    return {"kept_up_rps": best, "steps": steps}


def sweep(
    subject: Subject, floor: Target, *, loads: Sequence[float], seconds: float, repeats: int
) -> dict[str, Any]:
    """Offers each load to the subject and the same rate to the floor, so often, in turns."""
    capacity = max(
        measure(subject.unhurried, connections=connections, seconds=seconds)["rps"]
        for connections in (64, 256)
    )
    say(f"  {subject.name}: {capacity:,.0f}/s is its capacity")
    # A model that was hardly ever asked is slow at first; that is not what is swept.
    offer(subject.target, WARM_LOAD * capacity, seconds=seconds)
    rows = []
    for load in loads:
        turns = [
            {
                **offer(subject.target, load * capacity, seconds=seconds),
                "floor_p99_ms": offer(floor, load * capacity, seconds=seconds)["all_p99_ms"],
            }
            for _ in range(repeats)
        ]
        for each in turns:
            if each["wrong"]:
                raise BenchmarkFailed(f"{subject.name} answers wrongly under load: {each}")
        ours = medians(turns)
        rows.append({"load": load, **ours, "turns": turns})
        say(
            f"  {load:>4.0%} {ours['offered_rps']:>8,.0f}/s offered {ours['goodput_rps']:>8,.0f}/s "
            f"in time  p99 {ours['all_p99_ms']:.1f} ms (floor {ours['floor_p99_ms']:.1f} ms)  "
            f"refused {ours['refused']:,} late {ours['late']:,} lost {ours['lost']:,} "
            f"unsent {ours['unsent']:,} silent for {ours['silent_ms']:.0f} ms "
            f"lag p99 {ours['lag_p99_ms']:.1f} ms"
        )
    name = f"{subject.name} (limited by the {subject.limit})"
    return {"subject": name, "slo_ms": SLO_MS, "capacity_rps": capacity, "rows": rows}


def medians(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the median of each number that the turns found; None where no turn had one.

    A question that was lost is no matter of the machine, and a server that stalls once has stalled:
    of those, the most of any turn.
    """
    names = [name for name, value in turns[0].items() if not isinstance(value, dict | str)]
    found = {name: [each[name] for each in turns if each[name] is not None] for name in names}
    return {
        name: (max if name in _MOST else statistics.median)(values) if values else None
        for name, values in found.items()
    }


def offer(target: Target, rate: float, *, seconds: float) -> dict[str, Any]:
    """Offers questions at a rate and returns what became of them."""
    options = {
        "url": target.url,
        "bodies": target.bodies,
        "expected": target.expected,
        "format": target.format,
        "rate": rate,
        "seconds": seconds,
        "slo-ms": SLO_MS,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.openload", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "REQUEST_HEADERS": target.server.headers},
            timeout=seconds + PATIENCE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"the open-loop load on {target.name} does not end") from error
    if done.returncode != 0:
        raise BenchmarkFailed(f"the open-loop generator failed: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sweep_claims(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Judges a sweep: latency at every load, and goodput beyond saturation."""
    name, rows = found["subject"], found["rows"]
    over = max(row["all_p99_ms"] - row["floor_p99_ms"] for row in rows)
    # One that refuses everything is not flat.
    best = max(found["capacity_rps"] / 2, *(row["goodput_rps"] for row in rows))
    beyond = min((row["goodput_rps"] for row in rows if row["load"] >= BEYOND), default=0.0)
    return [
        claim(f"{name}: p99 less the floor's, at the worst load", over, "<=", SLO_MS, "ms"),
        claim(f"{name}: least goodput beyond saturation / best", beyond / best, ">=", GOODPUT_KEPT),
    ]


def sweep_table(found: dict[str, Any]) -> str:
    """Returns a sweep as a Markdown table."""
    columns = ("offered load", "offered/s", "goodput/s", "p50 ms", "p99 ms", "p99 of all ms")
    columns += ("floor's p99 ms", "refused", "late", "lost or unsent", "silent ms")
    columns += ("generator's lag p99 ms",)
    lines = [f"| {' | '.join(columns)} |", "|--:" * len(columns) + "|"]
    for row in found["rows"]:
        cells = [f"{row['load']:.0%}", f"{row['offered_rps']:,.0f}", f"{row['goodput_rps']:,.0f}"]
        cells += [_ms(row[name]) for name in ("p50_ms", "p99_ms", "all_p99_ms", "floor_p99_ms")]
        cells += [f"{row[name]:,.0f}" for name in ("refused", "late")]
        cells += [f"{row['lost'] + row['unsent']:,.0f}"]
        cells.append("" if "silent_ms" not in row else f"{row['silent_ms']:.0f}")
        lines.append(f"| {' | '.join([*cells, _ms(row['lag_p99_ms'])])} |")
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
