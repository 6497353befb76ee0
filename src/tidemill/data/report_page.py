"""The report of a snapshot, as one page of HTML: what is wrong first, then every column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from tidemill.data.drift.verdict import ColumnDrift, DriftReport
from tidemill.data.records import Anomaly, HeldGroup, Snapshot
from tidemill.data.report_charts import bars, histograms, text
from tidemill.data.summaries import ColumnStatistics, TableStatistics
from tidemill.foundation.clock import iso
from tidemill.foundation.pages import page, rows

SEVERITIES = ("error", "warning", "info")

_STYLE = """<style>
body { max-width: 72rem } h2 { border-top: 2px solid #e3e8ee; padding-top: 1rem }
section { content-visibility: auto; contain-intrinsic-size: auto 260px; margin: 1.6rem 0 }
section h3 { font-size: 1rem; margin: 0 0 .3rem; overflow-wrap: anywhere }
h3 small { color: #5b6875 }
.sides { display: flex; gap: 1.5rem; flex-wrap: wrap }
.sides > div { flex: 1 1 17rem; min-width: 0 }
svg { background: #f6f8fa; width: 100%; max-width: 30rem } path { fill: #2f6fb0 }
.bars td { padding: 0 .5rem 0 0; border: 0; overflow-wrap: anywhere } td.bar { width: 40% }
.bars i { display: block; height: .7rem; background: #2f6fb0; min-width: 1px }
.bars td.n { white-space: nowrap }
.side1 path, .side1 .bars i { fill: #b5651d; background: #b5651d }
dl { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .4rem 0; font-size: .85rem }
dt { color: #5b6875; display: inline }
dd { margin: 0; display: inline; font-variant-numeric: tabular-nums }
.error { color: #b00020 } .warning { color: #8a5a00 } .info { color: #5b6875 }
nav { columns: 12rem; font-size: .85rem } nav a { display: block; overflow-wrap: anywhere }
ul.told { padding: 0; list-style: none } .told li { margin: .6rem 0; overflow-wrap: anywhere }
td { overflow-wrap: anywhere } td.n { white-space: normal }
</style>"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a report tells.

    Attributes:
        snapshot: whose rows.
        statistics: of them.
        anomalies: under the schema in force.
        held: rows that were held when the snapshot was made.
        against: an earlier snapshot beside it, if one was named.
        before: its statistics.
        drift: from that one to this.
    """

    snapshot: Snapshot
    statistics: TableStatistics
    anomalies: tuple[Anomaly, ...]
    held: tuple[HeldGroup, ...]
    against: Snapshot | None = None
    before: TableStatistics | None = None
    drift: DriftReport | None = None


def report_page(report: Report) -> str:
    """Returns the page: it needs no network and no script."""
    snapshot = report.snapshot
    heading = f"{snapshot.dataset}: snapshot {snapshot.id}"
    return page(f"{heading} \u2013 Tidemill", heading, [_STYLE, *_parts(report)])


def _parts(report: Report) -> Iterator[str]:
    yield _facts(report)
    yield "<h2>Anomalies</h2>"
    yield _anomalies(report.anomalies)
    if report.drift is not None:
        yield "<h2>Drift</h2>"
        yield from _drift(report.drift)
    yield "<h2>Held rows</h2>"
    yield _held(report)
    yield "<h2>Columns</h2>"
    ordered = _ordered(report)
    marks = _marks(report)
    links = "".join(
        f"<a href='#c{place}' class='{marks.get(each.name, '')}'>{text(each.name)}</a>"
        for place, each in enumerate(ordered)
    )
    yield f"<details><summary>{len(ordered):,} columns</summary><nav>{links}</nav></details>"
    for place, each in enumerate(ordered):
        yield _column(report, each, place, marks.get(each.name, ""))


def _facts(report: Report) -> str:
    sides = _sides(report)
    facts: list[tuple[str, list[Any]]] = [
        ("snapshot", [one.id for one in sides]),
        ("made", [iso(one.created_at)[:16].replace("T", " ") for one in sides]),
        ("rows", [one.rows for one in sides]),
    ]
    facts += [
        (f"rows {name}", [getattr(one.counts, name) for one in sides])
        for name in ("received", "accepted", "quarantined", "duplicate", "late")
    ]
    facts.append(("sources", [len(one.sources) for one in sides]))
    heads = ["", "this snapshot"] + (["beside it"] if len(sides) > 1 else [])
    return rows(heads, ([name, *map(_plain, values)] for name, values in facts))


def _sides(report: Report) -> list[Snapshot]:
    return [report.snapshot] + ([report.against] if report.against is not None else [])


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _anomalies(anomalies: Sequence[Anomaly]) -> str:
    if not anomalies:
        return "<p>None: the rows are as the schema says.</p>"
    return _told(
        (
            one.severity,
            f"{text(one.column)} {text(one.kind)}",
            f"{one.rows:,} rows" if one.rows else "",
            _long(one.message),
            "" if one.fix is None else f"mend: {_long(str(one.fix))}",
        )
        for one in sorted(anomalies, key=lambda one: SEVERITIES.index(one.severity))
    )


def _told(entries: Iterable[tuple[str, str, str, str, str]]) -> str:
    """Returns entries of severity, title, number, sentence and remark, which wrap on a phone."""
    items = "".join(
        f"<li><b class={severity or 'info'}>{severity}</b> <b>{title}</b> {number}"
        f"<div>{words}</div><div class=info>{remark}</div>"
        for severity, title, number, words, remark in entries
    )
    return f"<ul class=told>{items}</ul>"


def _long(words: str) -> str:
    """Returns a sentence as HTML, in pieces so that it is not shortened."""
    return "".join(text(words[at : at + 50]) for at in range(0, len(words[:1_000]), 50))


def _drift(drift: DriftReport) -> Iterator[str]:
    alarms = [one for one in drift.columns if one.severity in ("warning", "error")]
    yield (
        f"<p>{len(alarms):,} of {len(drift.columns):,} columns have moved, from "
        f"{drift.rows[0]:,} rows to {drift.rows[1]:,}.</p>"
    )
    yield _told(
        (
            one.severity,
            text(one.name),
            "",
            " ".join(_long(check.message) for check in one.checks if check.message),
            _distances(one),
        )
        for one in drift.columns
        if one.severity is not None
    )
    for title, told in (("Not compared", drift.errors), ("Left out", drift.left_out)):
        if told:
            items = _told(("", text(name), "", _long(why), "") for name, why in told.items())
            yield f"<details><summary>{title}: {len(told):,}</summary>{items}</details>"


def _distances(column: ColumnDrift) -> str:
    return ", ".join(f"{text(name)} {value:.4g}" for name, value in column.distances.items())


def _held(report: Report) -> str:
    if not report.held:
        return "<p>No row was held when this snapshot was made.</p>"
    return _told(
        (
            "",
            f"{text(one.kind)}: {text(one.reason)}",
            f"{one.rows:,} rows",
            f"{text(one.column)} {_long(one.rule)}",
            "" if one.example is None else f"such as {text(one.example)}",
        )
        for one in sorted(report.held, key=lambda one: -one.rows)
    )


# --- columns -----------------------------------------------------------------------------------


def _marks(report: Report) -> dict[str, str]:
    """Returns the gravest severity of what is told of each column."""
    found: dict[str, str] = {}
    told = [(one.column, one.severity) for one in report.anomalies]
    if report.drift is not None:
        told += [(one.name, one.severity) for one in report.drift.columns if one.severity]
    for name, severity in told:
        if name is not None and severity is not None:
            old = found.get(name, "info")
            found[name] = min(old, severity, key=SEVERITIES.index)
    return found


def _ordered(report: Report) -> list[ColumnStatistics]:
    """Returns the columns, those of which something is told first."""
    marks = _marks(report)
    grave = {name: SEVERITIES.index(severity) for name, severity in marks.items()}
    return sorted(report.statistics.columns, key=lambda one: grave.get(one.name, len(SEVERITIES)))


def _column(report: Report, column: ColumnStatistics, place: int, mark: str) -> str:
    sides = [column]
    other = report.before.column(column.name) if report.before is not None else None
    if other is not None:
        sides.append(other)
    numbers = column.type in ("int64", "float64", "timestamp")
    drawn = histograms(sides) if numbers else bars(sides)
    boxes = []
    for at, (side, picture) in enumerate(zip(sides, drawn, strict=True)):
        title = "" if len(sides) == 1 else f"<div>{('this', 'beside')[at]}</div>"
        boxes.append(f"<div class=side{at}>{title}{picture}{_numbers(side)}</div>")
    told = "".join(
        f"<div class={one.severity}>{_long(one.message)}</div>"
        for one in report.anomalies
        if one.column == column.name
    )
    moved = _moved(report.drift, column.name)
    return (
        f"<section id=c{place}><h3 class='{mark}'>{text(column.name)} "
        f"<small>{text(column.type)}</small></h3>{told}{moved}"
        f"<div class=sides>{''.join(boxes)}</div></section>"
    )


def _moved(drift: DriftReport | None, name: str) -> str:
    found = next((one for one in drift.columns if one.name == name), None) if drift else None
    return "" if found is None else f"<div class=info>distances: {_distances(found)}</div>"


def _numbers(column: ColumnStatistics) -> str:
    about = "" if column.distinct_exact else "about "
    facts: list[tuple[str, str]] = [
        ("rows", f"{column.count:,}"),
        ("missing", f"{column.missing:,} ({column.missing_fraction:.1%})"),
        ("distinct", f"{about}{column.distinct:,}"),
    ]
    named: list[tuple[str, Any]] = [
        ("min", _value(column, column.min)),
        ("median", _value(column, column.median)),
        ("max", _value(column, column.max)),
        ("mean", _value(column, column.mean)),
        ("deviation", column.std),
        ("zeros", column.zeros),
        ("NaN", column.nan or None),
        ("infinite", column.infinite or None),
        ("shortest", column.min_length),
        ("longest", column.max_length),
        ("mean length", column.mean_length),
    ]
    if column.rank_error:
        named.append(("ranks within", f"{column.rank_error:.2%}"))
    facts += [(name, text(value)) for name, value in named if value is not None]
    return f"<dl>{''.join(f'<div><dt>{n}</dt> <dd>{v}</dd></div>' for n, v in facts)}</dl>"


def _value(column: ColumnStatistics, value: Any) -> Any:
    if column.type != "timestamp" or value is None:
        return value
    try:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return value
