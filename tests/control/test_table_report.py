"""What a table is worth is told from its record and from what was asked, to the row."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tidemill.control.deployments import Terms, deploy
from tidemill.control.table_report import report_table
from tidemill.data.ledger import LedgerWriter, PredictionRecord
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.tables.answer import encode_answer
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import get_table, store_table
from tidemill.tables.represented import keys_of
from tidemill.tables.table import TableInfo

Tables = tuple[str, str]


def served(home: Home, xs: list[float], *, source: str, at: float, name: str = "x") -> None:
    """Writes answers of the application to the ledger, a second apart."""
    with LedgerWriter(home.ledger_path, f"gateway-{source}-{at:.0f}") as ledger:
        ledger.append_predictions(
            [
                PredictionRecord(
                    request_id=f"{source}-{number}-{at:.0f}",
                    time=at + number,
                    application="app",
                    version=1,
                    source=source,  # type: ignore[arg-type]
                    inputs={name: np.array([x], np.float32)},
                    outputs={"y": np.array([x], np.float32)},
                    n=1,
                )
                for number, x in enumerate(xs)
            ]
        )


def go(home: Home, table: str | None, **terms: float) -> None:
    """Makes version 1 live, with a table that knows 1.0, or without."""
    made = Terms(key=("x",), **terms)  # type: ignore[arg-type]
    deploy(home, "app", model="m", version=1, table=table, terms=made, by="a", reason="r")


def test_coverage_hits_and_what_is_lacking_are_those_of_the_ledger(
    home: Home, tables: Tables
) -> None:
    """Of recent rows only; a row whose key cannot be made is told apart."""
    now = home.clock.now()
    go(home, tables[0], max_age_s=3600.0)
    served(home, [1.0, 1.0, 1.0, 1.0], source="table", at=now - 90.0)
    served(home, [7.0, 7.0, 8.0], source="model", at=now - 50.0)
    served(home, [1.0], source="model", at=now - 40.0)
    served(home, [5.0, 6.0], source="model", at=now - 9000.0)
    served(home, [1.0, 2.0], source="model", at=now - 30.0, name="other")
    found = report_table(home, "app", last_s=3600.0)
    info = get_table(home.store, tables[0])
    assert (found.table, found.rows, found.bytes, found.key) == (info.id, 1, info.bytes, ("x",))
    assert (found.model, found.version, found.bytes_per_key) == ("m", 1, float(info.bytes))
    assert (found.max_age_s, found.stale, found.built_at) == (3600.0, False, info.built_at)
    assert found.asked is not None
    assert (found.asked.rows, found.asked.unreadable) == (10, 2)
    assert found.asked.coverage == pytest.approx(0.5)
    assert found.asked.hit_rate == pytest.approx(0.4)
    assert found.asked.sources == {"table": 4, "model": 6}
    lacks = {each.key: each.share for each in found.asked.lacks}
    assert lacks == {"x=7.0": pytest.approx(0.2), "x=8.0": pytest.approx(0.1)}
    assert msgspec.json.decode(msgspec.json.encode(found))["asked"]["rows"] == 10


def test_nothing_asked_is_no_error_and_no_table_is(home: Home, tables: Tables) -> None:
    """A table that nobody asked has no coverage; what is wrong is said with a remedy."""
    go(home, tables[0], max_age_s=1e-6)
    found = report_table(home, "app", last_s=60.0)
    assert (found.asked, found.stale) == (None, True)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidInput, match="seconds"):
            report_table(home, "app", last_s=wrong)
    go(home, None)
    with pytest.raises(NotFound, match="has no table"):
        report_table(home, "app", last_s=60.0)
    with pytest.raises(NotFound, match="does not exist"):
        report_table(home, "nobody", last_s=60.0)


def test_a_represented_table_is_asked_by_what_represents_a_row(
    home: Home, tables: Tables, tmp_path: Path
) -> None:
    """As serving asks it: 7.2 is found under 7, and what is lacking is told as represented."""
    assert tables
    keys = keys_of([("x", "float32")], {"x": "round(0)"})
    with TableBuilder(tmp_path / "rounded", clock=home.clock) as builder:
        builder.put(keys.many([np.array([7.0])]), [encode_answer({"y": [1.0]})])
        builder.commit(
            TableInfo(
                application="app",
                model="m",
                version=1,
                key=keys.columns,
                represent=(("x", "round(0)"),),
            )
        )
    go(home, store_table(home, tmp_path / "rounded").id)
    served(home, [7.2, 6.9, 7.0, 3.4], source="model", at=home.clock.now() - 50.0)
    found = report_table(home, "app", last_s=3600.0).asked
    assert found is not None
    assert (found.coverage, found.unreadable) == (0.75, 0)
    assert [each.key for each in found.lacks] == ["x=3.0"]
