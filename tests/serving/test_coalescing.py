"""Equal queries in flight: one computation answers all, and none waits beyond its own deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tidemill.data.ledger import LedgerWriter, read_ledger
from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import (
    DeadlineExceeded,
    InvalidInput,
    TidemillError,
    WorkerLost,
)
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving.application import Application
from tidemill.serving.batcher import MAX_ATTEMPTS, Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.coalescing import MAX_FOLLOWERS
from tidemill.serving.measures import Measures
from tidemill.serving.plan import Deployment, Live, VersionAssignment
from tidemill.serving.processor import Processor
from tidemill.serving.query import Query
from tidemill.serving.replicas.replica import Done
from tidemill.serving.version import LiveVersion

SIGNATURE = Signature((Column("x", "int64"), Column("w", "string")), (Column("y", "int64"),))


class Held:
    """A replica that holds each batch until it is told what to say of it: y = 10·x, or an error."""

    name = "held"
    alive = True
    capacity = 64
    on_loop = False

    def __init__(self) -> None:
        self.out: list[tuple[Batch, Done]] = []
        self.asked = 0

    @property
    def in_flight(self) -> int:
        return 0 if self.alive else len(self.out)

    async def start(self) -> None:
        """Nothing to load."""

    def submit(self, batch: Batch, done: Done) -> None:
        self.asked += len(batch["x"])
        self.out.append((batch, done))

    def release(self, error: TidemillError | None = None) -> None:
        out, self.out = self.out, []
        for batch, done in out:
            done({"y": batch["x"] * 10} if error is None else error)

    def collect(self) -> None:
        """Answers when it is released."""

    async def aclose(self) -> None:
        """Nothing to give back."""


class World:
    """A processor with one version on one held replica."""

    def __init__(self, processor: Processor, *, coalesces: bool, cache_bytes: int) -> None:
        self.processor, self.replica = processor, Held()
        self.ended: list[Query] = []
        assignment = VersionAssignment(
            live=Live(model="m", version=1), folder="nowhere", replicas=()
        )
        measures = Measures(Instruments(), "app")
        self.measures = measures.of(1)
        self.batcher = Batcher(
            clock=SYSTEM_CLOCK,
            max_batch=8,
            max_queue=5,
            max_queue_bytes=1 << 20,
            finish=lambda query: processor._from_replica(version, query),
            observer=self.measures,
        )
        version = LiveVersion(
            assignment=assignment,
            identity=(),
            signature=SIGNATURE,
            platform="onnx",
            table=None,
            key=None,
            cache=Cache(cache_bytes, None),
            batcher=self.batcher,
            coalesces=coalesces,
            clock=SYSTEM_CLOCK,
            measures=self.measures,
        )
        self.batcher.set_replicas([self.replica])
        self.application = Application(
            deployment=Deployment(application="app", revision=1, versions=(assignment.live,)),
            versions=(version,),
            signature=SIGNATURE,
            measures=measures,
        )

    def ask(self, x: int, word: str = "a", *, allowed_s: float = 5.0) -> Query:
        now = SYSTEM_CLOCK.monotonic()
        query = Query(
            inputs={"x": np.array([x]), "w": np.array([word], object)},
            n=1,
            arrived=now,
            deadline=now + allowed_s,
            done=self.ended.append,
        )
        self.processor.submit(self.application, query)
        return query

    async def out(self) -> None:
        """Returns once the replica has a batch."""
        async with asyncio.timeout(5):
            while not self.replica.out:
                await asyncio.sleep(0)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.ended) < count:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def world(
    path: Path, *, coalesces: bool = True, cache_bytes: int = 0
) -> AsyncIterator[World]:
    with LedgerWriter(path, "gateway-0") as ledger:
        processor = Processor(ledger, Instruments(), SYSTEM_CLOCK)
        yield World(processor, coalesces=coalesces, cache_bytes=cache_bytes)


@pytest.mark.parametrize("cache_bytes", [0, 10_000])
def test_equal_queries_are_computed_once_and_each_is_answered(
    tmp_path: Path, cache_bytes: int
) -> None:
    """The model sees one of them; every client gets the answer, an id and a record of its own."""

    async def main() -> None:
        async with world(tmp_path, cache_bytes=cache_bytes) as served:
            asked = [served.ask(1) for _ in range(3)]
            await served.out()
            asked += [served.ask(1), served.ask(2), served.ask(1, "b")]
            await asyncio.sleep(0.01)
            served.replica.release()
            await served.until(6)
            assert served.replica.asked == 3
            assert served.measures.coalesced.value == 3
            assert [query.outputs["y"].tolist() for query in asked] == [[10]] * 4 + [[20], [10]]
            assert {query.source for query in asked} == {"model"}
            assert len({query.request_id for query in asked}) == 6
            later = served.ask(1)
            await (served.out() if cache_bytes == 0 else served.until(7))
            served.replica.release()
            await served.until(7)
            assert later.source == ("model" if cache_bytes == 0 else "cache")
        assert read_ledger(tmp_path).predictions.num_rows == 7

    asyncio.run(main())


def test_nobody_follows_who_may_take_longer(tmp_path: Path) -> None:
    """A query with less time than its equal asks for itself, and misses no deadline for it."""

    async def main() -> None:
        async with world(tmp_path) as served:
            patient = served.ask(1, allowed_s=5.0)
            hurried = served.ask(1, allowed_s=0.05)
            await served.until(1)
            assert served.ended == [hurried]
            assert isinstance(hurried.error, DeadlineExceeded)
            served.replica.release()
            await served.until(2)
            assert patient.outputs["y"].tolist() == [10]

    asyncio.run(main())


def test_the_time_of_one_is_not_the_time_of_all(tmp_path: Path) -> None:
    """If the leader's time is up, those who still have some ask for themselves, together."""

    async def main() -> None:
        async with world(tmp_path) as served:
            leader = served.ask(1, allowed_s=0.05)
            followers = [served.ask(1, allowed_s=5.0) for _ in range(2)]
            await served.until(1)
            assert served.ended == [leader]
            await asyncio.sleep(0.01)
            served.replica.release()
            await served.until(3)
            assert [query.outputs["y"].tolist() for query in followers] == [[10], [10]]
            assert served.replica.asked == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "sent"), [(InvalidInput("no"), 1), (WorkerLost("gone"), MAX_ATTEMPTS)]
)
def test_an_input_that_breaks_the_model_is_not_tried_again_for_each(
    tmp_path: Path, error: TidemillError, sent: int
) -> None:
    """What the model or its worker fails on fails for all that sent it, once."""

    async def main() -> None:
        async with world(tmp_path) as served:
            asked = [served.ask(1) for _ in range(4)]
            while len(served.ended) < 4:
                await served.out()
                served.replica.release(error)
                await asyncio.sleep(0.001)
            assert [type(query.error) for query in asked] == [type(error)] * 4
            assert served.replica.asked == sent

    asyncio.run(main())


