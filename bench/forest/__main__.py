"""One row to a random forest over HTTP: ours beside FastAPI, in one run.

    python -m bench.forest [--quick]

All servers run at once, one serving process each, and are loaded in turns; a figure is the median
of the turns with the smallest and largest beside it. All 1,797 questions differ, caches are off,
the prediction ledger is on, and answers are checked while the load lasts. Compare within one run
only.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.forest.model import Work, make_work
from bench.forest.ours import COMPILED, ORIGINAL, push, serve_command
from bench.measure import (
    BenchmarkFailed,
    Server,
    Target,
    about,
    check,
    free_port,
    measure,
    write_results,
)

CONNECTIONS = (1, 8, 64)
OURS = "tidemill"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long is measured."""

    repeats: int
    seconds: float
    original: bool


QUICK = Effort(repeats=3, seconds=2.0, original=False)
FULL = Effort(repeats=7, seconds=4.0, original=True)


def run(effort: Effort) -> dict[str, Any]:
    """Runs the benchmark and returns what is written as JSON."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-forest-")))
        _say("fitting the forest")
        work = make_work(folder)
        _say("pushing it, and starting the servers")
        targets = _start(work, folder, stack, original=effort.original)
        for target in targets:
            check(target)
        runs = _turns(targets, effort)
    return {
        "benchmark": "forest",
        **about(),
        "questions": work.questions,
        "repeats": effort.repeats,
        "seconds": effort.seconds,
        "summary": summarised(runs),
        "runs": runs,
    }


def summarised(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the median and spread of each server at each number of connections."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for each in runs:
        groups.setdefault((each["target"], each["connections"]), []).append(each)
    return [
        {
            "target": name,
            "connections": connections,
            **{f: _spread(group, f) for f in ("rps", "p50_ms", "p99_ms", "cpu_us_per_request")},
            "processes": max(each["processes"] for each in group),
            "errors": sum(each["errors"] for each in group),
            "checked": sum(each["checked"] for each in group),
        }
        for (name, connections), group in groups.items()
    ]


def table(summary: Sequence[dict[str, Any]]) -> str:
    """Returns the summary as a Markdown table; ratios are of the medians to ours."""
    ours = {s["connections"]: s["rps"]["median"] for s in summary if s["target"] == OURS}
    columns = ["server", "connections", "requests/s (spread)", "ours is", "p50 ms", "p99 ms"]
    columns += ["CPU µs/request", "errors", "checked"]
    lines = [f"| {' | '.join(columns)} |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    for each in sorted(summary, key=lambda s: (s["connections"], -s["rps"]["median"])):
        rps = each["rps"]
        ratio = ours[each["connections"]] / rps["median"] if rps["median"] else float("inf")
        lines.append(
            f"| {each['target']} | {each['connections']} "
            f"| {rps['median']:,.0f} ({rps['min']:,.0f}-{rps['max']:,.0f}) "
            f"| {'' if each['target'] == OURS else f'{ratio:.1f} x'} "
            f"| {each['p50_ms']['median']:.2f} | {each['p99_ms']['median']:.2f} "
            f"| {each['cpu_us_per_request']['median']:,.0f} | {each['errors']} "
            f"| {each['checked']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark, prints the table and says where the figures are."""
    parser = argparse.ArgumentParser(prog="bench.forest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute, without the original")
    effort = QUICK if parser.parse_args().quick else FULL
    targets = 4 if effort.original else 3
    load_s = effort.repeats * effort.seconds * targets * len(CONNECTIONS)
    _say(f"this takes about {(load_s * 1.2 + 40) / 60:.0f} minutes")
    try:
        results = run(effort)
    except BenchmarkFailed as error:
        sys.exit(f"bench.forest: {error}")
    path = write_results("forest", results)
    print(table(results["summary"]))
    _say(f"written to {path}")


def _start(
    work: Work, folder: Path, stack: contextlib.ExitStack, *, original: bool
) -> list[Target]:
    push(work, folder / "home", original=original)
    port = free_port()
    server = Server(
        command=serve_command(folder / "home", port, free_port()), log=folder / "tidemill.log"
    )
    names = {OURS: COMPILED, **({f"{OURS}, not compiled": ORIGINAL} if original else {})}
    ready = f"http://127.0.0.1:{port}/v2/models/{list(names.values())[-1]}/ready"
    process = stack.enter_context(server.running(ready))
    targets = [
        Target(
            name=name,
            url=f"http://127.0.0.1:{port}/v2/models/{application}/infer",
            format="v2",
            bodies=work.v2_bodies,
            expected=work.expected,
            process=process,
            log=folder / "tidemill.log",
        )
        for name, application in names.items()
    ]
    for app, name in (("inline", "FastAPI"), ("batched", "FastAPI + micro-batcher")):
        port = free_port()
        server = Server(
            command=_uvicorn(app, port),
            log=folder / f"{app}.log",
            environment={"FOREST": str(work.forest)},
        )
        process = stack.enter_context(server.running(f"http://127.0.0.1:{port}/ready"))
        targets.append(
            Target(
                name=name,
                url=f"http://127.0.0.1:{port}/predict",
                format="plain",
                bodies=work.plain_bodies,
                expected=work.expected,
                process=process,
                log=folder / f"{app}.log",
            )
        )
    return targets


def _uvicorn(app: str, port: int) -> list[str]:
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--workers", "1")
    where = (f"bench.forest.peers:{app}", "--port", str(port), "--log-level", "warning")
    return [sys.executable, "-m", "uvicorn", *where, *options]


def _turns(targets: Sequence[Target], effort: Effort) -> list[dict[str, Any]]:
    runs = []
    for repeat in range(effort.repeats):
        for connections in CONNECTIONS:
            # Another one begins each time: nobody always follows the same neighbour.
            turn = repeat % len(targets)
            for target in (*targets[turn:], *targets[:turn]):
                found = measure(target, connections=connections, seconds=effort.seconds)
                runs.append({"repeat": repeat, **found})
                _say(f"{repeat + 1}/{effort.repeats}  {connections:>2} connections  "
                     f"{found['rps']:>9,.0f}/s  {target.name}")  # fmt: skip
    return runs


def _spread(group: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    values = [each[name] for each in group if each[name] is not None]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
