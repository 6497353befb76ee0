"""What goes wrong with one query is that query's own trouble: the others are answered."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tests.serving.fakes import Replica

from tidemill.data.ledger import LedgerWriter, read_ledger
from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import ModelFailed, TidemillError
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving.application import Application
from tidemill.serving.batcher import Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.dataplane import DataPlane
from tidemill.serving.exchange import Connection, Exchange, Head
from tidemill.serving.measures import Measures
from tidemill.serving.plan import Deployment, Live, VersionAssignment
from tidemill.serving.processor import Processor
from tidemill.serving.query import Query
from tidemill.serving.version import LiveVersion
from tidemill.tables.answer import encode_answer
from tidemill.tables.key import KeyEncoder
from tidemill.tables.table import Table

SIGNATURE = Signature((Column("x", "int64"),), (Column("y", "int64"), Column("word", "string")))


def answers(batch: Batch) -> Batch:
    """Returns y = 10·x and a word; for x = 13 something that no ledger can keep."""
    words = ["a\ud800" if x == 13 else "fine" for x in batch["x"].tolist()]
    return {"y": batch["x"] * 10, "word": np.array(words, object)}


class OneColumn:
    """A table of another model: it knows x = 1, and only one of the outputs."""

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        known = KeyEncoder([("x", "int64")]).one([1])
        return [encode_answer({"y": 10}) if key == known else None for key in keys]

    def close(self) -> None:
        """Nothing to give back."""


class World:
    """A processor with one application, and everything that it ended."""

    def __init__(self, processor: Processor, table: Table | None) -> None:
        self.processor = processor
        self.ended: list[Query] = []
        assignment = VersionAssignment(
            live=Live(model="m", version=1), folder="nowhere", replicas=()
        )
        measures = Measures(Instruments(), "app")
        batcher = Batcher(
            clock=SYSTEM_CLOCK,
            max_batch=64,
            max_queue=1000,
            max_queue_bytes=1 << 20,
            finish=lambda query: processor._from_replica(version, query),
            observer=measures.of(1),
        )
        version = LiveVersion(
            assignment=assignment,
            identity=(),
            signature=SIGNATURE,
            platform="onnx",
            table=table,
            key=None if table is None else KeyEncoder([("x", "int64")]),
            cache=Cache(10_000, None),
            batcher=batcher,
            coalesces=False,
            clock=SYSTEM_CLOCK,
            measures=measures.of(1),
        )
        batcher.set_replicas([Replica(answers)])
        self.application = Application(
            deployment=Deployment(application="app", revision=1, versions=(assignment.live,)),
            versions=(version,),
            signature=version.signature,
            measures=measures,
        )

    def ask(self, *values: int, done: Callable[[Query], None] | None = None) -> Query:
        now = SYSTEM_CLOCK.monotonic()
        query = Query(
            inputs={"x": np.array(values)},
            n=len(values),
            arrived=now,
            deadline=now + 5.0,
            done=done or self.ended.append,
        )
        self.processor.submit(self.application, query)
        return query

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.ended) < count:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def served(path: Path, table: Any = None) -> AsyncIterator[World]:
    with LedgerWriter(path, "gateway-0") as ledger:
        yield World(Processor(ledger, Instruments(), SYSTEM_CLOCK), table)


def test_what_cannot_be_recorded_costs_nobody_else_an_answer(tmp_path: Path) -> None:
    """One answer that no ledger can keep is an error; the others of that turn are answered."""

    async def main() -> None:
        async with served(tmp_path) as world:
            asked = [world.ask(value) for value in (1, 13, 2)]
            await world.until(3)
            assert [type(query.error) for query in asked] == [type(None), ModelFailed, type(None)]
            assert asked[2].outputs["y"].tolist() == [20]
        assert read_ledger(tmp_path).predictions.num_rows == 2

    asyncio.run(main())


def test_a_version_that_is_no_longer_live_keeps_no_answers(tmp_path: Path) -> None:
    """However long somebody still knows of it, its cache goes with its replicas."""

    async def main() -> None:
        async with served(tmp_path) as world:
            (version,) = world.application.versions
            world.ask(1)
            await world.until(1)
            assert version.cache.size_bytes > 0
            await version.aclose()
            assert version.cache.size_bytes == 0

    asyncio.run(main())


def test_who_cannot_be_told_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """A ``done`` that raises is logged; the others of that turn are told."""

    async def main() -> None:
        def broken(query: Query) -> None:
            raise ZeroDivisionError

        async with served(tmp_path) as world:
            world.ask(1, done=broken)
            world.ask(2)
            await world.until(1)

    asyncio.run(main())


def test_rows_that_do_not_fit_together_are_an_error(tmp_path: Path) -> None:
    """A table of another model's answers beside a model: the query ends, and says why."""

    async def main() -> None:
        async with served(tmp_path, OneColumn()) as world:
            mixed = world.ask(2, 1)
            await world.until(1)
            assert isinstance(mixed.error, ModelFailed)
            assert "do not fit together" in str(mixed.error)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["infer", "predict"])
def test_a_waiting_query_holds_its_arrays_and_no_more(tmp_path: Path, kind: str) -> None:
    """What queues are bounded by, the bytes sent, is about what they take."""
    n, queries = 20_000, []
    signature = Signature((Column("x", "float64"),), (Column("y", "int64"),))
    application = SimpleNamespace(
        name="app",
        slo_s=1.0,
        allowed_s=lambda _: 1.0,
        closed_to=lambda _: False,
        deployment=SimpleNamespace(slo_ms=1000.0, key=()),
        signature=signature,
    )
    processor = SimpleNamespace(
        applications={},
        application=lambda _: application,
        submit=lambda _, query, *__: queries.append(query),
        model_turn=lambda *_: None,
    )
    plane = DataPlane(
        cast("Processor", processor),
        ledger=LedgerWriter(tmp_path, "gateway-0"),
        instruments=Instruments(),
        clock=SYSTEM_CLOCK,
        collect=_nothing,
    )
    values = [float(number) for number in range(n)]
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": [n], "datatype": "FP64", "data": values}]}
        if kind == "infer"
        else {"instances": values}
    ).encode()
    del values
    tracemalloc.start()
    try:
        exchange = Exchange(cast("Connection", None), Head(), body, 0.0)
        if kind == "infer":
            plane.infer(exchange, "app", None)
        else:
            plane.predict(exchange, "app")
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert queries[0].nbytes == len(body)
    assert held < 2 * len(body)


async def _nothing() -> bytes:
    return b""


def test_metrics_that_cannot_be_collected_are_an_answer(tmp_path: Path) -> None:
    """Whatever goes wrong, the connection does not hang."""

    async def main() -> None:
        async def broken() -> bytes:
            raise ZeroDivisionError

        failed: asyncio.Future[TidemillError] = asyncio.get_running_loop().create_future()
        plane = DataPlane(
            cast("Processor", None),
            ledger=LedgerWriter(tmp_path, "gateway-0"),
            instruments=Instruments(),
            clock=SYSTEM_CLOCK,
            collect=broken,
        )
        plane.metrics(cast("Exchange", SimpleNamespace(fail=failed.set_result)))
        async with asyncio.timeout(5):
            assert "metrics" in str(await failed)

    asyncio.run(main())
