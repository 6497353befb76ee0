"""Several runs as one: each workload is told by the run that says most and latest of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.serving.claims import claims

Results = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What several runs found: ``spoken`` has each run with the workloads that it tells."""

    spoken: list[tuple[Results, list[str]]]
    summary: list[dict[str, Any]]
    left_out: dict[str, str]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Judges all workloads; ratios are within one workload, and so within one run."""
        return claims(self.summary)


def merge(runs: Sequence[Results], workloads: Iterable[str]) -> Merged:
    """Takes each workload's newest run, of those that were finished and beside every peer first.

    ``runs`` has the newest last.
    """
    spoken: list[tuple[Results, list[str]]] = []
    summary: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for workload in workloads:
        found = _newest(runs, workload)
        if found is None:
            continue
        told = next((names for run, names in spoken if run is found), None)
        if told is None:
            told = []
            spoken.append((found, told))
        told.append(workload)
        summary += _rows(found, workload)
        left_out |= {
            name: reason
            for name, reason in found["left_out"].items()
            if "(" not in name or name.endswith(f"({workload})")
        }
    return Merged(spoken=spoken, summary=summary, left_out=left_out)


def _newest(runs: Sequence[Results], workload: str) -> Results | None:
    ranked = [
        ((run["every_peer"], workload in run["finished"], number), run)
        for number, run in enumerate(runs)
        if _rows(run, workload)
    ]
    return max(ranked, key=lambda each: each[0])[1] if ranked else None


def _rows(run: Results, workload: str) -> list[dict[str, Any]]:
    return [row for row in run.get("summary", []) if row["workload"] == workload]
