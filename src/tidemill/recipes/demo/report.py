"""The demo's report: one HTML page with plots, which needs nothing from elsewhere and no script."""

from __future__ import annotations

import dataclasses
import html
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.errors import Unavailable
from tidemill.foundation.files import write_atomic
from tidemill.recipes.demo.summary import Summary, Told

BUCKET_S = 0.5
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2733; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #e3e8ee; text-align: left }
td.n, th { text-align: right }
th:first-child { text-align: left } svg { max-width: 100%; height: auto } p.note { color: #5b6875 }
"""

_HEAD = f"""<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content='width=device-width, initial-scale=1'>
<title>Tidemill: the flights of 2013</title><style>{_STYLE}</style>
<h1>Will this flight arrive more than 15 minutes late?</h1>"""
_ABOUT_LOSS = (
    "Log loss of the predictions as they were served, in the order in which they were asked for, "
    "beside a constant that knows only the labels before."
)
_ABOUT_CLIENT = "one client, on the machine that also served."


def write_report(folder: Path, told: Told) -> Told:
    """Writes ``report.html`` into the folder; returns the story with the summary naming it.

    Raises:
        Unavailable: the extra ``report`` is not installed.
    """
    path = folder / "report.html"
    summary = msgspec.structs.replace(told.summary, folder=str(folder), report=str(path))
    told = dataclasses.replace(told, summary=summary)
    write_atomic(path, page(told).encode())
    return told


def page(told: Told) -> str:
    """Returns the page."""
    summary, facts = told.summary, told.facts
    return "\n".join(
        (
            _HEAD,
            f"<p>{_sentence(summary)}</p>",
            "<h2>Rows through the gate</h2>",
            _rows(facts),
            _note("Received is the sum of the other four; what is held is kept, with reasons."),
            "<h2>Held rows of January, by reason</h2>",
            _svg(_reasons(facts["january"]["reasons"])),
            "<h2>How the served predictions fared</h2>",
            _scores(summary),
            _svg(_loss(facts["score"]["report"]["overall"]["curve"])),
            _note(_ABOUT_LOSS),
            "<h2>Where answers came from</h2>",
            _svg(_sources(summary.answers)),
            "<h2>Latency as the client saw it</h2>",
            _svg(_latency(told.replayed.times_s)),
            _note(f"Median {summary.p50_ms:.2f} ms, p99 {summary.p99_ms:.2f} ms; {_ABOUT_CLIENT}"),
            "<h2>The swap and the way back, under load</h2>",
            _svg(_swap(told)),
            _note(
                f"{summary.requests_during_swap:,} requests meanwhile, "
                f"{summary.failed_requests} failed."
            ),
            "</html>",
        )
    )


def _note(text: str) -> str:
    return f"<p class=note>{html.escape(text)}</p>"


def _sentence(summary: Summary) -> str:
    return (
        f"{summary.rows_accepted:,} of {summary.rows_received:,} rows went in; version "
        f"{summary.versions[0]} answered the first week of February with a table of "
        f"{summary.table_keys:,} keys before it; version {summary.versions[1]} went live "
        f"{summary.swapped_in_s:.0f} seconds after February's file came, and was rolled back. "
        f"All of it took {summary.took_s:.0f} seconds."
    )


def _rows(facts: dict[str, Any]) -> str:
    names = ("received", "accepted", "quarantined", "duplicate", "late")
    head = "".join(f"<th>{name}" for name in names)
    body = "".join(
        f"<tr><td>{month.title()}" + "".join(f"<td class=n>{facts[month][n]:,}" for n in names)
        for month in ("january", "february")
    )
    return f"<table><tr><th>{head}{body}</table>"


def _scores(summary: Summary) -> str:
    lines = (
        ("AUC offline, on rows kept apart", summary.offline_auc),
        ("AUC as served", summary.served_auc),
        ("AUC as served, recomputed in SQL", summary.served_auc_by_sql),
        ("Log loss offline", summary.offline_loss),
        ("Log loss as served", summary.served_loss),
        ("Part of the predictions with a label", summary.label_coverage),
    )
    rows = "".join(f"<tr><td>{html.escape(t)}<td class=n>{v:.4f}" for t, v in lines)
    return f"<table>{rows}</table>"


def _reasons(reasons: dict[str, int]) -> Any:
    alt = _altair()
    data = [{"reason": reason, "rows": rows} for reason, rows in reasons.items()]
    return (
        alt.Chart(alt.Data(values=data))
        .mark_bar(color="#b4552d")
        .encode(x=alt.X("rows:Q", title="rows"), y=alt.Y("reason:N", sort="-x", title=None))
    )


def _loss(curve: list[dict[str, float]]) -> Any:
    alt = _altair()
    lines = (
        ("the model, so far", "loss"),
        ("the model, last 500", "window_loss"),
        ("constant, so far", "baseline_loss"),
    )
    data = [
        {"n": point["n"], "which": text, "loss": point[key]}
        for point in curve
        if point["n"] >= 50
        for text, key in lines
    ]
    return (
        alt.Chart(alt.Data(values=data))
        .mark_line()
        .encode(
            x=alt.X("n:Q", title="labelled predictions, in the order asked"),
            y=alt.Y("loss:Q", title="log loss", scale=alt.Scale(zero=False)),
            color=alt.Color("which:N", title=None),
        )
    )


def _sources(answers: dict[str, int]) -> Any:
    alt = _altair()
    data = [{"source": source, "answers": count} for source, count in answers.items()]
    return (
        alt.Chart(alt.Data(values=data))
        .mark_bar(color="#2d6db4")
        .encode(
            x=alt.X("answers:Q", title="answers (logarithmic)", scale=alt.Scale(type="symlog")),
            y=alt.Y("source:N", sort="-x", title=None),
        )
    )


def _latency(times_s: list[float]) -> Any:
    alt = _altair()
    shares = np.concatenate([np.linspace(0, 0.99, 100), np.linspace(0.99, 1.0, 20)])
    points = np.quantile(times_s, shares) * 1000
    data = [{"share": float(s), "ms": float(p)} for s, p in zip(shares, points, strict=True)]
    return (
        alt.Chart(alt.Data(values=data))
        .mark_line(color="#2d6db4")
        .encode(
            x=alt.X("ms:Q", title="milliseconds (logarithmic)", scale=alt.Scale(type="log")),
            y=alt.Y("share:Q", title="share of answers within", axis=alt.Axis(format="%")),
        )
    )


def _swap(told: Told) -> Any:
    alt = _altair()
    moments = [moment for count in told.load for moment in count.moments]
    start = min(at for at, _ in moments)
    buckets = Counter((int((at - start) / BUCKET_S), version) for at, version in moments)
    data = [
        {"s": bucket * BUCKET_S, "version": f"version {version}", "rate": count / BUCKET_S}
        for (bucket, version), count in sorted(buckets.items())
    ]
    return (
        alt.Chart(alt.Data(values=data))
        .mark_bar(size=6)
        .encode(
            x=alt.X("s:Q", title="seconds"),
            y=alt.Y("rate:Q", title="answers per second"),
            color=alt.Color("version:N", title=None),
        )
    )


def _altair() -> Any:
    try:
        import altair as alt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Unavailable("plots need altair", remedy="pip install 'tidemill[report]'.") from error
    return alt


def _svg(chart: Any) -> str:
    """Draws a chart as SVG: no script, nothing to load."""
    import vl_convert  # noqa: PLC0415 - an extra

    sized = chart.properties(width=560, height=190)
    drawn: str = vl_convert.vegalite_to_svg(sized.to_json(), config={"view": {"stroke": None}})
    return drawn
