"""``tidemill top``: a live view of what a server does."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, plain, session
from tidemill.control.overview import ApplicationRow, Look, Overview, look, overview
from tidemill.foundation.errors import InvalidInput, Unavailable

_WIDE = 118
_LETTERS = {"table": "t", "cache": "c", "model": "m", "default": "d"}


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("top")
    def top(
        once: Annotated[bool, typer.Option("--once", help="Print one view and end.")] = False,
        interval_s: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
        admin_port: Annotated[
            int | None, typer.Option(help="The port of the server's admin API.")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Watch applications, rates, latencies, promises, replicas and processes; Ctrl-C ends."""
        if not 0.05 <= interval_s <= 3600:
            raise InvalidInput(
                f"--interval-s is {interval_s:g}", remedy="Give seconds from 0.05 to 3600."
            )
        flags = {"serve.admin_port": admin_port}
        with session(home=home, config=config, json=json, flags=flags) as on:
            port = on.home.settings.serve.admin_port
            if once or json or not on.out.is_terminal:
                first = look(port, _now(on))
                time.sleep(interval_s)
                shown = overview(first, look(port, _now(on)))
                on.show(shown, lambda out: out.print(view(shown, out.width)))
            else:
                _watch(on, port, interval_s)


def _now(on: Session) -> float:
    return on.home.clock.monotonic()


def _watch(on: Session, port: int, interval_s: float) -> None:
    """Shows one view after the other until Ctrl-C; a server that is away is waited for."""
    before: Look | None = look(port, _now(on))
    with Live(console=on.out, screen=True, auto_refresh=False) as live:
        live.update(Text("looking"), refresh=True)
        try:
            while True:
                time.sleep(interval_s)
                before = _step(on.out, live, before, port, _now(on))
        except KeyboardInterrupt:
            return


def _step(out: Console, live: Live, before: Look | None, port: int, at: float) -> Look | None:
    try:
        after = look(port, at)
    except Unavailable as error:
        live.update(Text(f"{plain(error.what)}; waiting for it", "red"), refresh=True)
        return None
    if before is not None:
        live.update(view(overview(before, after), out.width), refresh=True)
    return after


def view(shown: Overview, width: int) -> RenderableType:
    """Returns what a terminal of this width shows."""
    parts: list[RenderableType] = [
        _head(shown),
        Text(""),
        _applications(shown, wide=width >= _WIDE),
    ]
    parts += [Text(""), _processes(shown)]
    for reason in shown.refused:
        parts.append(Text(f"not live: {plain(reason)}", "red"))
    return Group(*parts)


def _head(shown: Overview) -> Text:
    total = sum(row.queries_per_s for row in shown.applications)
    text = Text.assemble(
        ("tidemill", "bold"),
        f"  port {shown.port}  revision {shown.revision}  {_number(total)} queries/s",
    )
    if shown.restarts:
        text.append(f"  {shown.restarts} restarts", "yellow")
    return text


def _applications(shown: Overview, *, wide: bool) -> RenderableType:
    if not shown.applications:
        return Text("no application is live", "dim")
    table = _table()
    table.add_column("application", no_wrap=True, overflow="ellipsis", ratio=1)
    names = ["v", "q/s", "p50 ms", "p99 ms", "SLO", "fail/s"]
    names += ["queue ms", "model ms", "batch", "out"] if wide else []
    for name in (*names, "sources", "queue", "up"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in shown.applications:
        table.add_row(*_cells(row, wide=wide))
    return table


def _cells(row: ApplicationRow, *, wide: bool) -> list[Text]:
    attained = row.attained
    style = "" if attained is None or attained >= 0.99 else "yellow" if attained >= 0.9 else "red"
    cells = [
        Text(plain(row.application)),
        Text(row.version),
        Text(_number(row.queries_per_s)),
        Text(_number(row.p50_ms)),
        Text(_number(row.p99_ms)),
        Text("-" if attained is None else _percent(attained), style),
        Text(_number(row.failed_per_s), "red" if row.failed_per_s else ""),
    ]
    if wide:
        cells += [Text(_number(n)) for n in (row.queue_ms, row.compute_ms, row.batch_rows)]
        cells.append(Text(_count(row.batches_out)))
    cells += [Text(_sources(row.sources, wide=wide)), Text(_count(row.queue_rows))]
    cells.append(Text(_count(row.replicas_alive), "red" if row.replicas_alive == 0 else ""))
    return cells


def _sources(sources: dict[str, float], *, wide: bool) -> str:
    parts = [
        f"{source if wide else _LETTERS.get(source, source)} {sources[source]:.0%}"
        for source in sorted(sources, key=lambda source: -sources[source])
    ]
    return " ".join(parts) or "-"


def _processes(shown: Overview) -> RenderableType:
    table = _table()
    table.add_column("process", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("CPU", justify="right", no_wrap=True)
    table.add_column("memory MB", justify="right", no_wrap=True)
    for row in shown.processes:
        table.add_row(Text(plain(row.process)), f"{row.cpu:.0%}", f"{row.memory_bytes / 1e6:.0f}")
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", expand=True)


def _number(value: float | None) -> str:
    """Returns three digits that matter."""
    if value is None:
        return "-"
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value else "0"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _percent(share: float) -> str:
    return "100%" if share == 1.0 else f"{min(share, 0.9999):.2%}"
