"""A table that is older than its application allows answers nothing, and that is counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tidemill.control import applications
from tidemill.control.deployments import get_deployment
from tidemill.control.documents import parse_document
from tidemill.control.local import ask_server
from tidemill.control.rollout import build_live_table
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidInput, Stale
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Column, Signature
from tidemill.serving.batcher import Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.measures import VersionMeasures
from tidemill.serving.plan import Live, VersionAssignment
from tidemill.serving.query import Query
from tidemill.serving.version import LiveVersion
from tidemill.tables.answer import encode_answer
from tidemill.tables.freshness import age_s, stale_from
from tidemill.tables.key import KeyEncoder
from tidemill.tables.table import TableInfo

seconds = st.floats(0, 1e9)


@given(seconds, st.none() | seconds, st.none() | seconds, seconds)
def test_a_table_is_stale_once_its_rows_are_older_than_allowed(
    built: float, read: float | None, allowed: float | None, now: float
) -> None:
    """By when the rows were read, not by when the table was whole; without a limit, never."""
    info = TableInfo(application="a", model="m", version=1, key=(), built_at=built, as_of=read)
    born = built if read is None else read
    limit = stale_from(info, allowed)
    assert age_s(info, now) == max(0.0, now - born)
    assert (limit is None) == (allowed is None)
    if allowed is not None:
        assert limit == born + allowed


class OneKey:
    """A table that knows that 1 is 10."""

    info = TableInfo(
        application="app", model="m", version=1, key=(("x", "int64"),), rows=1, as_of=1000.0
    )

    def __init__(self) -> None:
        self.asked: deque[bytes] = deque()

    def get(self, keys: Any) -> list[bytes | None]:
        self.asked.extend(keys)
        return [encode_answer({"y": [10]}) for _ in keys]

    def close(self) -> None:
        """Has nothing to give back."""


def version_at(clock: FakeClock, table: OneKey) -> LiveVersion:
    """A version behind that table."""
    measures = VersionMeasures(Instruments(), "app", 1)
    batcher = Batcher(
        clock=clock, max_batch=1, max_queue=1, max_queue_bytes=1, finish=lambda _: None,
        observer=measures, turned=lambda: None,
    )  # fmt: skip
    return LiveVersion(
        assignment=VersionAssignment(live=Live(model="m", version=1), folder="", replicas=()),
        identity=(),
        signature=Signature((Column("x", "int64"), Column("z", "int64")), (Column("y", "int64"),)),
        platform="onnx",
        table=table,
        key=KeyEncoder([("x", "int64")]),
        cache=Cache(0, None),
        batcher=batcher,
        coalesces=False,
        clock=clock,
        measures=measures,
    )


def test_a_table_that_is_given_back_slowly_holds_nobody_up() -> None:
    """What another took the place of is unmapped beside the loop, however large it is."""

    class Large(OneKey):
        def close(self) -> None:
            assert closing.wait(20)

    closing = threading.Event()

    async def main() -> None:
        version = version_at(FakeClock(at=1000.0), Large())
        closed = asyncio.create_task(version.aclose())
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not closed.done()
        closing.set()
        await closed

    asyncio.run(main())


def test_the_limit_holds_to_the_second_and_can_change() -> None:
    """At the moment itself the table is stale already; a longer limit has it answer again."""

    async def main() -> None:
        clock, table = FakeClock(at=1000.0), OneKey()
        version = version_at(clock, table)

        def asked() -> Query:
            return Query({"x": np.array([1])}, 1, clock.at, clock.at + 1, lambda _: None)

        version.limit_age(60.0)
        clock.advance(59.0)
        assert version.look_up(asked())
        assert not version.stale
        clock.advance(1.0)
        assert not version.look_up(asked())
        with pytest.raises(Stale, match="60 s old") as raised:
            version.look_up_alone(asked())
        assert "build the table again" in raised.value.remedy
        assert (version.measures.stale.value, version.table_age_s) == (2, 60.0)
        for limit in (61.0, None):
            version.limit_age(limit)
            assert version.look_up_alone(asked())
        assert len(table.asked) == 3

    asyncio.run(main())


@pytest.fixture(scope="module")
def aging(server: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An application whose table knows the ages 1 to 5 at the fare 10 · age."""
    name = "aging-fares"
    server.deploy(name, "fares")
    rows = tmp_path_factory.mktemp("aging") / "fares.csv"
    rows.write_text("age,fare\n" + "".join(f"{age},{age * 10}\n" for age in range(1, 6)))
    _built(server, name, rows)
    return name, rows


def _built(server: Any, name: str, rows: Path) -> Any:
    done = build_live_table(server.home, name, rows, key=("age",), by="tests")
    server.until(lambda: server.health()["applications"][name] >= done.revision, "the table")
    return done.table


def measured(client: httpx.Client, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _state(server: Any, name: str, **fields: Any) -> None:
    document = parse_document({"applications": {name: fields}}, origin="test")
    applications.apply(server.home, document, by="tests", reason="a test")
    server.go_live(get_deployment(server.home, name))


def test_a_stale_table_leaves_its_queries_to_the_model_or_the_default(
    server: Any, client: httpx.Client, aging: tuple[str, Path]
) -> None:
    """With all inputs the model answers; by key alone it is a 503, or the default where there is
    one; counted and shown; a new build of the very same rows answers again.
    """
    name, rows = aging
    whole = {"instances": [{"age": 3, "fare": 30}]}
    path = f"/v1/models/{name}"
    assert client.post(f"{path}:predict", json=whole).json()["sources"] == ["table"]
    _state(server, name, max_age_s=0.001)
    time.sleep(0.01)
    model = client.post(f"{path}:predict", json=whole).json()
    assert (model["predictions"], model["sources"]) == ([33.0], ["model"])
    alone = client.get(f"{path}:lookup?age=3")
    assert alone.status_code == 503
    assert "more than the application allows" in alone.json()["error"]
    (shown,) = {
        (each["table_stale"], each["table_age_s"] > 0)
        for gateway in ask_server(server.home, "GET", f"/admin/v1/applications/{name}")["gateways"]
        for each in gateway["versions"]
    }
    assert shown == (True, True)
    _state(server, name, default={"y": -1.0})
    filled = client.get(f"{path}:lookup?age=3").json()
    assert (filled["predictions"], filled["sources"]) == ([-1.0], ["default"])
    assert measured(client, "tidemill_table_stale_total", application=name) == 3
    for kind in ("errors", "defaults"):
        assert measured(client, f"tidemill_{kind}_total", application=name, kind="Stale") == 1
    assert measured(client, "tidemill_table_age_seconds", application=name) > 0
    before = get_deployment(server.home, name).versions[0].table
    _state(server, name, max_age_s=3600)
    assert client.get(f"{path}:lookup?age=3").json()["sources"] == ["table"]
    assert _built(server, name, rows).id != before
    _state(server, name, max_age_s="none")
    assert get_deployment(server.home, name).max_age_s is None


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan"), "soon"])
def test_a_limit_that_is_none_is_refused(server: Any, wrong: Any) -> None:
    """Nothing changes then."""
    before = get_deployment(server.home, "fares")
    with pytest.raises(InvalidInput, match="max_age_s"):
        _state(server, "fares", max_age_s=wrong)
    assert get_deployment(server.home, "fares") == before
    assert msgspec.structs.asdict(before)["max_age_s"] is None
