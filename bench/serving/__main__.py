"""Serves one row a request over HTTP: ours beside every peer, on the same work, in one run.

    python -m bench.serving [--smoke | --quick | --brief] [--repeats N] [--only WORKLOAD]

All servers of a workload run at once, one serving process each unless said, and are loaded in
turns; peers rest, stopped, while another is measured. One that dies is started once more, then left
out; figures are written as they come. A figure is the median of the turns with the
smallest and largest beside it. At least a thousand questions differ; no answer is cached; answers
are checked while the load lasts. Ledger, metrics and deadlines are on for ours. Compare within one
run only.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.effort import Effort, chosen_effort, effort_parser
from bench.measure import check, summarised
from bench.peers import install
from bench.results import Record, claims_table, say
from bench.servers import BenchmarkFailed
from bench.serving.claims import claims
from bench.serving.names import WORKLOADS
from bench.serving.tables import tables
from bench.serving.targets import ours, peers
from bench.serving.work import make_work
from bench.turns import take_turns

KEYS = ("workload", "target", "connections")


def run(effort: Effort, workloads: Sequence[str]) -> Record:
    """Runs the benchmark; what is found is on disk as it comes."""
    record = Record(
        "serving",
        effort=effort.name,
        peers={name: install.versions(name) for name in install.NAMES},
        every_peer=effort.peers is None,
        repeats=effort.repeats,
        seconds=effort.seconds,
        questions={},
        left_out={},
        failed={},
        finished=[],
        runs=[],
    )
    for name in workloads:
        try:
            _run_workload(name, effort, record)
        except BenchmarkFailed as error:
            say(f"{name} FAILED: {error}")
            record.write(failed={**record.values["failed"], name: str(error)})
        else:
            record.write(finished=[*record.values["finished"], name])
    return record


def _run_workload(name: str, effort: Effort, record: Record) -> None:
    runs: list[dict[str, Any]] = record.values["runs"]
    left_out: dict[str, str] = record.values["left_out"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        say(f"{name}: making the model, starting the servers")
        work = make_work(name, folder / "work")
        record.values["questions"][name] = work.questions
        targets = ours(work, folder, stack, effort)
        for target in targets:
            check(target)
        targets += peers(work, folder, stack, effort, left_out)
        failing: dict[str, str] = {}
        try:
            for found in take_turns(
                targets, repeats=effort.repeats, seconds=effort.seconds, left_out=failing
            ):
                runs.append({"workload": name, **found})
                record.write(summary=summarised(runs, KEYS))
        finally:
            left_out |= {f"{peer} ({name})": reason for peer, reason in failing.items()}
            record.write()


def main() -> None:
    """Runs the benchmark, prints tables and claims, and says where the figures are."""
    parser = effort_parser("bench.serving", __doc__)
    parser.add_argument("--only", choices=WORKLOADS, action="append", help="only this workload")
    options = parser.parse_args()
    record = run(chosen_effort(options), options.only or WORKLOADS)
    summary = record.values.get("summary", [])
    record.write(claims=claims(summary))
    print(tables(summary))
    print(claims_table(record.values["claims"]))
    say(f"written to {record.path}")
    if record.values["failed"]:
        sys.exit(f"bench.serving: failed: {', '.join(record.values['failed'])}")


if __name__ == "__main__":
    main()
