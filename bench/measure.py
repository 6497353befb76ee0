"""Measures one server under load: requests a second, latencies, CPU time, and right answers.

wrk drives the load where it is installed (Debian package ``wrk``), else ``bench.load`` does. Either
way answers are checked while the load lasts: by a paced connection beside wrk, by every tenth
answer of our own generator.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.servers import ROOT, BenchmarkFailed, Server

CHECKERS, CHECKED_RATE = 2, 2
"""So few that they are no load to speak of, even to a server that answers a hundred a second."""
PATIENCE_S = 60.0
"""A generator that has not ended so long after the load is ended by force."""
ERRORS = 0.5
"""A server that answers more of the questions with errors than this has failed."""
FIGURES = ("rps", "p50_ms", "p99_ms", "cpu_us_per_request")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running server and how to ask it.

    ``pausable``: it rests while others are measured. ``expendable``: the comparison goes on
    without it, if it fails.
    """

    name: str
    server: Server
    url: str
    format: str
    bodies: Path
    expected: Path | None
    pausable: bool = False
    expendable: bool = False
    connections: tuple[int, ...] = (1, 8, 64, 256)
    facts: dict[str, Any] = field(default_factory=dict)


def check(target: Target, *, seconds: float = 1.0) -> None:
    """Asks at leisure and raises unless every answer is right; also warms the server up."""
    found = _load(target, connections=4, seconds=seconds, check_every=1)
    if found["wrong"] or found["errors"] or not found["checked"]:
        raise BenchmarkFailed(f"{target.name} answers wrongly: {found}\n{target.server.tail()}")


def measure(target: Target, *, connections: int, seconds: float) -> dict[str, Any]:
    """Loads the server and returns one run's figures.

    Raises:
        BenchmarkFailed: an answer was wrong, or hardly any came.
    """
    before = target.server.cpu_s()
    beside_wrk = shutil.which("wrk") is not None
    if beside_wrk:
        found = _wrk(target, connections=connections, seconds=seconds)
    else:
        found = _load(target, connections=connections, seconds=seconds, check_every=10)
    cpu_s = target.server.cpu_s() - before
    if found["wrong"]:
        raise BenchmarkFailed(f"{target.name} answers wrongly under load: {found['example']}")
    if target.server.ended is not None or found["errors"] >= ERRORS * max(1, found["requests"]):
        raise BenchmarkFailed(_why(target, found))
    answered = found["requests"] + (found["checked"] if beside_wrk else 0)
    return {
        "target": target.name,
        "connections": connections,
        "generator": "wrk" if beside_wrk else "bench.load",
        **{k: v for k, v in found.items() if k != "example"},
        "cpu_us_per_request": round(1e6 * cpu_s / max(1, answered), 1),
        "processes": len(target.server.processes()),
        "load_average": os.getloadavg()[0],
    }


def summarised(
    runs: Iterable[dict[str, Any]], keys: Sequence[str] = ("target", "connections")
) -> list[dict[str, Any]]:
    """Returns the median and spread of the runs that agree in the keys."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in runs:
        groups.setdefault(tuple(each[key] for key in keys), []).append(each)
    return [
        {
            **dict(zip(keys, values, strict=True)),
            **{name: spread(group, name) for name in FIGURES},
            "tail": spread([{"tail": _tail(each)} for each in group], "tail"),
            "processes": max(each["processes"] for each in group),
            "errors": sum(each["errors"] for each in group),
            "checked": sum(each["checked"] for each in group),
        }
        for values, group in groups.items()
    ]


def spread(group: Iterable[dict[str, Any]], name: str) -> dict[str, float] | None:
    """Returns the median, smallest and largest of a figure; None if nobody has it."""
    values = [each[name] for each in group if each[name] is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _why(target: Target, found: dict[str, Any]) -> str:
    ended = target.server.ended
    what = "" if ended is None else f" and ended with {ended}"
    counts = f"{found['errors']:,} errors beside {found['requests']:,} answers"
    return f"{target.name} gave {counts}{what}\n{target.server.tail()}"


def _tail(run: dict[str, Any]) -> float | None:
    return run["p99_ms"] / run["p50_ms"] if run["p50_ms"] else None


def _wrk(target: Target, *, connections: int, seconds: float) -> dict[str, Any]:
    checker = subprocess.Popen(
        _load_command(
            target, connections=CHECKERS, seconds=seconds, check_every=1, rate=CHECKED_RATE
        ),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=_environment(target),
    )
    assert checker.stdout is not None
    checker.stdout.readline()  # it has started: its imports are no load
    script = str(ROOT / "bench" / "wrk.lua")
    duration = f"{max(1, round(seconds))}s"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "--timeout", "10s", "-s", script]
    try:
        done = _ended([*command, target.url], target, seconds)
        printed = checker.communicate(timeout=PATIENCE_S)[0]
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"the checked answers of {target.name} do not come") from error
    finally:
        checker.kill()
        checker.wait()
    checked = json.loads(printed or '{"errors": 1, "checked": 0}')
    line = next((each for each in done.stdout.splitlines() if each.startswith("WRK ")), None)
    if line is None:
        raise BenchmarkFailed(f"wrk failed: {done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(line[4:])
    return {
        **found,
        "rps": round(found["requests"] / found["seconds"], 1),
        "errors": found["errors"] + checked["errors"],
        **{name: checked.get(name) for name in ("checked", "wrong", "example")},
    }


def _load(target: Target, *, connections: int, seconds: float, check_every: int) -> dict[str, Any]:
    command = _load_command(
        target, connections=connections, seconds=seconds, check_every=check_every
    )
    done = _ended(command, target, seconds)
    if done.returncode != 0:
        raise BenchmarkFailed(f"the load generator failed: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _ended(command: list[str], target: Target, seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=_environment(target),
            timeout=seconds + PATIENCE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"the load on {target.name} does not end") from error


def _environment(target: Target) -> dict[str, str]:
    return {**os.environ, "BODIES": str(target.bodies), "REQUEST_HEADERS": target.server.headers}


def _load_command(
    target: Target, *, connections: int, seconds: float, check_every: int, rate: float = 0.0
) -> list[str]:
    options = {
        "url": target.url,
        "bodies": target.bodies,
        "expected": target.expected,
        "format": target.format,
        "connections": connections,
        "seconds": seconds,
        "check-every": check_every,
        "rate": rate,
    }
    given = {name: value for name, value in options.items() if value is not None}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "bench.load", *words]
