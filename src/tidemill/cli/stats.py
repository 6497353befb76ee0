"""``tidemill stats``: what the rows of a dataset look like, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from tidemill.cli.progress import count_progress
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.cli.sparklines import sparkline
from tidemill.cli.validate import SnapshotOption
from tidemill.data.snapshot_statistics import DatasetStatistics, dataset_statistics
from tidemill.data.summaries import ColumnStatistics, TableStatistics

SHOWN_SLICES = 10
SHOWN_PAIRS = 20
SHOWN_CHARACTERS = 16


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("stats")
    def stats(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        snapshot: SnapshotOption = None,
        every: Annotated[
            bool, typer.Option("--all", help="Of all snapshots together, up to that one.")
        ] = False,
        by: Annotated[
            str | None,
            typer.Option(
                "--slice", help="Also by the values of this column.", show_default="no slices"
            ),
        ] = None,
        weight: Annotated[
            str | None,
            typer.Option(
                help="Also count each row by this column.", show_default="each row counts once"
            ),
        ] = None,
        label: Annotated[
            str | None,
            typer.Option(help="Also what each column tells of this one.", show_default="of none"),
        ] = None,
        correlate: Annotated[
            bool, typer.Option("--correlate", help="Also how columns of numbers go together.")
        ] = False,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show the statistics of a dataset's rows."""
        with session(home=home, config=config, json=json) as on:
            with count_progress(on, f"reading {name}") as progress:
                found = dataset_statistics(
                    on.home,
                    name,
                    snapshot=snapshot,
                    every=every,
                    by=by,
                    weight=weight,
                    label=label,
                    correlated=correlate,
                    progress=progress,
                )
            on.show(found, lambda out: _print(out, found))


def _print(out: Console, found: DatasetStatistics) -> None:
    which = f"snapshot {found.snapshots[0]}"
    if len(found.snapshots) > 1:
        which = f"{len(found.snapshots)} snapshots"
    _print_table(out, f"{which} of {found.dataset}", found.statistics)
    for one in found.slices[:SHOWN_SLICES]:
        out.print()
        _print_table(out, f"{found.slice} = {_short(one.value)}", one.statistics)
    left = len(found.slices) - SHOWN_SLICES
    if left > 0:
        out.print(f"and {left} smaller slices, which --json has")
    if found.associations:
        rows = table(f"What columns tell of {found.label}", "column", "part", "bits")
        for tells in found.associations[:SHOWN_PAIRS]:
            rows.add_row(tells.column, f"{tells.share:.1%}", f"{tells.bits:.3f}")
        out.print(rows)
    if found.correlations:
        rows = table("Correlations", "column", "with", "r", "rows")
        for pair in found.correlations[:SHOWN_PAIRS]:
            rows.add_row(pair.first, pair.second, f"{pair.r:.3f}", f"{pair.rows:,}")
        out.print(rows)


def _print_table(out: Console, title: str, statistics: TableStatistics) -> None:
    weighted = any(column.weighted is not None for column in statistics.columns)
    heads = ["column", "type", "missing", "distinct", "min", "median", "max", "mean", "shape"]
    if weighted:
        heads.insert(-1, "weighted mean")
    rows = table(f"{title}: {statistics.rows:,} rows", *heads)
    for column in statistics.columns:
        cells = _cells(column)
        if weighted:
            mean = column.weighted.mean if column.weighted else None
            cells.insert(-1, _value(column, mean))
        rows.add_row(*cells)
    out.print(rows)


def _cells(column: ColumnStatistics) -> list[str]:
    missing = f"{column.missing_fraction:.1%}" if column.missing else ""
    distinct = f"{column.distinct:,}" if column.distinct_exact else f"~{column.distinct:,}"
    shape: Sequence[float] = column.ranks or tuple(count for _, count in column.top)
    if column.histogram is not None and column.type != "bool":
        shape = column.histogram.counts
    numbers = (column.min, column.median, column.max, column.mean)
    if column.type == "bool":
        numbers = (None, None, None, column.mean)
    named = [_value(column, each) for each in numbers]
    if column.type == "string" and column.top:
        named[1] = _short(column.top[0][0])
    return [column.name, column.type, missing, distinct, *named, sparkline(shape)]


def _value(column: ColumnStatistics, value: Any) -> str:
    if value is None:
        return ""
    if column.type == "timestamp":
        try:
            return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}"
        except (OverflowError, ValueError, OSError):
            return f"{value:.6g}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _short(value)


def _short(value: Any) -> str:
    text = "(missing)" if value is None else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
