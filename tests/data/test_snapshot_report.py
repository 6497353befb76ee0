"""The report of a snapshot: what stands on the page, and what can't get into it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.records import Anomaly, Counts, HeldGroup, Snapshot
from tidemill.data.report_charts import bars, histograms, text
from tidemill.data.report_page import Report, report_page
from tidemill.data.statistics import describe
from tidemill.data.summaries import TableStatistics

NASTY = "<script>alert('x')</script>\x00\"&"


class _Page(HTMLParser):
    """Keeps what a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _snapshot(rows: int) -> Snapshot:
    return Snapshot(
        id="0123456789abcdef",
        dataset="orders",
        sequence=1,
        schema_sha256="0" * 64,
        files=(),
        sources=(),
        counts=Counts(received=rows + 3, accepted=rows, quarantined=3),
        statistics_key="data/s.json",
        created_at=0.0,
    )


def _report(statistics: TableStatistics, **more: object) -> Report:
    facts = {"anomalies": (), "held": (), **more}
    return Report(snapshot=_snapshot(statistics.rows), statistics=statistics, **facts)  # type: ignore[arg-type]


def test_what_is_wrong_stands_first() -> None:
    """Anomalies, the gravest first, before held rows and columns; so columns, too."""
    statistics = describe(
        pa.table({"fine": [1.0, 2.0], "bad": [1, 2], "worse": ["a", "b"]})
    ).result()
    anomalies = (
        Anomaly(kind="INT_TYPE_BIG_INT", column="bad", message="bad is too large", rows=1),
        Anomaly(kind="OUT", column="worse", message="worse is odd", severity="error"),
    )
    held = HeldGroup(
        ingest="i",
        kind="quarantined",
        reason="wrong_type",
        rule="is int64",
        column="bad",
        rows=3,
        example=NASTY,
        held_at=0.0,
    )
    page = report_page(_report(statistics, anomalies=anomalies, held=(held,)))
    seen = " ".join(_Page(page).words)
    told = ["worse is odd", "bad is too large", "Held rows", "wrong_type", "Columns"]
    places = [seen.index(each) for each in told]
    assert places == sorted(places)
    columns = page[page.index("<section") :]
    assert columns.index("<h3 class='error'>worse") < columns.index(">bad") < columns.index(">fine")


def test_nothing_of_the_data_is_markup() -> None:
    """Names, values and examples that look like HTML are shown, and nothing is fetched or run."""
    table = pa.table({NASTY: [NASTY, "b", None], "é" * 300: [1, 2, 3], "": ["", "", None]})
    anomaly = Anomaly(kind="X", column=NASTY, message=NASTY * 9)
    page = _Page(report_page(_report(describe(table).result(), anomalies=(anomaly,))))
    assert "script" not in page.tags
    assert all(link.startswith("#c") for link in page.links)
    assert any("<script>" in word for word in page.words)
    assert "\x00" not in "".join(page.words)


def test_hundreds_of_columns_stay_small() -> None:
    """Five hundred columns of numbers and texts make a page of less than 2 MB and 40,000 tags."""
    draw = np.random.default_rng(0)
    columns = {f"n{at}": draw.normal(size=200) for at in range(400)}
    texts = {f"t{at}": draw.choice(["a", "b", "c"], 200) for at in range(100)}
    page = report_page(_report(describe(pa.table(columns | texts)).result()))
    assert len(page) < 2_000_000
    assert len(_Page(page).tags) < 40_000
    assert page.count("<section") == 500


def test_two_snapshots_share_a_scale() -> None:
    """Numbers twice as large are drawn on the right of those beside them."""
    low = describe(pa.table({"x": [0.0, 1.0]})).result().columns[0]
    high = describe(pa.table({"x": [9.0, 10.0]})).result().columns[0]
    first, second = histograms([low, high])
    assert "M0.0 70" in first
    assert "M0.0 70" not in second
    assert "H280.0" in second
    one = describe(pa.table({"x": ["a", "a", "b"]})).result().columns[0]
    other = describe(pa.table({"x": ["b", "c"]})).result().columns[0]
    left, right = bars([one, other])
    assert left.count("<tr>") == right.count("<tr>") == 3
    assert "66.7%" in left
    assert "50.0%" in right


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(), max_size=20), st.lists(st.floats(), max_size=20))
def test_any_numbers_can_be_drawn(one: list[float], other: list[float]) -> None:
    """The largest floats, NaN, infinities and nothing at all: no bar is outside the picture."""
    sides = [
        describe(pa.table({"x": pa.array(each, pa.float64())}), threads=1).result().columns[0]
        for each in (one, other)
    ]
    for drawn in histograms(sides):
        assert "nan" not in drawn
        assert "inf" not in drawn
        path = drawn.split("d='")[1].split("'")[0]
        tops = [float(bar.split("V")[1].split("H")[0]) for bar in path.split("M")[1:]]
        assert all(0 <= top <= 70 for top in tops)


@pytest.mark.parametrize("value", [None, True, 10**30, 1e308, "x" * 1000, "\ud800"])
def test_any_value_can_be_shown(value: object, tmp_path: Path) -> None:
    """Whatever it is, the page can be written."""
    shown = text(value)
    assert len(shown) < 100
    (tmp_path / "page").write_text(shown, encoding="utf-8")
