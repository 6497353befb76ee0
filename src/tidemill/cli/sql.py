"""``tidemill sql``: questions to what was predicted beforehand, and to the snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.foundation.errors import InvalidInput
from tidemill.recipes.warehouse import export_sql, plain_rows, run_sql


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("sql")
    def sql(
        query: Annotated[
            str, typer.Argument(help="As: select * from predictions.APP or snapshots.DATASET.")
        ],
        limit: Annotated[int, typer.Option(help="Show at most so many rows.")] = 100,
        out: Annotated[
            Path | None, typer.Option(help="Write all rows to this file instead: Parquet or CSV.")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Ask the predictions of tables, and the snapshots, in SQL (DuckDB's)."""
        if limit < 1:
            raise InvalidInput(f"a limit of {limit} shows nothing", remedy="Give 1 or more.")
        with session(home=home, config=config, json=json) as on:
            if out is not None:
                rows = export_sql(on.home, query, out)
                on.show(
                    {"rows": rows, "out": str(out)},
                    lambda console: console.print(f"{rows:,} rows in {out}"),
                )
                return
            found, more = run_sql(on.home, query, limit=limit)
            shown = {"columns": found.column_names, "rows": plain_rows(found), "more": more}
            on.show(shown, lambda console: _print(console, found, more))


def _print(out: Console, found: Any, more: bool) -> None:  # noqa: FBT001 - as shown
    rows = table("", *found.column_names)
    for row in plain_rows(found):
        rows.add_row(*("" if value is None else str(value) for value in row))
    out.print(rows)
    if more:
        out.print("and more: raise --limit, or write all with --out FILE")
