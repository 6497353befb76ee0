"""The workload as a page: what the head carries, what a cache would answer, the heaviest keys."""

from __future__ import annotations

from typing import Any

from tidemill.foundation.pages import altair, page, rows, svg
from tidemill.planning.workload.profile import WorkloadProfile


def workload_page(profile: WorkloadProfile, subject: str) -> str:
    """Returns the page.

    Args:
        profile: of the workload.
        subject: whose it is.

    Raises:
        Unavailable: the extra ``report`` is not installed.
    """
    figures = [
        ("requests", f"{profile.requests:,}"),
        ("over", f"{profile.duration_s:,.0f} s"),
        ("requests a second", f"{profile.rate_rps:,.3g}"),
        ("fullest window over the average", f"{profile.peak_to_mean:.2f}"),
        ("squared variation of the gaps (1: Poisson)", f"{profile.cv2:.2f}"),
        ("distinct keys", f"{profile.cardinality:,}"),
        ("Gini", f"{profile.gini:.3f}"),
        ("Zipf exponent", f"{profile.zipf_exponent:.2f}"),
        ("requests with a key that is new", f"{profile.new_key_rate:.1%}"),
    ]
    return page(
        f"Workload of {subject}",
        f"Workload of {subject}",
        (
            rows(("", ""), figures),
            "<h2>What the most frequent keys carry</h2>",
            svg(_curve(profile.head, "keys (logarithmic)", "share of requests")),
            "<p class=note>A table of so many keys would answer that share.</p>",
            "<h2>What a cache of the keys used last would answer</h2>",
            svg(_curve(profile.cache, "entries (logarithmic)", "hit rate")),
            "<h2>The most frequent keys</h2>",
            rows(("key", "share"), ((each.key, f"{each.share:.2%}") for each in profile.heavy)),
        ),
    )


def _curve(points: tuple[tuple[int, float], ...], of: str, what: str) -> Any:
    alt = altair()
    data = [{"k": k, "share": share} for k, share in points if k > 0]
    return (
        alt.Chart(alt.Data(values=data))
        .mark_line(color="#2d6db4", point=True)
        .encode(
            x=alt.X("k:Q", title=of, scale=alt.Scale(type="log")),
            y=alt.Y("share:Q", title=what, axis=alt.Axis(format="%")),
        )
    )
