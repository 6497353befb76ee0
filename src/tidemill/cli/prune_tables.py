"""``tidemill table prune``: what nothing needs any more of tables and features goes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session
from tidemill.control.pruning import KEEP, Pruned, prune


def register_prune(group: typer.Typer) -> None:
    """Adds the verb to those of tables."""

    @group.command("prune")
    def prune_(
        application: Annotated[str, typer.Argument(help="The application.")],
        keep: Annotated[
            int, typer.Option(help="What so many of its newest deployments named stays.")
        ] = KEEP,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would go, and do nothing.")
        ] = False,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Remove tables and stored features that no deployment needs any more, with their files."""
        with session(home=home, config=config, json=json) as on:
            done = prune(on.home, application, by="cli", keep=keep, dry_run=dry_run)
            on.show(done, lambda out: _print(out, done))


def _print(out: Console, done: Pruned) -> None:
    for each in done.removed:
        kind = "features" if each.kind == "features" else "table"
        out.print(f"{kind} {each.id}: {each.rows:,} keys, {each.bytes:,} bytes", markup=False)
    would = "would be removed" if done.dry_run else "removed"
    out.print(f"{len(done.removed)} {would}, {done.bytes:,} bytes; {done.kept} kept")
    if done.abandoned:
        out.print(f"{done.abandoned} files of builds that were given up {would}")
    if done.published:
        out.print(f"in Redis yet, to be removed later: {', '.join(done.published)}", markup=False)
