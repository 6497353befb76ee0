"""Distributions drawn by hand: one path of SVG for numbers, bars in HTML for values.

A page with five hundred of them opens at once, which as many charts of a plotting library do not.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.data.summaries import ColumnStatistics, Histogram

WIDTH, HEIGHT = 280, 70
MOST_VALUES = 10
MOST_CHARACTERS = 60

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def text(value: Any) -> str:
    r"""Returns any value as HTML that shows it, shortened.

    Example:
        >>> text("<b>\n"), text(1234567.0), text(None)
        ('&lt;b&gt;\\x0a', '1.23457e+06', '')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    plain = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))
    if len(plain) > MOST_CHARACTERS:
        plain = f"{plain[: MOST_CHARACTERS - 1]}…"
    return html.escape(plain)


def histograms(sides: Sequence[ColumnStatistics]) -> list[str]:
    """Returns a drawing of each side's numbers, all over the same range and to the same scale.

    The area of a bar is the part of the numbers in it. A side without numbers has no bar.
    """
    drawn = [side.histogram for side in sides]
    ends = [edge for one in drawn if one is not None and one.edges for edge in one.edges]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    boxes = [_boxes(one, low, high) for one in drawn]
    tallest = max((float(each.max(initial=0.0)) for _, _, each in boxes), default=0.0)
    return [
        _svg(left, right, density / tallest if tallest > 0 else density, name=side.name)
        for (left, right, density), side in zip(boxes, sides, strict=True)
    ]


Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]


def _boxes(histogram: Histogram | None, low: float, high: float) -> Boxes:
    """Returns where bars begin and end, in parts of the width, and their densities."""
    nothing = np.empty(0)
    if histogram is None or not histogram.counts:
        return nothing, nothing, nothing
    edges, counts = np.asarray(histogram.edges), np.asarray(histogram.counts, np.float64)
    scale = max(abs(low), abs(high)) or 1.0
    place = edges / scale - low / scale  # so that no difference is over the largest float
    span = high / scale - low / scale
    at = place / span if span > 0 else np.array([0.4, 0.6])
    left, right = at[:-1], np.maximum(at[1:], at[:-1] + 0.004)
    return left, right, counts / max(counts.sum(), 1e-300) / (right - left)


def _svg(left: Any, right: Any, heights: Any, *, name: str) -> str:
    parts = []
    for begin, end, height in zip(left, right, heights, strict=True):
        if height > 0:
            top = HEIGHT - max(1.0, height * (HEIGHT - 2))
            parts.append(
                f"M{begin * WIDTH:.1f} {HEIGHT}V{top:.1f}H{min(end, 1.0) * WIDTH:.1f}V{HEIGHT}"
            )
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='histogram of {text(name)}'>"
        f"<path d='{''.join(parts)}'/></svg>"
    )


def bars(sides: Sequence[ColumnStatistics]) -> list[str]:
    """Returns the most frequent values of each side, the same values in the same order."""
    shares = [_shares(side) for side in sides]
    values = list(dict.fromkeys(value for each in shares for value in list(each)[:MOST_VALUES]))
    values = sorted(values, key=lambda one: -max(each.get(one, 0.0) for each in shares))
    return [_bars(each, values[:MOST_VALUES]) for each in shares]


def _shares(side: ColumnStatistics) -> Mapping[str, float]:
    there = sum(count for _, count in side.top) if side.values is not None else None
    there = there or side.count - side.missing
    return {text(value): count / there for value, count in side.top} if there else {}


def _bars(shares: Mapping[str, float], values: Sequence[str]) -> str:
    lines = []
    for value in values:
        share = shares.get(value, 0.0)
        lines.append(
            f"<tr><td>{value or '(empty)'}<td class=n>{share:.1%}"
            f"<td class=bar><i style='width:{min(1.0, share) * 100:.1f}%'></i>"
        )
    return f"<table class=bars>{''.join(lines)}</table>"
