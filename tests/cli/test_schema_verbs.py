"""``tidemill schema`` and ``tidemill validate``, as a person uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def _ingest(cli: Any, name: str, *rows: str) -> str:
    path = cli.folder / f"{name}-{len(list(cli.folder.glob('*.csv')))}.csv"
    path.write_text("\n".join(["id,kind,paid", *rows]) + "\n")
    said = cli("ingest", name, str(path), "--json")
    assert said.code == 0
    return str(said.json()["snapshot"])


def _orders(cli: Any) -> tuple[str, str]:
    first = _ingest(cli, "orders", *(f"{i},{'ab'[i % 2]},{i}" for i in range(100)))
    second = _ingest(cli, "orders", *(f"{i},{'abc'[i % 3]},{i}" for i in range(100, 190)))
    return first, second


def test_a_schema_is_shown_edited_and_judged_by(cli: Any) -> None:
    """What is shown can be edited and brought into force; what breaks it ends with code 3."""
    _orders(cli)
    shown = cli("schema", "show", "orders")
    assert 'values = ["a", "b"]' in shown.out
    file = cli.folder / "orders.toml"
    file.write_text(shown.out.replace("[columns.paid]", "[columns.paid]\nmax = 150"))
    updated = cli("schema", "update", "orders", str(file), "--json").json()
    assert [(one["column"], one["rule"], one["after"]) for one in updated["differences"]] == [
        ("paid", "max", 150)
    ]
    said = cli("validate", "orders", "--json")
    assert said.code == 3
    found = said.json()
    assert (found["ok"], found["rows"]) == (False, 90)
    kinds = {one["kind"]: one for one in found["anomalies"]}
    assert set(kinds) == {"INT_TYPE_BIG_INT", "ENUM_TYPE_UNEXPECTED_STRING_VALUES"}
    assert kinds["INT_TYPE_BIG_INT"]["rows"] == 39
    assert cli("validate", "orders").out.count("INT_TYPE_BIG_INT") == 1


def test_an_accepted_anomaly_is_none_any_more(cli: Any) -> None:
    """By its id, or all; an id that isn't there, or nothing to do, is an error."""
    first, _ = _orders(cli)
    cli("schema", "update", "orders", str(_file(cli, "[columns.paid]\nmax = 150")))
    found = cli("validate", "orders", "--json").json()["anomalies"]
    one = next(each for each in found if each["kind"] == "INT_TYPE_BIG_INT")
    said = cli("schema", "update", "orders", "--accept", one["id"], "--json").json()
    assert said["accepted"] == [one["id"]]
    assert said["differences"][0]["after"] == 189
    assert cli("validate", "orders").code == 0
    cli("schema", "update", "orders", "--accept", "all")
    assert cli("validate", "orders", "--json").json()["anomalies"] == []
    assert "no anomaly" in cli("validate", "orders", "--snapshot", first).out
    assert cli("schema", "update", "orders", "--accept", "nope", "--json").code == 1
    assert cli("schema", "update", "orders").code == 2


def test_schemas_of_snapshots_and_files_are_compared(cli: Any) -> None:
    """Each difference is told by column and rule."""
    first, second = _orders(cli)
    said = cli("schema", "diff", "orders", first, second, "--json").json()
    found = {(one["column"], one["rule"]): one["after"] for one in said["differences"]}
    assert found == {("kind", "values"): ["a", "b", "c"]}
    assert "no difference" in cli("schema", "diff", "orders", first, first).out
    file = _file(cli, '[columns.id]\ntype = "int64"')
    assert "kind" in cli("schema", "diff", "orders", str(file)).out
    assert cli("schema", "diff", "orders", "nowhere", "--json").code == 1
    ranges = cli("schema", "infer", "orders", "--snapshot", first, "--ranges").out
    assert "max = 99" in ranges
    assert cli("schema", "infer", "orders").out != ranges


def test_environments_and_comparators_are_judged(cli: Any) -> None:
    """Rules of one environment don't hold in another; drift is measured to the snapshot before."""
    _, second = _orders(cli)
    rules = 'default_environment = ["training", "serving"]\n[columns.kind]\nvalues = ["a", "b"]\n'
    rules += 'not_in_environment = ["serving"]\n[columns.paid]\ndrift = { ks = 0.5 }\n'
    rules += "skew = { l_infinity = 0.0 }\n"
    cli("schema", "update", "orders", str(_file(cli, rules)))
    found = cli("validate", "orders", "--environment", "serving", "--json").json()
    assert [one["kind"] for one in found["anomalies"]] == ["COMPARATOR_KS_HIGH"]
    assert [(one["measure"], one["value"]) for one in found["measurements"]] == [("ks", 1.0)]
    both = cli("validate", "orders", "--serving", second, "--json").json()
    assert [one["measure"] for one in both["measurements"]] == ["ks", "l_infinity"]
    assert both["serving"] == second
    assert cli("validate", "orders", "--environment", "nowhere", "--json").code == 2


def _file(cli: Any, text: str) -> Path:
    path: Path = cli.folder / "edit.toml"
    path.write_text(text)
    return path
