"""Pages for people: HTML in one file, its plots drawn as SVG, without a script or a network."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from tidemill.foundation.errors import Unavailable

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2733; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #e3e8ee; text-align: left }
td.n, th { text-align: right }
th:first-child { text-align: left } svg { max-width: 100%; height: auto } p.note { color: #5b6875 }
"""


def page(title: str, heading: str, parts: Iterable[str]) -> str:
    """Returns a page; its parts are HTML already, title and heading are text."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>\n"
        "<meta name=viewport content='width=device-width, initial-scale=1'>\n"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>\n"
        f"<h1>{html.escape(heading)}</h1>"
    )
    return "\n".join((head, *parts))


def rows(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """Returns a table of texts; what follows the first column is ranged right."""
    titles = "".join(f"<th>{html.escape(each)}</th>" for each in head)
    lines = []
    for first, *others in body:
        cells = "".join(f"<td class=n>{html.escape(each)}</td>" for each in others)
        lines.append(f"<tr><td>{html.escape(first)}</td>{cells}</tr>")
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"


def altair() -> Any:
    """Returns the plotting library.

    Raises:
        Unavailable: the extra ``report`` is not installed.
    """
    try:
        import altair as alt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Unavailable("plots need altair", remedy="pip install 'tidemill[report]'.") from error
    return alt


def svg(chart: Any, *, width: int = 560, height: int = 190) -> str:
    """Returns a chart as SVG: no script, nothing to load."""
    import vl_convert  # noqa: PLC0415 - an extra

    sized = chart.properties(width=width, height=height)
    drawn: str = vl_convert.vegalite_to_svg(sized.to_json(), config={"view": {"stroke": None}})
    return drawn
