"""Writes the newest results of each benchmark into the docs, between markers.

    python -m bench.report [--print]

In ``docs/benchmarks.md`` a table stands between ``<!-- results: NAME -->`` and
``<!-- end of results -->``; whatever is there is replaced by what ``bench/results`` holds. A
benchmark without results here is left as it is. Workloads that were served in several runs, plans
and cases that were measured in several, parts of the footprint, and servers of lookups and turns of
builds beside them are put together, each in its newest run.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable
from typing import Any

import msgspec
from bench.cases.claims import case_claims
from bench.cases.tables import case_table, rehearsed_table
from bench.footprint.claims import claims as footprint_claims
from bench.footprint.claims import put_together
from bench.lookup.claims import beside_burner, servers_table, turns_table
from bench.lookup.claims import claims as lookup_claims
from bench.openloop.sweep import sweep_table
from bench.planning.claims import planning_claims
from bench.results import BUSY, all_results, claims_table, say
from bench.servers import ROOT
from bench.serving.merge import merge
from bench.serving.names import WORKLOADS
from bench.serving.tables import tables

from tidemill.recipes.rehearsal.comparison import Rehearsed

PAGE = ROOT / "docs" / "benchmarks.md"
_BLOCK = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end of results -->", re.DOTALL)


def measured_on(results: dict[str, Any]) -> str:
    """Returns a sentence with commit, machine and versions."""
    machine, versions = results["machine"], results["versions"]
    named = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    busy = machine["busy"]
    beside = f", beside other work ({busy:.0%} of its CPU)" if busy > BUSY else ""
    changed = " with changes that were not committed" if results["changed"] else ""
    native = " Our gateways ran compiled (`tidemill native`)." if results.get("native") else ""
    return (
        f"Measured {results['at'][:10]} at commit {str(results['commit'])[:10]}{changed}, level "
        f"`{results['effort']}`, on {machine['cores']} cores ({machine['processor']}){beside}, "
        f"Python {machine['python']}; {named}.{native}"
    )


def serving(runs: list[dict[str, Any]]) -> str:
    """Returns what the serving benchmark found, each workload in its newest run."""
    merged = merge(runs, WORKLOADS)
    several = len(merged.spoken) > 1
    reasons = [
        f"- {name} was left out: {reason.splitlines()[0]}"
        for name, reason in merged.left_out.items()
    ]
    parts = [
        *(_told(run, workloads if several else []) for run, workloads in merged.spoken),
        "\n".join(reasons),
        claims_table(merged.claims),
        tables(merged.summary).rstrip(),
    ]
    return "\n\n".join(part for part in parts if part)


def _told(run: dict[str, Any], workloads: list[str]) -> str:
    beside = ", ".join(_own_version(name, found) for name, found in run["peers"].items())
    turns = f"Medians of {run['repeats']} turns of {run['seconds']:g} s."
    of = f"{', '.join(f'`{name}`' for name in workloads)}: " if workloads else ""
    return f"{of}{measured_on(run)} Beside: {beside}. {turns}"


def openloop(runs: list[dict[str, Any]]) -> str:
    """Returns what the open-loop benchmark found."""
    results = _newest(runs)
    generator = results["generator"]
    rate, cpu_us = generator["kept_up_rps"], generator["steps"][-1]["generator_cpu_us"]
    kept_up = (
        f"The generator keeps up with {rate:,} questions a second, {cpu_us:.0f} µs of CPU each."
    )
    parts = [
        f"{measured_on(results)} {kept_up}",
        claims_table(results["claims"]),
    ]
    for found in results["sweeps"]:
        title = f"### {found['subject']}: SLO {found['slo_ms']:g} ms"
        parts.append(f"{title}, capacity {found['capacity_rps']:,.0f}/s\n\n{sweep_table(found)}")
    return "\n\n".join(parts)


def footprint(runs: list[dict[str, Any]]) -> str:
    """Returns what the footprint benchmark found, each part in its newest run."""
    spoken, facts = put_together(runs)
    several = len(spoken) > 1
    told = [
        f"{', '.join(parts)}: {measured_on(run)}" if several else measured_on(run)
        for run, parts in spoken
    ]
    return "\n\n".join([*told, claims_table(footprint_claims(facts))])


def built(runs: list[dict[str, Any]]) -> str:
    """Returns what the benchmark of building tables found."""
    results = _newest(runs)
    turns = results["turns"]
    told = ", ".join(f"{t['ours']['s']:.1f} and {t['by_hand']['s']:.1f}" for t in turns)
    said = f"{results['rows']:,} keys; seconds of each turn, ours and by hand: {told}."
    parts = [f"{measured_on(results)} {said}", claims_table(results["claims"])]
    if all("1%" in turn for turn in turns):
        parts.append(rebuilt(turns))
    return "\n\n".join(parts)


def rebuilt(turns: list[dict[str, Any]]) -> str:
    """Returns what building the table again took, by the share of rows that are others."""
    lines = [
        "| rows that are others | scored | s | CPU s | CPU / that of the whole build |",
        "|--:|--:|--:|--:|--:|",
    ]
    for name in (name for name in turns[0] if name.endswith("%")):
        took, cpu_s = (statistics.median(t[name][what] for t in turns) for what in ("s", "cpu_s"))
        shares = sorted(turn[name]["cpu_s"] / turn["ours"]["cpu_s"] for turn in turns)
        told = f"{statistics.median(shares):.2f} ({shares[0]:.2f}-{shares[-1]:.2f})"
        scored = turns[0][name]["scored"]
        lines.append(f"| {name} | {scored:,} | {took:.1f} | {cpu_s:.1f} | {told} |")
    return "\n".join(lines)


def lookup(runs: list[dict[str, Any]]) -> str:
    """Returns what the benchmark of lookups found: servers, and each turn of builds, newest run."""
    compared = [run for run in runs if run["summary"]]
    parts, summary = [], []
    if compared:
        results = _newest(compared)
        summary = results["summary"]
        beside = ", ".join(f"{name} {number}" for name, number in results["peers"].items())
        told = f"Beside: {beside}. {results['keys']:,} keys; medians of {results['repeats']} turns."
        left = [f"- {name} was left out: {why}" for name, why in results["left_out"].items()]
        parts += [f"{measured_on(results)} {told}", "\n".join(left), servers_table(summary)]
    most = max((run["built"] for run in runs if run["turns"]), default=0)
    full = [run for run in runs if run["built"] == most]
    newest = _newest_parts(full, "turns", "turn")
    newest = {f"turn {number}": newest[number] for number in sorted(newest)}
    turns = [turn for _, turn in newest.values()]
    if turns:
        parts.append("Builds beside half the lookups that the server bears:")
        parts += [*_spoken(newest, ""), turns_table(turns), _superseded(full, turns)]
    return "\n\n".join(
        part for part in (claims_table(lookup_claims(summary, turns)), *parts) if part
    )


def _superseded(runs: list[dict[str, Any]], newest: list[dict[str, Any]]) -> str:
    """Returns what earlier runs of turns found: who asks until an answer is good has to say so."""
    earlier = [
        f"{turn['turn']}: {beside_burner(turn):.2f}"
        for run in sorted(runs, key=lambda each: each["at"])
        for turn in run["turns"]
        if turn not in newest
    ]
    return f"Ratios of earlier runs, which do not count: turn {', '.join(earlier)}." * bool(earlier)


def described(runs: list[dict[str, Any]]) -> str:
    """Returns what the benchmark of statistics and validation found."""
    results = _newest(runs)
    told = ", ".join(
        f"{t['bare']['seconds']:.1f} and {t['ours']['seconds']:.1f}" for t in results["turns"]
    )
    left = [f"- {name} was left out: {why}" for name, why in results["left_out"].items()]
    said = f"{results['rows']:,} rows, {results['few_rows']:,} beside others; seconds of each turn,"
    parts = [
        f"{measured_on(results)} {said} bare query and ours: {told}.",
        "\n".join(left),
        claims_table(results["claims"]),
    ]
    return "\n\n".join(part for part in parts if part)


def planned(runs: list[dict[str, Any]]) -> str:
    """Returns how true plans are: predicted beside measured, each question in its newest run."""
    newest = _newest_parts(runs, "questions", "question")
    parts = _spoken(newest, "The median of {repeats} repeats, in brackets least and greatest.")
    questions = [question for _, question in newest.values()]
    parts.append(claims_table(planning_claims(questions)))
    for each in questions:
        found = msgspec.convert(each["found"], tuple[Rehearsed, ...])
        title = each["question"].capitalize()
        parts.append(f"### {title}\n\n{rehearsed_table(found)}")
    return "\n\n".join(parts)


def cases(runs: list[dict[str, Any]]) -> str:
    """Returns what came of the six cases, each in its newest run."""
    newest = _newest_parts(runs, "cases", "case")
    found = [case for _, case in newest.values()]
    parts = [*_spoken(newest, ""), claims_table(case_claims(found))]
    return "\n\n".join([*parts, *map(case_table, found)])


Parts = dict[str, tuple[dict[str, Any], dict[str, Any]]]
"""By its name, each part's newest run, and what that found of it."""


