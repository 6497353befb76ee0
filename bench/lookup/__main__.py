"""Looks keys up over HTTP: ours beside servers that do nothing else, and beside a build.

    python -m bench.lookup [--smoke | --quick | --brief] [--repeats N] [--only PART] [--turn N]

Two parts. ``servers``: 64 connections ask for one key each, in turn of ours (by URL, and by a v1
body), a bare asyncio server on LMDB, FastAPI on LMDB and FastAPI on Redis, one process each.
``swap``: lookups come at half the rate that ours bears, while a large table is built at idle
priority and swapped in; then for as long beside processes that only burn as much CPU at that
priority. Its turns can be run one by one; the report puts together each one's newest, and the
newest comparison of servers.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.effort import Effort, chosen_effort, effort_parser
from bench.lookup.beside import beside_a_build, beside_a_burner
from bench.lookup.claims import claims, servers_table, turns_table
from bench.lookup.followed import cpu_s, rests
from bench.lookup.targets import AT, ours, peers
from bench.lookup.work import Work, make_work
from bench.measure import Target, check, measure, summarised
from bench.peers import install
from bench.results import Record, claims_table, say
from bench.servers import BenchmarkFailed
from bench.turns import take_turns

KEYS = {"smoke": 20_000, "quick": 100_000, "brief": 500_000, "full": 1_000_000}
BESIDE_KEYS = 100_000
"""So many keys at most are live where only a build is measured: what is asked for is all in it."""
BUILT = {"smoke": 50_000, "quick": 200_000, "brief": 500_000, "full": 5_000_000}
LIMIT_S = {"smoke": 60.0, "quick": 90.0, "brief": 180.0, "full": 500.0}
MOST_TURNS = 3
"""Builds leave tables behind, which take disk; more turns tell little more."""
PARTS = ("servers", "swap")


def main() -> None:
    """Runs the benchmark, prints tables and claims, and says where the figures are."""
    parser = effort_parser("bench.lookup", __doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part")
    parser.add_argument(
        "--turn",
        type=int,
        choices=range(1, MOST_TURNS + 1),
        action="append",
        help="only this turn of swap, and no other part",
    )
    options = parser.parse_args()
    parts = ("swap",) if options.turn else options.only or PARTS
    effort = chosen_effort(options)
    turns = options.turn or range(1, min(MOST_TURNS, effort.repeats) + 1)
    keys = KEYS[effort.name]
    if "servers" not in parts:
        keys = min(keys, BESIDE_KEYS)
    record = Record(
        "lookup",
        effort=effort.name,
        repeats=effort.repeats,
        seconds=effort.seconds,
        keys=keys,
        built=BUILT[effort.name],
        peers=install.versions("fastapi"),
        left_out={},
        runs=[],
        summary=[],
        turns=[],
        finished=False,
    )
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            say("making the model and its table, starting the servers")
            work = make_work(folder / "work", keys)
            mine = ours(work, folder, stack)
            for target in mine:
                check(target)
            if "servers" in parts:
                others = peers(work, folder, stack, record.values["left_out"])
                _compare([*mine, *others], effort, record)
            if "swap" in parts:
                _swap(mine[0], work, folder / "home", turns, record)
    except BenchmarkFailed as error:
        sys.exit(f"bench.lookup: {error}")
    record.write(finished=True)
    print(servers_table(record.values["summary"]), end="\n\n")
    print(turns_table(record.values["turns"]), end="\n\n")
    print(claims_table(record.values["claims"]))
    say(f"written to {record.path}")


def _compare(targets: list[Target], effort: Effort, record: Record) -> None:
    runs: list[dict[str, Any]] = record.values["runs"]
    for found in take_turns(targets, repeats=effort.repeats, seconds=effort.seconds):
        runs.append(found)
        summary = summarised(runs)
        record.write(summary=summary, claims=claims(summary, []))


def _swap(target: Target, work: Work, home: Path, turns: Iterable[int], record: Record) -> None:
    facts = record.values
    rate = measure(target, connections=AT, seconds=facts["seconds"])["rps"] / 2
    limit_s, built, found = LIMIT_S[facts["effort"]], facts["built"], facts["turns"]
    for turn in turns:
        rows = built + turn  # each holds a key that none before it held
        say(f"  turn {turn}: a build of {rows:,} keys beside {rate:,.0f} lookups/s")
        build, took, tracks = beside_a_build(
            target, work, home, rate=rate, rows=rows, limit_s=limit_s
        )
        spent = {"cpu_s": sum(map(cpu_s, tracks)), "rests": sum(map(rests, tracks))}
        say(f"  turn {turn}: {took:.1f} s beside a burner of as much ({_spent(spent)})")
        burner = beside_a_burner(target, rate=rate, seconds=took, tracks=tracks, limit_s=limit_s)
        say(f"    it took {_spent(burner)}")
        beside = {"build": {**build, **spent}, "burner": burner}
        found.append({"turn": turn, "built": built, "rate": rate, "seconds": took, **beside})
        record.write(claims=claims(facts["summary"], found))


def _spent(spent: dict[str, Any]) -> str:
    return f"{spent['cpu_s']:.1f} s of a core, {spent['rests']:,} rests"


if __name__ == "__main__":
    main()
