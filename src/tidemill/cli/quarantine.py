"""``tidemill quarantine``: the rows that were held, and why."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session, table
from tidemill.data.quarantine import list_held, show_held
from tidemill.data.records import HeldGroup
from tidemill.foundation.clock import iso


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    group = typer.Typer(help="Look at rows that were held, and why.", no_args_is_help=True)
    app.add_typer(group, name="quarantine")

    @group.command("list")
    def list_(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """List held rows by ingest and reason."""
        with session(home=home, config=config, json=json) as on:
            held = list_held(on.home, name)
            on.show(
                {"dataset": name, "rows": sum(each.rows for each in held), "held": held},
                lambda out: _print_groups(out, name, held),
            )

    @group.command("show")
    def show(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        reason: Annotated[str | None, typer.Option(help="Only rows held for this.")] = None,
        limit: Annotated[int, typer.Option(help="At most so many rows.", min=1)] = 20,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show held rows with their source, line, rule and text."""
        with session(home=home, config=config, json=json) as on:
            rows = show_held(on.home, name, reason=reason, limit=limit).to_pylist()
            on.show({"dataset": name, "rows": rows}, lambda out: _print_rows(out, rows))


def _print_groups(out: Console, name: str, held: list[HeldGroup]) -> None:
    if not held:
        out.print(f"No row of {name} is held.", markup=False)
        return
    rows = table(f"Held rows of {name}", "rows", "kind", "reason", "rule", "example", "since")
    for each in held:
        rows.add_row(
            f"{each.rows:,}",
            each.kind,
            each.reason,
            each.rule,
            "" if each.example is None else str(each.example)[:40],
            iso(each.held_at),
        )
    out.print(rows, markup=False)


def _print_rows(out: Console, rows: list[dict[str, object]]) -> None:
    if not rows:
        out.print("No such row is held.")
    for row in rows:
        out.print(
            plain(f"{row['source']}:{row['line']} {row['reason']}: {row['rule']}"),
            markup=False,
            style="bold",
        )
        out.print(plain(f"  {row['row']}"), markup=False)
