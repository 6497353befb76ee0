"""``tidemill deployments``: what is live, and who changed it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.control import views
from tidemill.foundation.clock import iso


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("deployments")
    def deployments(
        application: Annotated[str | None, typer.Argument(help="One application only.")] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show what each application answers with, and the newest changes."""
        with session(home=home, config=config, json=json) as on:
            shown = views.deployments(on.home, application)
            on.show(shown, lambda out: _print(out, shown))


def _print(out: Console, shown: views.Deployments) -> None:
    if not shown.live:
        out.print("Nothing is live yet: push a model, or run a recipe.")
        return
    rows = table("Live", "application", "revision", "model", "version", "table", "SLO ms")
    for each in shown.live:
        for version in each.versions:
            rows.add_row(
                each.application,
                str(each.revision),
                version.model,
                str(version.version),
                version.table or "-",
                f"{each.slo_ms:g}",
            )
    out.print(rows)
    changes = table("Changes", "at", "application", "change", "by", "reason")
    for entry in shown.changes:
        changes.add_row(iso(entry.at), entry.subject, entry.verb, entry.by, entry.reason)
    out.print(changes)
