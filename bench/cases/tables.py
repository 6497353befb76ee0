"""A case as a table: each way to serve it, predicted beside measured, and where it flips."""

from __future__ import annotations

from typing import Any

import msgspec

from tidemill.planning.figures import number
from tidemill.recipes.rehearsal.comparison import Rehearsed


def rehearsed_table(found: tuple[Rehearsed, ...]) -> str:
    """Returns predicted and measured figures as a Markdown table."""
    lines = [
        "| served | keys | cache | CPU µs: predicted, measured | p50 ms | p99 ms | table bytes |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for each in found:
        told = [each.choice, f"{each.head_keys:,}", f"{each.cache_entries:,}"]
        for name in ("cpu_us", "p50_ms", "p99_ms"):
            low, high = map(number, each.spread(name))
            median = number(each.median(name))
            told.append(f"{number(getattr(each.predicted, name))}, {median} ({low}-{high})")
        told.append(f"{each.predicted.table_bytes:,}, {each.median('table_bytes'):,.0f}")
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def case_table(told: dict[str, Any]) -> str:
    """Returns what came of a case, as Markdown."""
    rehearsed = msgspec.convert(told["rehearsed"], tuple[Rehearsed, ...])
    theory = " or ".join(told["expected"])
    verdict = "as theory says" if told["agrees"] else f"where theory says {theory}"
    flips = [
        f"- {flip['what']}: {flip['choice']}"
        + ("" if flip["agrees"] else f", where theory says {' or '.join(flip['expected'])}")
        for flip in told["flips"]
    ]
    return "\n\n".join(
        [
            f"### `{told['case']}`: {told['choice']}, {verdict}",
            " ".join(told["reasons"]),
            rehearsed_table(rehearsed),
            "If one input is moved:\n\n" + "\n".join(flips),
        ]
    )
