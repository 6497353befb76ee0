"""Runs the benchmarks one after the other.

    python -m bench.run [--smoke | --quick | --brief] [--repeats N] [--soak SECONDS] [NAME …]

Without a level everything is measured, each peer in every configuration. Results are written as
JSON into ``bench/results``; ``python -m bench.report`` writes the tables of the docs from them.
"""

from __future__ import annotations

import subprocess
import sys

from bench.effort import chosen_effort, effort_parser
from bench.peers import install
from bench.results import say
from bench.servers import ROOT

BENCHMARKS = {
    "serving": "one row a request over HTTP, beside every peer",
    "openloop": "an SLO under arrivals that do not wait, and what batching gains",
    "footprint": "starting, resting, memory, a soak, a useless cache",
    "tables": "building a table of five million keys, beside doing it by hand",
    "planning": "whether a plan is true: predicted beside measured",
    "cases": "six cases, decided and measured",
    "lookup": "lookups over HTTP beside servers that only look up, and beside a build",
    "data": "statistics and validation of ten million rows, beside a bare query and others",
    "drift": "false alarms, shifts found, and a million rows beside Evidently",
}
MINUTES = {
    "serving": {"smoke": 2.5, "quick": 3, "brief": 6.5, "full": 31},
    "openloop": {"smoke": 2, "quick": 3.5, "brief": 9, "full": 22},
    "footprint": {"smoke": 1.5, "quick": 2, "brief": 3, "full": 10},
    "tables": {"smoke": 0.5, "quick": 0.5, "brief": 2.5, "full": 4},
    "planning": {"smoke": 3, "quick": 6, "brief": 10, "full": 16},
    "cases": {"smoke": 2.5, "quick": 14, "brief": 14, "full": 14},
    "lookup": {"smoke": 1, "quick": 2, "brief": 3.5, "full": 12},
    "data": {"smoke": 0.5, "quick": 2, "brief": 12, "full": 20},
    "drift": {"smoke": 1, "quick": 3, "brief": 6, "full": 30},
}
INSTALL_MINUTES = 0.5
MATTER_MOST = ("serving",)
"""Without a name, the quick level runs only these."""


def main() -> None:
    """Runs each benchmark in a process of its own; goes on after one that fails, and says so."""
    listed = "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items())
    parser = effort_parser("bench.run", __doc__)
    parser.epilog = listed
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; {listed}")
    effort = chosen_effort(options)
    names = options.names or (MATTER_MOST if effort.name == "quick" else list(BENCHMARKS))
    missing = [each for each in effort.peers or install.NAMES if not install.installed(each)]
    minutes = sum(MINUTES[name][effort.name] for name in names) + INSTALL_MINUTES * len(missing)
    say(f"this takes about {minutes:.0f} minutes: {', '.join(names)}")
    if missing:
        say(f"these peers are installed first, into {install.folder()}: {', '.join(missing)}")
    level = () if effort.name == "full" else (f"--{effort.name}",)
    given = {"--repeats": options.repeats, "--soak": options.soak}
    words = [word for k, v in given.items() if v is not None for word in (k, str(v))]
    failed = []
    for name in names:
        say(f"# {name}: {BENCHMARKS[name]}")
        command = [sys.executable, "-m", f"bench.{name}", *level, *words]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
