"""``tidemill drift`` says what moved, to people and to programs."""

from __future__ import annotations

import numpy as np
from tests.cli.conftest import Cli


def written(cli: Cli, name: str, shift: float, seed: int) -> str:
    """Writes a day of amounts and returns its path."""
    rng = np.random.default_rng(seed)
    lines = [
        f"{x:.3f},{'ab'[k]}" for x, k in zip(rng.normal(shift, 1, 600), [0, 1] * 300, strict=True)
    ]
    return str(cli.write(name, "amount,[shop]\n" + "\n".join(lines) + "\n"))


def test_drift_is_told_and_ends_with_three(cli: Cli) -> None:
    """Without drift with 0; without a snapshot before with an error."""
    assert cli("ingest", "days", written(cli, "1.csv", 0, 1)).code == 0
    assert cli("drift", "days").code == 1
    assert cli("ingest", "days", written(cli, "2.csv", 0, 2)).code == 0
    calm = cli("drift", "days")
    assert calm.code == 0
    assert "2 of 2 columns compared are as before" in calm.out
    assert cli("ingest", "days", written(cli, "3.csv", 1, 3)).code == 0
    moved = cli("drift", "days")
    assert moved.code == 3
    assert "amount" in moved.out
    found = cli("drift", "days", "--json")
    assert found.code == 3
    record = found.json()
    assert record["alarms"] == ["amount"]
    assert record["rows"] == {"reference": 600, "current": 600}
    assert record["columns"][0]["checks"][0]["severity"] == "error"
    assert cli("drift", "days", "--limit", "0.9", "--grave", "0.95").code == 0
    assert cli("drift", "days", "--chance", "2", "--json").code == 2


def test_skew_of_what_was_never_served_is_an_error(cli: Cli) -> None:
    """To people and to programs; a wrong flag is wrong usage."""
    assert "no application 'trips'" in cli("skew", "trips").err
    assert cli("skew", "trips", "--json").json()["kind"] == "NotFound"
    assert cli("skew", "trips", "--version", "0", "--json").code == 2