def _newest_parts(runs: list[dict[str, Any]], parts: str, name: str) -> Parts:
    """Returns each part in its newest run: what a run that was cut off has written is whole."""
    newest: Parts = {}
    for run in sorted(runs, key=lambda each: each["at"]):
        newest |= {each[name]: (run, each) for each in run[parts]}
    return newest


def _spoken(newest: Parts, said: str) -> list[str]:
    """Returns where and when parts were measured, those of one run together."""
    spoken: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for name, (run, _) in newest.items():
        spoken.setdefault(run["at"], (run, []))[1].append(name)
    told = []
    for run, names in spoken.values():
        of = f"{'; '.join(names).capitalize()}: m" if len(spoken) > 1 else "M"
        told.append(f"{of}{measured_on(run)[1:]} {said.format(**run)}".rstrip())
    return told


def drifted(runs: list[dict[str, Any]]) -> str:
    """Returns what the benchmark of drift found."""
    results = _newest(runs)
    took = ", ".join(f"{turn['ours']['check_s']:.2f}" for turn in results["turns"])
    peer = results["turns"][0]["evidently"]
    beside = f"Evidently {peer['s']:.1f}" if "s" in peer else f"Evidently: {peer['reason']}"
    said = f"{results['rows']:,} rows; seconds of each check: {took}; {beside}."
    return f"{measured_on(results)} {said}\n\n{claims_table(results['claims'])}"


