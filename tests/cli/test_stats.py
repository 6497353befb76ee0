"""``tidemill stats``, as a person uses it."""

from __future__ import annotations

from typing import Any

import pytest

HEAD = "id,kind,paid,often"


@pytest.fixture
def orders(cli: Any) -> list[str]:
    """Two snapshots, of 100 and 50 rows."""
    snapshots = []
    for start, end in ((0, 100), (100, 150)):
        rows = [f"{i},{'abc'[i % 3]},{i / 2},{i % 2}" for i in range(start, end)]
        path = cli.folder / f"{start}.csv"
        path.write_text("\n".join([HEAD, *rows]) + "\n")
        snapshots.append(cli("ingest", "orders", str(path), "--json").json()["snapshot"])
    return snapshots


def _column(statistics: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in statistics["columns"] if one["name"] == name)


def test_the_newest_snapshot_is_described(cli: Any, orders: list[str]) -> None:
    """Without a word the newest; by id another; all are merged and equal one pass over all."""
    newest = cli("stats", "orders", "--json").json()
    assert (newest["snapshots"], newest["statistics"]["rows"]) == ([orders[1]], 50)
    first = cli("stats", "orders", "--snapshot", orders[0], "--json").json()
    assert _column(first["statistics"], "paid")["max"] == 49.5
    every = cli("stats", "orders", "--all", "--json").json()
    assert every["snapshots"] == orders
    paid = _column(every["statistics"], "paid")
    assert (paid["count"], paid["mean"], paid["quantiles"]["0.5"]) == (150, 37.25, 37.25)
    assert sum(paid["histogram"]["counts"]) == 150
    assert _column(every["statistics"], "kind")["top"] == [["a", 50], ["b", 50], ["c", 50]]


def test_slices_and_weights_are_read_from_the_rows(cli: Any, orders: list[str]) -> None:
    """Each value has its own rows; a row of weight 0 counts for nothing where rows are weighed."""
    found = cli("stats", "orders", "--all", "--slice", "kind", "--weight", "often", "--json").json()
    assert [(one["value"], one["statistics"]["rows"]) for one in found["slices"]] == [
        ("a", 50),
        ("b", 50),
        ("c", 50),
    ]
    weighted = _column(found["statistics"], "id")["weighted"]
    assert (weighted["weight"], weighted["mean"]) == (75, 75)
    assert weighted["quantiles"]["0.5"] == 75


def test_columns_that_go_together_are_told(cli: Any, orders: list[str]) -> None:
    """A number that is half of another, and one that tells the other apart."""
    asked = ("stats", "orders", "--all", "--label", "often", "--correlate")
    found = cli(*asked, "--json").json()
    first = found["correlations"][0]
    assert (first["first"], first["second"], first["rows"]) == ("id", "paid", 150)
    assert first["r"] == pytest.approx(1)
    assert {one["column"] for one in found["associations"]} == {"id", "kind", "paid"}
    said = cli(*asked).out
    assert "Correlations" in said
    assert "bits" in said


def test_a_person_sees_a_table(cli: Any, orders: list[str]) -> None:
    """Columns with their shapes, slice by slice."""
    said = cli("stats", "orders", "--slice", "kind", "--weight", "often")
    assert said.code == 0
    assert "kind = a: " in said.out
    assert "weighted" in said.out
    assert "█" in said.out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("nothing",), 1),
        (("orders", "--snapshot", "ffff"), 1),
        (("orders", "--slice", "nope"), 2),
        (("orders", "--weight", "nope"), 2),
        (("orders", "--weight", "kind"), 2),
        (("orders", "--label", "nope"), 2),
    ],
)
def test_what_is_not_there_is_an_error(
    cli: Any, orders: list[str], argv: tuple[str, ...], code: int
) -> None:
    """A dataset, a snapshot or a column that isn't there, and a weight that is text."""
    assert cli("stats", *argv, "--json").code == code
