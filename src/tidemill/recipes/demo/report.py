"""The demo's report: one HTML page with plots, which needs nothing from elsewhere and no script."""

from __future__ import annotations

import dataclasses
import html
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.files import write_atomic
from tidemill.foundation.pages import altair, page, svg
from tidemill.planning.choose import Plan
from tidemill.planning.report import plan_curves
from tidemill.recipes.demo.summary import Summary, Told

BUCKET_S = 0.5
_ABOUT_LOSS = (
    "Log loss of the predictions as they were served, in the order in which they were asked for, "
    "beside a constant that knows only the labels before."
)
_ABOUT_PLAN = (
    "Cost of a month, and latency, by the size of the table, for the week's questions at the pace "
    "of the replay; the dot is the choice. Without a cache; no table is shown as half a key."
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
    write_atomic(path, _page(told).encode())
    return told


def _page(told: Told) -> str:
    """Returns the page."""
    summary, facts = told.summary, told.facts
    plan = msgspec.convert(facts["plan"], Plan)
    return page(
        "Tidemill: the flights of 2013",
        "Will this flight arrive more than 15 minutes late?",
        (
            f"<p>{_sentence(summary)}</p>",
            "<h2>Rows through the gate</h2>",
            _rows(facts),
            _note("Received is the sum of the other four; what is held is kept, with reasons."),
            "<h2>Held rows of January, by reason</h2>",
            svg(_reasons(facts["january"]["reasons"])),
            "<h2>How the served predictions fared</h2>",
            _scores(summary),
            svg(_loss(facts["score"]["report"]["overall"]["curve"])),
            _note(_ABOUT_LOSS),
            "<h2>Where answers came from</h2>",
            svg(_sources(summary.answers)),
            "<h2>Latency as the client saw it</h2>",
            svg(_latency(told.replayed.times_s)),
            _note(f"Median {summary.p50_ms:.2f} ms, p99 {summary.p99_ms:.2f} ms; {_ABOUT_CLIENT}"),
            "<h2>Static, dynamic or hybrid: the plan for this traffic</h2>",
            *(f"<p>{html.escape(each)}</p>" for each in plan.reasons),
            *map(svg, plan_curves(plan)),
            _note(_ABOUT_PLAN),
            "<h2>The swap and the way back, under load</h2>",
            svg(_swap(told)),
            _note(
                f"{summary.requests_during_swap:,} requests meanwhile, "
                f"{summary.failed_requests} failed."
            ),
        ),
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
    alt = altair()
    data = [{"reason": reason, "rows": rows} for reason, rows in reasons.items()]
    return (
        alt.Chart(alt.Data(values=data))
        .mark_bar(color="#b4552d")
        .encode(x=alt.X("rows:Q", title="rows"), y=alt.Y("reason:N", sort="-x", title=None))
    )


def _loss(curve: list[dict[str, float]]) -> Any:
    alt = altair()
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
    alt = altair()
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
    alt = altair()
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
    alt = altair()
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
