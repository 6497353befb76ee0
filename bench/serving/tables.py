"""The figures as Markdown tables, one for each workload."""

from __future__ import annotations

from typing import Any

from bench.serving.names import GATEWAY

_TITLES = {
    "sum": "`sum`: 10 floats, no model to speak of",
    "lr": "`lr`: logistic regression on digits, 64 floats",
    "rf": "`rf`: random forest of 100 trees on digits, 64 floats",
    "mlp": "`mlp`: ONNX 784-512-512-10, 784 floats",
}
_COLUMNS = ("server", "connections", "requests/s (spread)", "ours is", "p50 ms", "p99 ms")
_COLUMNS += ("CPU µs/request", "processes", "errors")


def tables(summary: list[dict[str, Any]], *, level: str = "###") -> str:
    """Returns a table for each workload; ratios are of medians, ours over theirs."""
    parts = []
    for workload, title in _TITLES.items():
        rows = [row for row in summary if row["workload"] == workload]
        if rows:
            parts.append(f"{level} {title}\n\n{_table(rows)}\n")
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    ours = {row["connections"]: row["rps"]["median"] for row in rows if row["target"] == GATEWAY}
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" + "|--:" * (len(_COLUMNS) - 1) + "|"]
    for row in sorted(rows, key=lambda each: (each["connections"], -each["rps"]["median"])):
        rps = row["rps"]
        ratio = f"{ours[row['connections']] / rps['median']:.2f} x" if rps["median"] else ""
        lines.append(
            f"| {row['target']} | {row['connections']} "
            f"| {rps['median']:,.0f} ({rps['min']:,.0f}-{rps['max']:,.0f}) "
            f"| {'' if row['target'] == GATEWAY else ratio} "
            f"| {_number(row['p50_ms'])} | {_number(row['p99_ms'])} "
            f"| {_number(row['cpu_us_per_request'], 0)} | {row['processes']} | {row['errors']} |"
        )
    return "\n".join(lines)


def _number(figure: dict[str, float] | None, digits: int = 2) -> str:
    return "" if figure is None else f"{figure['median']:,.{digits}f}"
