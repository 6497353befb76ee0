"""Serves one row a request over HTTP: ours beside every peer, on the same work, in one run.

    python -m bench.serving [--smoke | --quick | --brief] [--only WORKLOAD]

All servers of a workload run at once, one serving process each unless said, and are loaded in
turns; peers rest, stopped, while another is measured. A figure is the median of the turns with the
smallest and largest beside it. At least a thousand questions differ; no answer is cached; answers
are checked while the load lasts. Ledger, metrics and deadlines are on for ours. Compare within one
run only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.effort import Effort, add_effort_options, chosen_effort
from bench.measure import check, summarised, take_turns
from bench.peers import install
from bench.results import about, claims_table, say, write_results
from bench.servers import BenchmarkFailed
from bench.serving.claims import claims
from bench.serving.tables import tables
from bench.serving.targets import ours, peers
from bench.serving.work import make_work

WORKLOADS = ("sum", "lr", "rf", "mlp")
KEYS = ("workload", "target", "connections")


def run(effort: Effort, workloads: Sequence[str]) -> dict[str, Any]:
    """Runs the benchmark and returns what is written as JSON."""
    runs: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    questions = {}
    for name in workloads:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            say(f"{name}: making the model, starting the servers")
            work = make_work(name, folder / "work")
            questions[name] = work.questions
            targets = ours(work, folder, stack, effort)
            for target in targets:
                check(target)
            targets += peers(work, folder, stack, effort, refused)
            found = take_turns(targets, repeats=effort.repeats, seconds=effort.seconds, say=say)
            runs += [{"workload": name, **each} for each in found]
    summary = summarised(runs, KEYS)
    return {
        "benchmark": "serving",
        "effort": effort.name,
        **about(),
        "peers": {name: install.versions(name) for name in install.NAMES},
        "left_out": refused,
        "questions": questions,
        "repeats": effort.repeats,
        "seconds": effort.seconds,
        "claims": claims(summary),
        "summary": summary,
        "runs": runs,
    }


def main() -> None:
    """Runs the benchmark, prints tables and claims, and says where the figures are."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_effort_options(parser)
    parser.add_argument("--only", choices=WORKLOADS, action="append", help="only this workload")
    options = parser.parse_args()
    try:
        results = run(chosen_effort(options), options.only or WORKLOADS)
    except BenchmarkFailed as error:
        sys.exit(f"bench.serving: {error}")
    print(tables(results["summary"]))
    print(claims_table(results["claims"]))
    say(f"written to {write_results('serving', results)}")


if __name__ == "__main__":
    main()