def test_a_leader_that_is_refused_leads_nobody(tmp_path: Path) -> None:
    """A query that the queue refuses on arrival leaves nothing behind for its equals to wait on."""

    async def main() -> None:
        async with world(tmp_path) as served:
            served.replica.alive = False
            waiting = [served.ask(x) for x in range(5)]
            refused = [served.ask(9), served.ask(9)]
            await served.until(2)
            assert all(query.error is not None for query in refused)
            served.replica.alive = True
            served.batcher.set_replicas([served.replica])
            await served.out()
            again = served.ask(9)
            await asyncio.sleep(0.01)
            served.replica.release()
            await served.until(8)
            assert again.outputs["y"].tolist() == [90]
            assert all(query.error is None for query in waiting)

    asyncio.run(main())


def test_who_may_wait_for_one_leader_is_bounded(tmp_path: Path) -> None:
    """Beyond the bound a query asks for itself, and the queue's own bounds hold again."""

    async def main() -> None:
        async with world(tmp_path) as served:
            leader = served.ask(1)
            await served.out()
            for _ in range(MAX_FOLLOWERS + 2):
                served.ask(1)
            await asyncio.sleep(0.01)
            served.replica.release()
            await served.until(MAX_FOLLOWERS + 3)
            assert leader.error is None
            assert served.replica.asked == 3
            assert served.measures.coalesced.value == MAX_FOLLOWERS

    asyncio.run(main())


def test_without_coalescing_each_asks(tmp_path: Path) -> None:
    """Turned off, equal queries are computed one by one."""

    async def main() -> None:
        async with world(tmp_path, coalesces=False) as served:
            for _ in range(3):
                served.ask(1)
            await served.out()
            served.replica.release()
            await served.until(3)
            assert served.replica.asked == 3

    asyncio.run(main())
