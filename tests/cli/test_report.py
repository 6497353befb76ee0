"""``tidemill report``, as a person uses it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def _ingest(cli: Any, name: str, shift: float) -> str:
    draw = np.random.default_rng(int(shift))
    rows = [
        f"{at},{'ab'[at % 2]},{value:.3f}" for at, value in enumerate(draw.normal(shift, 1, 600))
    ]
    path = cli.folder / f"{shift}.csv"
    path.write_text("\n".join(["id,kind,paid", *rows, "9,a,much"]) + "\n")
    return str(cli("ingest", name, str(path), "--json").json()["snapshot"])


def test_a_page_is_written(cli: Any) -> None:
    """Of the newest snapshot, with another beside it: drift, held rows and every column."""
    first, second = (_ingest(cli, "orders", shift) for shift in (0.0, 3.0))
    out = cli.folder / "new" / "orders.html"
    said = cli("report", "orders", "--against", first, "--out", str(out), "--json").json()
    assert (said["snapshot"], said["against"], said["columns"]) == (second, first, 3)
    page = out.read_text(encoding="utf-8")
    assert said["bytes"] == out.stat().st_size
    for each in (first, second, "wrong_type", "much", "wasserstein", ">paid <", "have moved"):
        assert each in page
    alone = cli("report", "orders", "--snapshot", first, "--out", str(out))
    assert alone.code == 0
    assert "Drift" not in out.read_text(encoding="utf-8")


def test_what_cannot_be_told_writes_nothing(cli: Any) -> None:
    """No dataset, no snapshot, itself beside itself, a folder: an error, and no file."""
    first = _ingest(cli, "orders", 0.0)
    out = cli.folder / "orders.html"
    assert cli("report", "nothing", "--out", str(out), "--json").code == 1
    assert cli("report", "orders", "--against", "nope", "--out", str(out), "--json").code == 1
    assert cli("report", "orders", "--against", first, "--out", str(out), "--json").code == 2
    assert cli("report", "orders", "--out", str(cli.folder), "--json").code == 2
    assert not out.exists()


def test_the_page_is_named_after_the_dataset(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file named, it lies in the working folder."""
    monkeypatch.chdir(cli.folder)
    _ingest(cli, "orders", 0.0)
    assert cli("report", "orders", "--json").json()["path"] == "orders.html"
    assert (cli.folder / "orders.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert cli("report", "../orders", "--json").code != 0
    assert not (cli.folder.parent / "orders.html").exists()
