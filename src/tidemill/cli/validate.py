"""``tidemill validate``: does a snapshot conform to its dataset's schema, and what if not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session, table
from tidemill.data.snapshot_checks import SnapshotValidation, validate_snapshot

SnapshotOption = Annotated[
    str | None, typer.Option(help="The snapshot's id.", show_default="the newest")
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        help="Judge as for this environment of the schema, such as serving.",
        show_default="every rule",
    ),
]
ServingOption = Annotated[
    str | None,
    typer.Option(
        help="The id of a snapshot of rows that were served, for limits in skew.",
        show_default="no skew is checked",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("validate")
    def validate(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        snapshot: SnapshotOption = None,
        environment: EnvironmentOption = None,
        serving: ServingOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Judge a snapshot by its dataset's schema: every anomaly, and the edit that would mend it.

        Ends with code 3 if an anomaly is an error.
        """
        with session(home=home, config=config, json=json) as on:
            found = validate_snapshot(
                on.home, name, snapshot=snapshot, environment=environment, serving=serving
            )
            report = found.report
            on.show(
                {
                    "dataset": found.dataset,
                    "snapshot": found.snapshot,
                    "environment": report.environment,
                    "rows": report.rows,
                    "ok": report.ok,
                    "previous": found.previous,
                    "serving": found.serving,
                    "measurements": report.measurements,
                    "anomalies": report.anomalies,
                },
                lambda out: _print(out, found),
            )
        if not report.ok:
            raise typer.Exit(3)


def _print(out: Console, found: SnapshotValidation) -> None:
    report = found.report
    out.print(
        plain(f"snapshot {found.snapshot} of {found.dataset}: {report.rows:,} rows"), markup=False
    )
    if not report.anomalies:
        out.print("no anomaly")
        return
    rows = table("Anomalies", "id", "severity", "kind", "rows", "what", "mend")
    for one in report.anomalies:
        mend = "" if one.fix is None else str(one.fix)
        rows.add_row(one.id, one.severity, one.kind, f"{one.rows:,}", one.message, mend)
    out.print(rows)
    if any(one.fix is not None for one in report.anomalies):
        out.print(
            plain(f"accept one with: tidemill schema update {found.dataset} --accept ID"),
            markup=False,
        )
