"""The dashboard that is shipped asks for metrics that exist, by labels that they have."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs/guide/operations.md"
DASHBOARD = json.loads(
    importlib.resources.files("tidemill").joinpath("dashboards/tidemill.json").read_text("utf-8")
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def documented() -> dict[str, set[str]]:
    """Every metric with its labels, as the page has them; the page is held to the code."""
    rows = re.findall(r"^\| `(tidemill_\w+)` \|([^|]*)\|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def expressions(value: Any) -> Iterator[str]:
    """Every expression and query in the dashboard."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"expr", "query"} and isinstance(inner, str) and "tidemill" in inner:
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


EXPRESSIONS = sorted(set(expressions(DASHBOARD)))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_names_what_exists(expression: str) -> None:
    """Each metric is one of ours, with the suffix of its kind, and each label one that it has."""
    known = documented()
    used: set[str] = set()
    for name in re.findall(r"tidemill_\w+", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        metric = name if name in known else base
        assert metric in known, name
        used |= known[metric]
    said = re.findall(r"[{,](\w+)(?:=~|!=|=)", expression)
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    labels = {*said, *(label.strip() for group in grouped for label in group.split(","))}
    assert labels - {"le"} <= used, labels
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_the_model_is_one_that_grafana_takes() -> None:
    """Panels have their own ids, do not overlap, and ask the chosen data source."""
    assert len(EXPRESSIONS) >= 25
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    covered: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & covered, panel["title"]
        assert max(x for x, _ in cells) < 24
        covered |= cells
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [each["refId"] for each in panel["targets"]] == [
            chr(65 + number) for number in range(len(panel["targets"]))
        ]
    assert {each["name"] for each in DASHBOARD["templating"]["list"]} == {
        *("datasource", "application", "version")
    }


def test_it_shows_what_an_operator_asks_for() -> None:
    """Rates, quantiles, attainment, batches, queue, replicas, memory, and when versions changed."""
    text = "\n".join(EXPRESSIONS)
    for name in (
        "tidemill_answers_total",
        "tidemill_query_seconds_bucket",
        'slo="met"',
        "tidemill_batch_rows_bucket",
        "tidemill_queue_rows",
        "tidemill_replicas_alive",
        "tidemill_process_resident_memory_bytes",
        "changes(tidemill_revision",
    ):
        assert name in text
