"""``tidemill snapshots``: the accepted rows of a dataset, ingest by ingest."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.data.records import Snapshot
from tidemill.data.snapshots import list_snapshots
from tidemill.foundation.clock import iso


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("snapshots")
    def snapshots(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """List the snapshots of a dataset."""
        with session(home=home, config=config, json=json) as on:
            found = list_snapshots(on.home, name)
            on.show(
                {"dataset": name, "snapshots": found}, lambda out: _print(out, name, list(found))
            )


def _print(out: Console, name: str, found: list[Snapshot]) -> None:
    rows = table(f"Snapshots of {name}", "#", "id", "rows", "held", "sources", "made")
    for each in found:
        held = each.counts.received - each.counts.accepted
        sources = ", ".join(source.path.rpartition("/")[2] for source in each.sources)
        rows.add_row(
            str(each.sequence),
            each.id,
            f"{each.rows:,}",
            f"{held:,}",
            sources,
            iso(each.created_at),
        )
    out.print(rows)
