"""``tidemill drift``: has a dataset moved since an earlier snapshot."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session, table
from tidemill.data.drift.verdict import DriftReport, DriftRules
from tidemill.data.snapshot_drift import drift_between

SnapshotOption = Annotated[
    str | None, typer.Option(help="The snapshot's id.", show_default="the newest")
]
LimitOption = Annotated[
    float, typer.Option(min=0, max=1, help="The part of the rows that may have moved.")
]
GraveOption = Annotated[
    float, typer.Option(min=0, max=1, help="Over it, an alarm is an error and no warning.")
]
ChanceOption = Annotated[
    float, typer.Option(min=1e-12, max=0.5, help="The false discovery rate over all columns.")
]


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("drift")
    def drift(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        snapshot: SnapshotOption = None,
        against: Annotated[
            str | None,
            typer.Option(help="The id of the reference.", show_default="the snapshot before"),
        ] = None,
        limit: LimitOption = 0.05,
        grave: GraveOption = 0.2,
        chance: ChanceOption = 0.01,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Compare a snapshot with an earlier one: which columns moved, by more than chance.

        Ends with code 3 if a column has drifted, or could not be compared.
        """
        rules = DriftRules(limit=limit, grave=grave, chance=chance)
        with session(home=home, config=config, json=json) as on:
            found = drift_between(on.home, name, snapshot=snapshot, against=against, rules=rules)
            report = found.report
            names = {"dataset": name, "snapshot": found.snapshot, "against": found.against}
            on.show(
                {**names, **as_record(report)},
                lambda out: print_report(
                    out, f"snapshot {found.snapshot} of {name} against {found.against}", report
                ),
            )
        if not report.ok:
            raise typer.Exit(3)


def as_record(report: DriftReport) -> dict[str, Any]:
    """Returns what ``--json`` shows of a report."""
    return {
        "ok": report.ok,
        "rows": {"reference": report.rows[0], "current": report.rows[1]},
        "alarms": report.alarms,
        "errors": report.errors,
        "left_out": report.left_out,
        "columns": [
            {
                "name": one.name,
                "severity": one.severity,
                "kind": one.kind,
                "rows": {"reference": one.rows[0], "current": one.rows[1]},
                "missing": {"reference": one.missing[0], "current": one.missing[1]},
                "distances": one.distances,
                "checks": one.checks,
            }
            for one in report.columns
        ],
    }


def print_report(out: Console, title: str, report: DriftReport) -> None:
    """Prints a report for people: alarms first, then what was left out."""
    before, now = report.rows
    out.print(plain(f"{title}: {now:,} rows against {before:,}"), markup=False)
    rows = table("Columns", "severity", "column", "measure", "distance", "limit", "chance", "what")
    for column in report.columns:
        for check in column.checks:
            if check.severity is not None:
                rows.add_row(
                    check.severity,
                    column.name,
                    check.measure,
                    f"{check.distance:.4g}",
                    f"{check.limit:g}",
                    f"{check.adjusted:.2g}",
                    check.message or "",
                )
    if rows.row_count:
        out.print(rows)
    quiet = sum(one.severity is None for one in report.columns)
    out.print(f"{quiet} of {len(report.columns)} columns compared are as before")
    for title_, found in (("could not be compared", report.errors), ("left out", report.left_out)):
        for name, why in found.items():
            out.print(plain(f"{title_}: {name}: {why}"), markup=False)
