"""What is claimed of the cost beside answering, and whether this run shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.footprint.soak import soak_claims
from bench.results import claim

PARTS = ("compiled", "original", "fastapi", "cache", "soak")
WITHOUT, WITH = "no cache", "a cache that never helps"


def put_together(
    runs: Iterable[dict[str, Any]],
) -> tuple[list[tuple[dict[str, Any], list[str]]], dict[str, Any]]:
    """Returns the runs that tell a part last, each with its parts, and the facts of all.

    ``runs`` has the newest last. Pushing and importing are as the newest run found them.
    """
    told: dict[str, dict[str, Any]] = {}
    facts: dict[str, Any] = {}
    for run in runs:
        facts |= run["facts"]
        told |= {part: run for part in PARTS if part in run["facts"]}
    spoken: list[tuple[dict[str, Any], list[str]]] = []
    for part, run in told.items():
        parts = next((parts for each, parts in spoken if each is run), None)
        if parts is None:
            spoken.append((run, [part]))
        else:
            parts.append(part)
    return spoken, facts


def claims(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Judges the facts; what a run did not come to is not measured."""
    served = {
        "compiled": facts.get("compiled", {}),
        "not compiled": facts.get("original", {}),
    }
    imports = facts.get("import_s", {})
    starts = {
        "compiled": _less(served["compiled"].get("start_s"), imports.get("compiled")),
        "not compiled": _less(served["not compiled"].get("start_s"), imports.get("original")),
    }
    pushed = _less(facts.get("push_s"), imports.get("push"))
    idle = [100 * each["idle_share"] for each in served.values() if each]
    memory = {name: each.get("pss_bytes") for name, each in served.items()}
    over = _less(memory["not compiled"], facts.get("fastapi", {}).get("pss_bytes"))
    return [
        claim("push of the forest, beyond the imports", pushed, "<=", 1.5, "s"),
        *(
            claim(f"serve to first answer, {name}, beyond the import", start, "<=", 1.5, "s")
            for name, start in starts.items()
        ),
        claim("CPU of all processes at rest", max(idle, default=None), "<=", 1.0, "% of a core"),
        claim("memory, forest compiled", _mb(memory["compiled"]), "<=", 140, "MB"),
        claim("memory, forest not compiled, beyond FastAPI's", _mb(over), "<=", 60, "MB"),
        *_cache_claims(facts.get("cache", [])),
        *(soak_claims(facts["soak"]) if "soak" in facts else []),
    ]


def _cache_claims(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = {each["target"]: each for each in summary}
    cpu = {name: row["cpu_us_per_request"]["median"] for name, row in rows.items()}
    rps = {name: row["rps"]["median"] for name, row in rows.items()}
    both = {WITH, WITHOUT} <= rows.keys()
    more, slower = (cpu[WITH] / cpu[WITHOUT], rps[WITHOUT] / rps[WITH]) if both else (None, None)
    return [
        claim("CPU per request: a cache that never helps / none", more, "<=", 1.1),
        claim("requests/s: no cache / one that never helps", slower, "<=", 1.1),
    ]


def _less(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above - below


def _mb(count: float | None) -> float | None:
    return None if count is None else count / 1e6
