"""An application that represents its inputs: table, lookups, cache and queries in flight fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tidemill.control.applications import apply
from tidemill.control.deployments import get_deployment
from tidemill.control.documents import read_document, show_document
from tidemill.control.rollout import build_live_table
from tidemill.data.ledger import read_ledger
from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Column, Signature
from tidemill.planning.workload.sources import read_served
from tidemill.serving.coalescing import Coalescing
from tidemill.serving.query import Packed, Query
from tidemill.serving.version import _folded

NAME = "folded-fares"


@pytest.fixture(scope="module")
def folded(server: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ages fold to tens: its table knows 8 (twice), 9 and 21, at the fare 100 · age."""
    server.deploy(NAME, "fares")
    rows = tmp_path_factory.mktemp("folded") / "fares.csv"
    rows.write_text("age,fare\n" + "".join(f"{age},{age * 100}\n" for age in (9, 8, 8, 21)))
    done = build_live_table(
        server.home, NAME, rows, key=("age",), represent={"age": "step(10)"}, tolerance=50, by="t"
    )
    agreement = done.table.agreement
    assert agreement is not None
    assert (agreement.rows, agreement.keys, agreement.share) == (4, 2, 0.75)  # 9 is not near 8
    assert agreement.outputs[0].max_abs == 101.0
    server.until(lambda: server.health()["applications"][NAME] >= done.revision, "the table")
    return NAME


def ask(client: httpx.Client, verb: str = "predict", **row: float) -> tuple[float, str]:
    """What an application answers, and from where."""
    body = client.post(f"/v1/models/{NAME}:{verb}", json={"instances": [row]}).json()
    (answer,) = body["predictions"]
    return answer["y"] if isinstance(answer, dict) else answer, body["sources"][0]


def test_what_is_folded_is_answered_by_table_model_and_cache(
    server: Any, client: httpx.Client, folded: str
) -> None:
    """A lookup and a query of any input that a key stands for; what no key stands for goes to the
    model, and from its cache to all that is represented alike.
    """
    assert ask(client, "lookup", age=8) == (808.0, "table")
    assert ask(client, "lookup", age=13) == (808.0, "table")
    assert ask(client, age=6, fare=5) == (808.0, "table")
    url = f"/v1/models/{folded}:lookup?age=24"
    assert client.get(url).json()["sources"] == ["table"]
    missing = client.get(f"/v1/models/{folded}:lookup?age=31")
    assert missing.status_code == 404
    assert "age=30" in missing.json()["error"]
    assert ask(client, age=41, fare=1) == (42.0, "model")
    assert ask(client, age=39, fare=1) == (42.0, "cache")
    assert ask(client, age=39, fare=2) == (41.0, "model")  # another fare is another input
    seen = read_served(server.home.ledger_path, folded, ("age",), represent={"age": "step(10)"})
    heavy = {each.key: each.share for each in seen.result().heavy}
    assert set(heavy) <= {"10", "20", "30", "40"}
    exact = read_served(server.home.ledger_path, folded, ("age",)).result()
    assert seen.result().cardinality < exact.cardinality


def test_what_represents_an_input_is_declared_and_checked(server: Any, folded: str) -> None:
    """In a document that changes nothing, applied again; what no server would take is refused."""
    before = get_deployment(server.home, folded)
    assert before.represent == {"age": "step(10)"}
    said = show_document([before])
    assert 'represent = { age = "step(10)" }' in said or 'represent = {age = "step(10)"}' in said
    document = read_document(said.encode(), origin="test")
    assert apply(server.home, document, by="tests", reason="again").changes == ()
    for wrong, told in (
        ('{ age = "text" }', "represents text"),
        ('{ age = "nonsense" }', "is no representation"),
        ('{ years = "step(10)" }', "is no input"),
    ):
        text = f"[applications.{folded}]\nrepresent = {wrong}\n".encode()
        with pytest.raises(InvalidInput, match=told):
            apply(server.home, read_document(text, origin="test"), by="tests", reason="no")


def test_a_key_that_no_row_had_gets_the_features_of_what_represents_it(
    server: Any, client: httpx.Client, tmp_path: Path
) -> None:
    """Its own where it has some; the model is asked with the key as it came."""
    name = "folded-stored"
    server.deploy(name, "fares")
    rows = tmp_path / "fares.csv"
    rows.write_text("age,fare\n" + "".join(f"{age},{age * 100}\n" for age in (9, 8, 8, 21)))
    terms = {"key": ("age",), "represent": {"age": "step(10)"}, "by": "t", "features": True}
    build_live_table(server.home, name, rows, **terms)
    server.deploy(name, "fares", plan={"cache_bytes": 0})  # anew, and without a table

    def look_up(age: int) -> httpx.Response:
        return client.get(f"/v1/models/{name}:lookup?age={age}")

    for age, answer in ((9, 909.0), (8, 808.0), (13, 813.0), (24, 2124.0)):
        body = look_up(age).raise_for_status().json()
        assert (body["predictions"], body["sources"]) == ([answer], ["model"])
    assert look_up(31).status_code == 404
    kept = read_ledger(server.home.ledger_path, name).predictions["inputs"].to_pylist()
    assert '{"age":13,"fare":800.0}' in kept


def test_the_key_of_a_cached_answer_is_the_representation() -> None:
    """Of a query's arrays and of a packed one; other columns stay as they are."""
    text = Signature((Column("w", "string"), Column("x", "int64")), (Column("y", "int64"),))
    key = _folded(text, {"w": "text"})
    rows = [{"w": np.array([w], object), "x": np.array([x])} for w, x in
            (("A b", 1), (" a  B", 1), ("A b", 2), ("ab", 1))]  # fmt: skip
    assert key(rows[0]) == key(rows[1])
    assert len({key(row) for row in rows}) == 3
    column = Column("x", "float32")
    packed = _folded(Signature((column,), (column,)), {"x": "round(0)"})
    one, other = (Packed(column, np.float32(x).tobytes(), 1) for x in (1.2, 0.9))
    assert packed(one) == packed(other)
    assert packed(one) != packed(Packed(column, np.array([1, 1], np.float32).tobytes(), 2))


def test_who_follows_what_represents_it_keeps_its_own_input() -> None:
    """The ledger must say what was asked, not what stood for it."""
    asked = [
        Query(inputs={"x": np.array([x])}, n=1, arrived=0.0, deadline=9.0, done=print)
        for x in (1.0, 1.2)
    ]
    for query in asked:
        query.cache_key = b"k"
    out = Coalescing(folds=True)
    assert [out.follow(query) for query in asked] == [False, True]
    assert asked[1].inputs["x"].item() == 1.2
