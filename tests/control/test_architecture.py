"""The architecture that is shown is the one that is declared, in words, as a chart and a page."""

from __future__ import annotations

import msgspec
import pytest

from tidemill.control.applications import link, register
from tidemill.control.architecture import Architecture, architecture, as_mermaid, as_page, as_text
from tidemill.control.deployments import Terms, deploy
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.models.signature import Column, Signature
from tidemill.serving.plan import ServingPlan

Tables = tuple[str, str]


def test_each_version_has_its_chain_from_the_edge_to_its_replicas(
    home: Home, tables: Tables
) -> None:
    """Table with key and age, cache, batch, replicas; weights, policy, promise."""
    plan = ServingPlan(replicas=3, placement="worker", max_batch=32, cache_bytes=1 << 20)
    terms = Terms(slo_ms=50.0, default={"y": [0.0]}, key=("x",), plan=plan, max_age_s=1e-6)
    deploy(home, "app", model="m", version=1, table=tables[0], terms=terms, by="a", reason="r")
    link(home, "app", "m:2", weight=3.0, by="a", reason="r")
    link(home, "app", "m:3", weight=0.0, by="a", reason="r")
    found = architecture(home, "app")
    assert [(each.version, each.share, each.placement) for each in found.versions] == [
        (1, 0.25, "worker"),
        (2, 0.75, "worker"),
        (3, 0.0, "worker"),
    ]
    table = found.versions[0].table
    assert table is not None
    assert (table.id, table.key, table.rows, table.stale) == (tables[0], ("x",), 1, True)
    assert found.versions[1].table is None
    text = as_text(found)
    assert "app, revision 3: SLO 50 ms, a default, weighted" in text
    assert "table: 1 keys (x), " in text
    assert "stale: passed by → cache: 1 MiB a gateway → batch: at most 32 rows" in text
    assert text.count("3 in workers on cpu") == 3
    assert "m:3, only by number" in text
    chart = as_mermaid(found).splitlines()
    assert chart[0] == "flowchart LR"
    assert sum('-->|"m:' in line for line in chart) == 3
    assert sum(line.startswith("  table0[") for line in chart) == 1
    drawn = as_page(found)
    assert (drawn.count("<svg"), "<script" in drawn, drawn.count("<rect")) == (1, False, 13)
    again = msgspec.json.decode(msgspec.json.encode(found))
    assert again["versions"][0]["table"]["id"] == tables[0]


def test_names_of_people_command_neither_chart_nor_page(home: Home) -> None:
    """An application without a model is drawn, too; quotes and tags in texts stay texts."""
    signature = Signature((Column("<b>", "float32"),), (Column("y", "float32"),))
    terms = Terms(key=('"]<script>',))
    made = architecture_of(home, signature, terms)
    assert "no model: queries get the default, or an error" in as_text(made)
    assert as_mermaid(made).count("\n") == 2
    hostile = msgspec.structs.replace(made, application='"]\n<script>')
    assert "<script" not in as_page(hostile)
    assert as_mermaid(hostile).count('"') == 2
    with pytest.raises(NotFound, match="does not exist"):
        architecture(home, "nobody")


def architecture_of(home: Home, signature: Signature, terms: Terms) -> Architecture:
    """Registers an application without a model; returns its architecture with a hostile key."""
    register(home, "bare", signature=signature, terms=Terms(), by="a", reason="r")
    return msgspec.structs.replace(architecture(home, "bare"), key=terms.key)
