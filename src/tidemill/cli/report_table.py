"""``tidemill table show``: what the table of an application is worth."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.progress import count_progress
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.control.table_report import TableReport, report_table
from tidemill.foundation.clock import iso


def register_show(group: typer.Typer) -> None:
    """Adds the verb to those of tables."""

    @group.command("show")
    def show(
        application: Annotated[str, typer.Argument(help="The application.")],
        last_s: Annotated[
            float, typer.Option(help="What was asked within so many seconds counts.")
        ] = 86_400.0,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show the live table's size and age, whom it answers, and the keys that it lacks."""
        with session(home=home, config=config, json=json) as on:
            with count_progress(on, "reading what was asked") as progress:
                found = report_table(on.home, application, last_s=last_s, progress=progress)
            on.show(found, lambda out: _print(out, found))


def _print(out: Console, found: TableReport) -> None:
    allowed = "any age" if found.max_age_s is None else f"{found.max_age_s:,.0f} s"
    lines = [
        f"{found.application}: table {found.table} of {found.model}:{found.version}",
        f"  keys: {found.rows:,} of {', '.join(found.key)}",
        f"  size: {found.bytes:,} bytes, {found.bytes_per_key:.1f} for each key",
        f"  from: {found.source or 'not known'}",
        f"  built: {iso(found.built_at)}",
        f"  age: {found.age_s:,.0f} s; allowed: {allowed}"
        + ("; stale, it answers nothing" if found.stale else ""),
    ]
    asked = found.asked
    if asked is None:
        lines.append("  asked: nothing lately")
    else:
        lines += [
            f"  asked: {asked.rows:,} rows since {iso(asked.since)}",
            f"  coverage: {asked.coverage:.1%} of them have a key that is in the table",
            f"  hit rate: {asked.hit_rate:.1%} of them were answered from a table",
        ]
        if asked.unreadable:
            lines.append(f"  without a key: {asked.unreadable:,} rows")
    for line in lines:
        out.print(line, markup=False)
    if asked is not None and asked.lacks:
        rows = table("What it lacks", "key", "share of what was asked")
        for each in asked.lacks:
            rows.add_row(each.key, f"{each.share:.2%}")
        out.print(rows)
