"""``tidemill models``: every version, what it is called, and how its aliases moved."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.control import views


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("models")
    def models(
        name: Annotated[str | None, typer.Argument(help="One model only.")] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """List model versions with their aliases; with a name, also the aliases' history."""
        with session(home=home, config=config, json=json) as on:
            shown = views.models(on.home, name)
            on.show(shown, lambda out: _print(out, shown))


def _print(out: Console, shown: views.Models) -> None:
    if not shown.versions:
        out.print("No models yet: push one, or run a recipe.")
        return
    rows = table("Models", "model", "version", "aliases", "runtime", "blessed", "made")
    for each in shown.versions:
        rows.add_row(
            each.name,
            str(each.version),
            ", ".join(each.aliases),
            each.runtime,
            "yes" if each.blessed else "no",
            each.created_at,
        )
    out.print(rows)
    if shown.history:
        moves = table("History", "at", "alias", "version", "by", "reason")
        for move in shown.history:
            version = "-" if move.version is None else str(move.version)
            moves.add_row(move.at, move.alias, version, move.by, move.reason)
        out.print(moves)
