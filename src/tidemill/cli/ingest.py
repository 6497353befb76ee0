"""``tidemill ingest``: takes files through the data gate into a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.key_option import key_columns
from tidemill.cli.progress import bytes_progress
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session, table
from tidemill.data.records import IngestResult
from tidemill.data.sources import named_sources
from tidemill.recipes.intake import IngestOptions, take

MOST_NOTES = 12
_GRAVITY = ("error", "warning", "info")


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("ingest")
    def ingest(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        sources: Annotated[
            list[str],
            typer.Argument(
                help="Files, folders, a pattern with {SPAN} or {YYYY}{MM}{DD}, s3://BUCKET/PREFIX, "
                "or the URL of a database.",
                show_default=False,
            ),
        ],
        query: Annotated[str | None, typer.Option(help="What a database is asked.")] = None,
        db_table: Annotated[
            str | None, typer.Option("--table", help="The database's table, in place of a query.")
        ] = None,
        key: Annotated[
            str | None,
            typer.Option(help="Columns that name a row, with commas: judges duplicates."),
        ] = None,
        time: Annotated[str | None, typer.Option(help="The column of a row's event time.")] = None,
        lateness_s: Annotated[
            float | None, typer.Option(help="Rows older than the newest by more are held as late.")
        ] = None,
        delimiter: Annotated[
            str | None, typer.Option(help=r"The sign between CSV fields; \t is a tab.")
        ] = None,
        encoding: Annotated[
            str | None, typer.Option(help="Of CSV text, as Python names it.")
        ] = None,
        null_value: Annotated[
            list[str] | None,
            typer.Option(help="A text of CSV that means no value; may be given several times."),
        ] = None,
        max_bad_fraction: Annotated[
            float | None,
            typer.Option(help="The batch is refused if more than that is bad, 0 to 1."),
        ] = None,
        max_drift: Annotated[
            float | None, typer.Option(help="It is refused if a column has moved further, 0 to 1.")
        ] = None,
        environment: Annotated[
            str | None,
            typer.Option(help="The schema's, such as serving: its columns alone must be there."),
        ] = None,
        schema: Annotated[
            Path | None, typer.Option(help="A schema (TOML) for the first ingest of a dataset.")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Take files through the data gate: good rows become a snapshot, bad ones are held."""
        options = IngestOptions(
            key=key_columns(key),
            time=time,
            lateness_s=lateness_s,
            delimiter=delimiter,
            encoding=encoding,
            null_values=tuple(null_value) if null_value else None,
            max_bad_fraction=max_bad_fraction,
            max_drift=max_drift,
            environment=environment,
            schema=schema,
        )
        with session(home=home, config=config, json=json) as on:
            with bytes_progress(on, f"ingesting {name}") as progress:
                named = named_sources(sources, query=query, table=db_table)
                result = take(on.home, name, named, options, progress=progress)
            on.show(result, lambda out: _print(out, result))
        if result.snapshot is None and result.refused:
            raise typer.Exit(3)


def _print(out: Console, result: IngestResult) -> None:
    if result.repeated:
        out.print("These files were ingested before: nothing changed.")
    counts = table(f"Dataset {result.dataset}", "rows", "count")
    for name in ("received", "accepted", "quarantined", "duplicate", "late"):
        counts.add_row(name, f"{getattr(result, name):,}")
    out.print(counts)
    for reason, rows in sorted(result.reasons.items()):
        out.print(f"  held: {rows:,} for {reason}", markup=False)
    _print_notes(out, result)
    if result.refused:
        out.print(f"refused: {result.refused}", style="bold red", markup=False)
    elif result.snapshot is None:
        out.print("no snapshot: no row is new", markup=False)
    else:
        out.print(f"snapshot {result.snapshot}", markup=False)


def _print_notes(out: Console, result: IngestResult) -> None:
    gravest = sorted(result.anomalies, key=lambda one: _GRAVITY.index(one.severity))
    for one in gravest[:MOST_NOTES]:
        out.print(plain(f"  {one.severity}: {one.message} ({one.kind})"), markup=False)
    if len(gravest) > MOST_NOTES:
        out.print(f"  {len(gravest) - MOST_NOTES} more: --json has them", markup=False)
