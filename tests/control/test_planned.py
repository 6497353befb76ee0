"""A document that wants a table: it is built and live before the rest is declared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from tidemill.control import applications
from tidemill.control.deployments import deploy, get_deployment
from tidemill.control.documents import parse_document
from tidemill.control.planned import apply_planned
from tidemill.data.ledger import LedgerWriter, PredictionRecord
from tidemill.foundation.errors import Conflict, DataRefused, InvalidInput, NotFound
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes.push import push_model
from tidemill.tables.catalog import get_table

WHO = {"by": "t", "reason": "t"}


@pytest.fixture
def sums(tmp_path: Path) -> Iterator[Home]:
    """An application of a and b, without a key or a table."""
    x = pd.DataFrame(np.arange(20.0).reshape(10, 2), columns=["a", "b"])
    joblib.dump(LinearRegression().fit(x, x.sum(axis=1)), tmp_path / "m.joblib")
    with open_home(Settings(home=tmp_path / "home")) as home:
        push_model(home, tmp_path / "m.joblib", "sums", trust_code=True)
        deploy(home, "sums", model="sums", version=1, **WHO)
        yield home


ASKED = [0.0] * 5 + [1.0] * 4 + [2.0] * 3 + [3.0] * 2 + [4.0]


def ask(home: Home, *, asked: Any = ASKED, by: str = "gateway-1") -> None:
    """Writes the questions to the ledger."""
    with LedgerWriter(home.ledger_path, by) as ledger:
        for number, a in enumerate(asked):
            ledger.append_predictions(
                [
                    PredictionRecord(
                        request_id=f"{by}-{number}",
                        time=home.clock.now(),
                        application="sums",
                        version=1,
                        source="model",
                        inputs={"a": np.array([a]), "b": np.array([1.0])},
                        outputs={"y": np.array([a + 1.0])},
                        n=1,
                    )
                ]
            )


def declared(home: Home, *, name: str = "sums", more: Any = None, **fields: Any) -> Any:
    """Applies a document of one application."""
    document = parse_document({"applications": {name: fields}}, origin="test")
    return apply_planned(home, document, **WHO, **(more or {}))


def test_the_table_is_what_was_asked_most_and_the_rest_is_declared(sums: Home) -> None:
    """In one call, by the key that the same document declares; larger or smaller is built anew."""
    ask(sums)
    for head in (2, 3):
        seen = declared(sums, more={"dry_run": True}, key=["a"], head_keys=head, slo_ms=50.0)
        assert seen.changes[0].fields[0].path == "head_keys"
        done = declared(sums, key=["a"], head_keys=head, slo_ms=50.0)
        live = get_deployment(sums, "sums")
        assert (live.key, live.slo_ms, done.changes[0].revision) == (("a",), 50.0, live.revision)
        assert get_table(sums.store, str(live.versions[0].table)).rows == head
    assert declared(sums, key=["a"], head_keys=3, slo_ms=50.0).changes == ()
    declared(sums, head_keys=0)
    assert get_deployment(sums, "sums").versions[0].table is None


def test_keys_are_counted_as_they_are_represented(sums: Home) -> None:
    """As the plan counts them; a table that is short is built again once there are more keys."""
    ask(sums)
    terms = {"key": ["a"], "represent": {"a": "bucket(1.5, 3.5)"}}

    def rows() -> int:
        return get_table(sums.store, str(get_deployment(sums, "sums").versions[0].table)).rows

    declared(sums, **terms, head_keys=2)
    assert rows() == 2
    declared(sums, **terms, head_keys=3)
    assert rows() == 3
    declared(sums, key=["a"], represent={}, head_keys=6)
    assert rows() == 5
    assert declared(sums, head_keys=6).changes == ()
    ask(sums, asked=[5.0, 5.0, 6.0], by="gateway-2")
    assert declared(sums, head_keys=6).changes != ()
    assert rows() == 6
    assert declared(sums, head_keys=6).changes == ()


def test_what_cannot_be_built_changes_nothing(sums: Home) -> None:
    """Nothing asked yet, no key, a number that is none, tables told twice, or nobody there."""
    before = get_deployment(sums, "sums")
    for error, fields in (
        (DataRefused, {"key": ["a"], "head_keys": 3, "slo_ms": 1.0}),
        (InvalidInput, {"head_keys": 3, "slo_ms": 1.0}),
        (InvalidInput, {"head_keys": -1, "slo_ms": 1.0}),
        (InvalidInput, {"head_keys": 1, "versions": [{"model": "sums", "version": 1}]}),
        (InvalidInput, {"key": ["a"], "head_keys": 3, "plan": {"replicas": 0}}),
    ):
        with pytest.raises(error):
            declared(sums, **fields)
        assert get_deployment(sums, "sums") == before
    with pytest.raises(NotFound):
        declared(sums, name="nobody", head_keys=3)
    ask(sums)
    with pytest.raises(Conflict):
        declared(sums, more={"expected": {"sums": 99}}, key=["a"], head_keys=3)
    assert get_deployment(sums, "sums") == before


def test_what_somebody_changed_during_the_build_stays(sums: Home) -> None:
    """The table is not attached then, and the plan not overwritten: the differences are others."""
    ask(sums)
    theirs = parse_document({"applications": {"sums": {"plan": {"replicas": 3}}}}, origin="test")

    def progress(_name: str) -> Any:
        return lambda _done, _all: applications.apply(sums, theirs, **WHO)

    more = {"expected": {"sums": get_deployment(sums, "sums").revision}, "progress": progress}
    with pytest.raises(Conflict, match="changed meanwhile"):
        declared(sums, more=more, key=["a"], head_keys=3, plan={"replicas": 1})
    live = get_deployment(sums, "sums")
    assert (live.plan.replicas, live.versions[0].table) == (3, None)


def test_where_nothing_is_built_a_table_is_refused(sums: Home) -> None:
    """The store's own verb, which the admin port uses, says who builds."""
    document = parse_document({"applications": {"sums": {"head_keys": 3}}}, origin="test")
    with pytest.raises(InvalidInput, match="nothing is built here"):
        applications.apply(sums, document, **WHO)
