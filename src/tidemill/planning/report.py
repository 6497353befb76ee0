"""The plan as a page: what each size of table would cost, and how fast it would be."""

from __future__ import annotations

from typing import Any

from tidemill.foundation.pages import altair, page, rows, svg
from tidemill.planning.choose import Plan
from tidemill.planning.figures import number


def plan_page(plan: Plan, subject: str) -> str:
    """Returns the page.

    Args:
        plan: what was chosen, and beside what.
        subject: whose it is.

    Raises:
        Unavailable: the extra ``report`` is not installed.
    """
    chosen, (costs, latencies) = plan.chosen, plan_curves(plan)
    figures = [
        ("choice", chosen.choice),
        ("keys in the table", f"{chosen.head_keys:,}"),
        ("cache entries", f"{chosen.cache_entries:,}"),
        ("replicas, batch limit", f"{chosen.replicas}, {chosen.batch_limit}"),
        ("cost of a million predictions", f"{chosen.cost_per_million:.4g}"),
        ("CPU of a query", f"{number(chosen.cpu_us_per_query)} µs"),
        ("table and caches", f"{chosen.bytes:,} bytes"),
        ("latency: mean, p99", f"{number(chosen.mean_ms)} ms, {number(chosen.p99_ms)} ms"),
    ]
    return page(
        f"Plan of {subject}",
        f"Plan of {subject}: {chosen.choice}",
        (
            *(f"<p>{each}</p>" for each in plan.reasons),
            rows(("", ""), figures),
            "<h2>Cost of a month, by the size of the table</h2>",
            svg(costs),
            "<p class=note>Without a cache; no table is shown as half a key.</p>",
            "<p class=note>The dot is what was chosen, with its cache if it has one.</p>",
            "<h2>Latency, by the size of the table</h2>",
            svg(latencies),
        ),
    )


def plan_curves(plan: Plan) -> tuple[Any, Any]:
    """Returns the charts of what each size of table would cost, and of how fast it would be.

    Raises:
        Unavailable: the extra ``report`` is not installed.
    """
    return _costs(plan), _latencies(plan)


def _points(plan: Plan) -> list[Any]:
    return [each for each in plan.alternatives if not each.cache_entries]


def _costs(plan: Plan) -> Any:
    data = [
        {"k": max(0.5, each.head_keys), "cost": cost, "of": name}
        for each in _points(plan)
        for name, cost in (("CPU", each.cpu_month), ("storage", each.storage_month))
    ]
    return _layered(plan, data, "cost", "a month", plan.chosen.cost_month, log=False, area=True)


def _latencies(plan: Plan) -> Any:
    data = [
        {"k": max(0.5, each.head_keys), "ms": ms, "of": name}
        for each in _points(plan)
        for name, ms in (("mean", each.mean_ms), ("p99", each.p99_ms))
    ]
    return _layered(plan, data, "ms", "milliseconds", plan.chosen.p99_ms, log=True, area=False)


def _layered(
    plan: Plan,
    data: list[dict[str, Any]],
    field: str,
    title: str,
    chosen: float,
    *,
    log: bool,
    area: bool,
) -> Any:
    alt = altair()
    x = alt.X("k:Q", title="keys in the table (logarithmic)", scale=alt.Scale(type="log"))
    scale = alt.Scale(type="log") if log else alt.Scale()
    base = alt.Chart(alt.Data(values=data))
    marked = base.mark_area(opacity=0.6) if area else base.mark_line(point=True)
    curves = marked.encode(
        x=x,
        y=alt.Y(f"{field}:Q", title=title, scale=scale),
        color=alt.Color("of:N", title=None),
    )
    dot = alt.Chart(
        alt.Data(values=[{"k": max(0.5, plan.chosen.head_keys), field: chosen}])
    ).mark_point(size=140, filled=True, color="#c0392b")
    return curves + dot.encode(x=x, y=alt.Y(f"{field}:Q", scale=scale))
