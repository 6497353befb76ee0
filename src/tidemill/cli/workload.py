"""``tidemill workload``: how queries arrive, and how they share their keys."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from tidemill.cli.key_option import key_columns
from tidemill.cli.progress import bytes_progress, count_progress
from tidemill.cli.represent_option import RepresentOption
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, session, table
from tidemill.control.deployments import get_deployment, profiled
from tidemill.data.representation import declarations
from tidemill.data.sql_source import shown_url
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.files import write_atomic
from tidemill.planning.workload import WorkloadProfile
from tidemill.planning.workload.report import workload_page
from tidemill.planning.workload.sources import read_access_log, read_served, read_trace
from tidemill.recipes.keyed_sources import as_parquet

_BAR = 24


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("workload")
    def workload(
        application: Annotated[
            str | None, typer.Argument(help="The application, as the ledger knows it.")
        ] = None,
        trace: Annotated[
            str | None,
            typer.Option(
                help="A trace instead, with a time and a key: CSV, Parquet, s3://BUCKET/PREFIX, or "
                "the URL of a database."
            ),
        ] = None,
        query: Annotated[
            str | None, typer.Option(help="What the database of --trace is asked.")
        ] = None,
        db_table: Annotated[
            str | None, typer.Option("--table", help="Its table, in place of a query.")
        ] = None,
        access_log: Annotated[
            Path | None, typer.Option(help="An access log instead; the key is what was asked for.")
        ] = None,
        key: Annotated[
            str | None, typer.Option(help="The key's columns, with commas.", show_default="all")
        ] = None,
        represent: RepresentOption = None,
        time: Annotated[str, typer.Option(help="The trace's column of the time.")] = "time",
        report: Annotated[
            Path | None, typer.Option(help="Also write a page with plots to this file.")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Measure the workload: rate, bursts, keys, peakedness, what a cache would answer."""
        columns = key_columns(key)
        sources = [each for each in (application, trace, access_log) if each is not None]
        if len(sources) != 1:
            raise InvalidInput(
                f"{len(sources)} sources of requests are given",
                remedy="Give an application, --trace FILE or --access-log FILE.",
            )
        where = shown_url(str(sources[0]))
        with session(home=home, config=config, json=json) as on:
            given = None if represent is None else declarations(represent)
            asked = _Trace(source=trace, query=query, table=db_table) if trace else None
            found = _measured(on, application, asked, access_log, columns, given, time)
            if report is not None:
                write_atomic(report, workload_page(found, where).encode())
            shown = {"source": where, **msgspec.to_builtins(found)}
            if report is not None:
                shown["report"] = str(report)
            on.show(shown, lambda out: _print(out, found, where, report))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    source: str
    query: str | None
    table: str | None


def _measured(
    on: Session,
    application: str | None,
    trace: _Trace | None,
    access_log: Path | None,
    columns: tuple[str, ...] | None,
    represent: dict[str, str] | None,
    time: str,
) -> WorkloadProfile:
    if access_log is not None:
        with bytes_progress(on, f"reading {access_log.name}") as told:
            return read_access_log(access_log, represent=represent or {}, progress=told).result()
    if trace is not None:
        return _traced(on, trace, columns, represent or {}, time)
    assert application is not None
    key, as_key = profiled(get_deployment(on.home, application), columns, represent)
    with count_progress(on, f"reading what {application} was asked") as told:
        seen = read_served(on.home.ledger_path, application, key, represent=as_key, progress=told)
    return seen.result()


def _traced(
    on: Session,
    trace: _Trace,
    columns: tuple[str, ...] | None,
    represent: dict[str, str],
    time: str,
) -> WorkloadProfile:
    """Reads a trace; one from elsewhere is copied first."""
    with ExitStack() as stack:
        with bytes_progress(on, f"copying {shown_url(trace.source)}") as told:
            source = as_parquet(
                on.home, trace.source, query=trace.query, table=trace.table, progress=told
            )
            path = stack.enter_context(source)
        with count_progress(on, f"reading {path.name}") as told:
            seen = read_trace(path, columns, time=time, represent=represent, progress=told)
    return seen.result()


def _print(out: Console, found: WorkloadProfile, source: str, report: Path | None) -> None:
    figures = table(f"Workload of {source}", "figure", "value")
    figures.add_row("requests", f"{found.requests:,} in {found.duration_s:,.1f} s")
    figures.add_row("requests a second", f"{found.rate_rps:,.4g}")
    figures.add_row(
        "peak to mean", f"{found.peak_to_mean:.2f} (windows of {found.window_s:,.3g} s)"
    )
    figures.add_row("variation of the gaps", f"{found.cv2:.2f} (squared; 1 is a Poisson process)")
    figures.add_row("distinct keys", f"{found.cardinality:,}")
    figures.add_row("new keys", f"{found.new_key_rate:.2%} of the later half of the requests")
    figures.add_row("Gini", f"{found.gini:.3f}")
    figures.add_row("Zipf exponent", f"{found.zipf_exponent:.2f}")
    if not found.exact:
        figures.add_row("reuse is of", f"{found.sampled:.2%} of the keys; the head is counted")
    if found.skipped or found.reordered:
        figures.add_row("rows", f"{found.skipped:,} skipped, {found.reordered:,} out of order")
    out.print(figures)
    shares = table("Share of requests", "of the", "most frequent keys", "", "a cache of as many")
    for k, share in found.top_share.items():
        hits = found.reuse.get(k)
        shares.add_row(
            f"{int(k):,}", f"{share:7.2%}", _bar(share), "" if hits is None else f"{hits:7.2%}"
        )
    out.print(shares)
    if found.heavy:
        heavy = table("Most frequent keys", "share", "key")
        for each in found.heavy[:10]:
            heavy.add_row(f"{each.share:7.2%}", each.key)
        out.print(heavy)
    if report is not None:
        out.print(f"written to {report}")


def _bar(share: float) -> str:
    full = round(share * _BAR)
    return "█" * full + "░" * (_BAR - full)
