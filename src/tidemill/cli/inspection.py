"""How an application's present state is shown to people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from tidemill.cli.session import table


def print_inspection(out: Console, shown: dict[str, Any]) -> None:
    """Prints what a running server has of an application."""
    out.print(f"{shown['application']}, revision {shown['revision']}", style="bold", markup=False)
    if shown["refused"]:
        out.print(f"  refused: {shown['refused']}", markup=False)
    rows = table(
        "Versions", "gateway", "version", "waiting", "out", "a batch of n takes", "table", "cached",
        "alive",
    )  # fmt: skip
    for gateway in shown["gateways"]:
        for each in gateway["versions"]:
            alive = [replica["alive"] for replica in each["replicas"]]
            rows.add_row(
                gateway["gateway"],
                f"{each['model']}:{each['version']} ({each['runtime']}, {each['placement']})",
                str(each["queued_rows"]),
                str(each["batches_out"]),
                _law(each["service_time"]),
                _table(each),
                str(each["cached_answers"]),
                f"{sum(alive)} of {len(alive)}",
            )
    out.print(rows)
    workers = table("Workers", "version", "pid", "restarts", "in flight")
    for each in shown["workers"]:
        workers.add_row(
            f"{each['model']}:{each['version']}",
            str(each["pid"]),
            str(each["restarts"]),
            str(_in_flight(shown, each["socket"])),
        )
    if shown["workers"]:
        out.print(workers)


def _law(service_time: dict[str, float] | None) -> str:
    if service_time is None:
        return "not known yet"
    fixed, per_row, spread = (
        service_time[name] for name in ("fixed_ms", "per_row_ms", "spread_ms")
    )
    return f"{fixed:.3f} + {per_row:.4f}·n ms, ± {spread:.3f}"


def _table(version: dict[str, Any]) -> str:
    if version["table"] is None:
        return "-"
    silent = ", does not answer" if version["table_answers"] is False else ""
    stale = ", stale" if version["table_stale"] else ""
    return f"{version['table_age_s']:,.0f} s old{stale}{silent}"


def _in_flight(shown: dict[str, Any], socket: str) -> int:
    """Returns the batches that a worker has of all gateways."""
    return sum(
        replica["in_flight"]
        for gateway in shown["gateways"]
        for version in gateway["versions"]
        for replica in version["replicas"]
        if socket.endswith(f"/{replica['name']}")
    )
