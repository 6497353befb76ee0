"""A stored dataset's schema is edited by what its snapshots show, and by one person at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.data.catalog import get_schema, set_schema
from tidemill.data.ingest import ingest
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshot_checks import accept, pick_snapshot, validate_snapshot
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound
from tidemill.foundation.home import Home


@pytest.fixture
def orders(home: Home, tmp_path: Path) -> Home:
    """A home with ten orders, the last of which is over the limit that was set since."""
    path = tmp_path / "orders.csv"
    path.write_text("paid\n" + "".join(f"{i}\n" for i in range(10)))
    ingest(home, "orders", [path])
    set_schema(home, "orders", Schema(columns=(Column(name="paid", max=8),)))
    return home


def test_an_edit_of_what_was_edited_meanwhile_is_a_conflict(
    orders: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's rules are lost: who comes second looks again."""
    before = get_schema(orders, "orders")

    def slow(*args: object, **options: object) -> object:
        found = validate_snapshot(*args, **options)  # type: ignore[arg-type]
        set_schema(orders, "orders", Schema(columns=(Column(name="paid", max=8, min=-1),)))
        return found

    monkeypatch.setattr("tidemill.data.snapshot_checks.validate_snapshot", slow)
    with pytest.raises(Conflict, match="edited meanwhile"):
        accept(orders, "orders", ["all"])
    assert get_schema(orders, "orders").columns[0].min == -1
    with pytest.raises(Conflict):
        set_schema(orders, "orders", before, expected=before)


def test_what_is_accepted_is_in_force_for_the_next_rows(orders: Home, tmp_path: Path) -> None:
    """The gate holds a row until its anomaly is accepted."""
    path = tmp_path / "more.csv"
    path.write_text("paid\n9\n1\n")
    assert ingest(orders, "orders", [path]).quarantined == 1
    first = pick_snapshot(orders, "orders", None).id
    _, accepted = accept(orders, "orders", ["all"], snapshot=_oldest(orders))
    assert [one.kind for one in accepted] == ["INT_TYPE_BIG_INT"]
    path.write_text("paid\n9\n2\n")
    assert ingest(orders, "orders", [path]).quarantined == 0
    assert pick_snapshot(orders, "orders", None).id != first


def _oldest(home: Home) -> str:
    from tidemill.data.snapshots import list_snapshots

    return list_snapshots(home, "orders")[0].id


def test_what_is_not_there_is_said(orders: Home, tmp_path: Path) -> None:
    """A dataset, a snapshot, an anomaly, a mend; a snapshot of another dataset is none of ours."""
    path = tmp_path / "other.csv"
    path.write_text("x\n1\n")
    other = ingest(orders, "other", [path]).snapshot
    for name, snapshot in (("nope", None), ("orders", "nope"), ("orders", other)):
        with pytest.raises(NotFound):
            validate_snapshot(orders, name, snapshot=snapshot)
    with pytest.raises(NotFound, match="no anomaly"):
        accept(orders, "orders", ["nope"])
    expectation = 'columns = {}\n[[expectations]]\nname = "e"\nsql = "paid < 5"\n'
    set_schema(orders, "orders", Schema.from_toml(expectation))
    found = validate_snapshot(orders, "orders").report.anomalies
    custom = next(one for one in found if one.kind == "CUSTOM_VALIDATION")
    assert custom.id is not None
    with pytest.raises(InvalidInput, match="no edit"):
        accept(orders, "orders", [custom.id])