WRITERS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "serving": serving,
    "openloop": openloop,
    "footprint": footprint,
    "tables": built,
    "lookup": lookup,
    "data": described,
    "drift": drifted,
    "planning": planned,
    "cases": cases,
}


def filled(page: str) -> str:
    """Returns the page with the newest results between its markers."""

    def block(found: re.Match[str]) -> str:
        runs = all_results(found[1])
        if not runs:
            say(f"no results of {found[1]} in bench/results: left as it is")
            return found[0]
        text = WRITERS[found[1]](runs)
        return f"<!-- results: {found[1]} -->\n\n{text}\n\n<!-- end of results -->"

    return _BLOCK.sub(block, page)


def main() -> None:
    """Writes the page, or prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--print", action="store_true", help="print the page, change nothing")
    page = filled(PAGE.read_text(encoding="utf-8"))
    if parser.parse_args().print:
        print(page, end="")
        return
    PAGE.write_text(page, encoding="utf-8")
    say(f"written to {PAGE}")


def _newest(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the newest run, of those that came to their end first."""
    return max(enumerate(runs), key=lambda each: (each[1]["finished"], each[0]))[1]


def _own_version(name: str, versions: dict[str, str]) -> str:
    package = {"triton": "nvidia-pytriton", "ray": "ray[serve]"}.get(name, name)
    title = {"triton": "Triton's Python backend (nvidia-pytriton)"}.get(name, package)
    return f"{title} {versions.get(package, '')}".strip()


if __name__ == "__main__":
    main()
