"""Rows that go together wait in the queue as queries would, and become queries where it matters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tests.serving.fakes import Replica

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import Overloaded, WorkerLost
from tidemill.models.signature import Batch
from tidemill.serving.batcher import Batcher
from tidemill.serving.batching import ServiceTime
from tidemill.serving.query import LAST_PRIORITY, Answers, Query
from tidemill.serving.replicas.replica import Done


class Quiet:
    """Watches no batch."""

    def sent(self, flight: Any, waited_s: float) -> None:
        """Is not told."""

    def landed(self, flight: Any, now: float) -> None:
        """Is not told."""

    def hedged(self, flight: Any) -> None:
        """Is not told."""


class Rows:
    """Some rows that were added in a turn."""

    def __init__(self, world: World, values: Sequence[float], arrived: Sequence[float]) -> None:
        self._world, self.values, self.arrived = world, values, arrived
        self.deadline = min(self.arrived) + world.slo_s
        self.nbytes = 8 * len(values)

    def inputs(self) -> Batch | None:
        return {"x": np.array(self.values)} if self._world.plain else None

    def apart(self) -> Sequence[Query]:
        pairs = zip(self.values, self.arrived, strict=True)
        return [self._world.query(value, arrived) for value, arrived in pairs]

    def answered(self, answers: Answers) -> None:
        self._world.together.append(answers.outputs["y"].tolist())


class Busy(Replica):
    """A worker, which answers when it is told to."""

    capacity = 2

    def __init__(self, predict: Callable[[Batch], Any]) -> None:
        super().__init__(predict)
        self.out: list[tuple[Batch, Done]] = []

    def submit(self, batch: Batch, done: Done) -> None:
        self.in_flight += 1
        self.out.append((batch, done))

    def land(self, *, lost: bool = False, took_s: float = 0.0) -> None:
        batch, done = self.out.pop(0)
        self.in_flight -= 1
        done(WorkerLost("killed") if lost else self._predict(batch), took_s)


class World:
    """A batcher over one model, and what it ended."""

    slo_s = 1.0
    plain = True

    def __init__(self, *, on_loop: bool = True, max_queue: int = 6) -> None:
        self.clock = FakeClock()
        self.sizes: list[int] = []
        self.together: list[list[float]] = []
        self.ended: list[Query] = []
        self.batcher = Batcher(
            clock=self.clock,
            max_batch=8,
            max_queue=max_queue,
            max_queue_bytes=1000,
            finish=self._finish,
            observer=Quiet(),
        )
        self.replica = Replica(self._predict) if on_loop else Busy(self._predict)
        self.replica.on_loop = on_loop
        self.batcher.set_replicas([self.replica])
        self.batcher._grown = 8
        self.batcher._know(ServiceTime())
        self._values: list[float] = []
        self._since: list[float] = []

    def _predict(self, batch: Batch) -> Batch:
        self.sizes.append(len(batch["x"]))
        return {"y": batch["x"] * 10}

    def _finish(self, query: Query) -> None:
        query.ended = True
        self.ended.append(query)

    def query(self, value: float, arrived: float | None = None) -> Query:
        now = self.clock.monotonic() if arrived is None else arrived
        return Query({"x": np.array([value])}, 1, now, now + self.slo_s, lambda _: None)

    @property
    def arrived(self) -> list[float]:
        return self._since

    @property
    def first(self) -> float:
        return self._since[0]

    @property
    def earliest(self) -> float:
        return self.first + self.slo_s

    def take(self, rows: int) -> Rows:
        taken = Rows(self, self._values[:rows], self._since[:rows])
        del self._values[:rows], self._since[:rows]
        return taken

    def add(self, *values: float, nbytes: int = 8, allowed_s: float = 1.0) -> list[bool]:
        found = []
        for value in values:
            until = self.clock.monotonic() + self.slo_s
            found.append(self.batcher.offer_row(self, nbytes, until, allowed_s))
            if found[-1]:
                self._values.append(value)
                self._since.append(self.clock.monotonic())
        return found

    def answers(self) -> list[float]:
        return [query.outputs["y"].item() for query in self.ended]


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_rows_of_a_turn_go_together() -> None:
    """As many as the queue may hold, counted as what waits until they go."""

    async def main() -> None:
        world = World()
        assert world.add(*range(8)) == [True] * 6 + [False] * 2
        assert (world.batcher.queued_rows, world.batcher.queued_bytes) == (6, 48)
        await turn()
        assert world.together == [[0.0, 10.0, 20.0, 30.0, 40.0, 50.0]]
        assert (world.sizes, world.ended) == ([6], [])
        assert (world.batcher.queued_rows, world.batcher.queued_bytes) == (0, 0)
        assert world.add(1, nbytes=1001) == [False]
        assert world.add(1) == [True]
        await asyncio.wait_for(world.batcher.emptied(), 1)
        assert world.together[1:] == [[10.0]]

    asyncio.run(main())


@pytest.mark.parametrize("why", ["unread", "law", "dead"])
def test_rows_that_cannot_go_together_go_as_queries(why: str) -> None:
    """They are not plain, would be late, or the model does not answer."""

    async def main() -> None:
        world = World()
        assert world.add(1, 2) == [True, True]
        world.plain = why != "unread"
        if why == "law":
            world.batcher.law = ServiceTime(a_s=2.0, weight=1.0)
        world.replica.alive = why != "dead"
        await turn()
        assert not world.together
        if why == "unread":
            assert world.answers() == [10.0, 20.0]
            assert world.sizes == [2]
        elif why == "law":
            assert [type(query.error).__name__ for query in world.ended] == ["DeadlineExceeded"] * 2
        else:
            assert not world.ended
            assert world.batcher.queued_rows == 2

    asyncio.run(main())


def test_a_query_among_rows_makes_queries_of_them() -> None:
    """What has another priority goes before or after them, and nobody is counted twice."""

    async def main() -> None:
        world = World()
        assert world.add(1, 2) == [True, True]
        last, usual = world.query(3), world.query(4)
        last.priority = LAST_PRIORITY
        world.batcher.offer(last)
        assert world.add(9) == [False]
        world.batcher.offer(usual)
        assert world.batcher.queued_rows == 4
        await turn()
        assert world.answers() == [10.0, 20.0, 40.0, 30.0]
        assert (world.batcher.queued_rows, world.batcher.queued_bytes) == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("why", ["", "first", "priority", "less"])
def test_queries_wait_behind_a_whole_batch_of_rows(why: str) -> None:
    """Those are parted only for who may have to go before them, or where more would fit."""

    async def main() -> None:
        world = World(max_queue=100)
        rows = 8 - (why == "less")
        assert world.add(*range(rows)) == [True] * rows
        queries = [world.query(value) for value in (20, 21)]
        if why == "first":
            queries[1].deadline -= 0.5
        if why == "priority":
            queries[1].priority = LAST_PRIORITY
        for query in queries:
            world.batcher.offer(query)
        assert world.batcher.queued_rows == rows + 2
        assert world.add(9) == [False]
        await turn()
        first = [] if why else [[10.0 * value for value in range(8)]]
        assert world.together == first
        assert len(world.answers()) == 2 + (rows if why else 0)
        assert world.sizes == ([8, 1] if why == "less" else [8, 2])
        assert (world.batcher.queued_rows, world.batcher.queued_bytes) == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize(("rows", "nbytes"), [(93, 8), (1, 937)])
def test_rows_that_wait_fill_the_queue_for_a_large_query(rows: int, nbytes: int) -> None:
    """What is larger than all the queue may hold is taken only where nothing waits."""

    async def main() -> None:
        world = World(max_queue=100)
        large = world.query(20)
        large.n, large.nbytes, large.asked = rows, nbytes, {"x": np.ones(rows)}
        assert world.add(*range(8)) == [True] * 8
        with pytest.raises(Overloaded):
            world.batcher.offer(large)
        assert (world.batcher.queued_rows, world.batcher.queued_bytes) == (8, 64)
        await turn()
        world.batcher.offer(large)
        await turn()
        assert world.sizes == [8, rows]

    asyncio.run(main())


def test_a_timer_between_reading_and_their_turn_forgets_no_row() -> None:
    """It looks for queries whose time is up, and finds none; the queue is not empty for that."""

    async def main() -> None:
        world = World()
        assert world.add(1, 2) == [True, True]
        emptied = asyncio.ensure_future(world.batcher.emptied())
        emptied.get_loop().call_soon(world.batcher._expire)
        world.batcher._due.cancel()  # it comes later than it would
        for _ in range(3):
            await turn()
        assert world.batcher.queued_rows == 2
        assert not emptied.done()
        world.batcher.catch_up()
        await asyncio.wait_for(emptied, 1)
        assert world.together == [[10.0, 20.0]]

    asyncio.run(main())


def test_rows_of_two_applications_do_not_mix() -> None:
    """Who comes second to one version's queue goes by queries, and the first ones, too."""

    async def main() -> None:
        world = World()
        assert world.add(1) == [True]
        assert not world.batcher.offer_row(World(), 8, 1.0, 1.0)  # another one's
        world.batcher.offer(world.query(2))
        await turn()
        assert world.answers() == [10.0, 20.0]

    asyncio.run(main())


def sent(world: World) -> list[int]:
    """How many rows each batch has that the worker was given and has not answered."""
    return [len(batch["x"]) for batch, _ in world.replica.out]


def test_rows_wait_for_a_worker_and_go_together_when_it_is_free() -> None:
    """More than a batch of them may wait; a query that comes after them goes after them."""

    async def main() -> None:
        world = World(on_loop=False, max_queue=20)
        assert world.add(1) == [True]
        await turn()
        assert world.add(*range(17)) == [True] * 17
        await turn()
        assert sent(world) == [1, 8]
        world.batcher.offer(world.query(50))
        assert world.add(60) == [False]
        world.replica.land()
        await turn()
        assert (world.together, sent(world)) == ([[10.0]], [8, 8])
        world.replica.land()
        await turn()
        assert world.together[1] == [10.0 * value for value in range(8)]
        assert sent(world) == [8]
        world.replica.land()
        await turn()
        assert sent(world) == [1]
        world.replica.land()
        await turn()
        assert (world.together[3], sent(world)) == ([160.0], [1])
        world.replica.land()
        assert world.answers() == [500.0]
        assert (world.batcher.queued_rows, world.batcher.queued_bytes) == (0, 0)

    asyncio.run(main())


def test_an_idle_worker_gets_half_of_the_rows_first_once_it_is_known_what_a_row_takes() -> None:
    """While it computes the second half, the first is told; what is known is its own time alone."""

    async def main() -> None:
        world = World(on_loop=False, max_queue=20)
        for rows in (1, 4) * 10:
            assert world.add(*range(rows)) == [True] * rows
            await turn()
            for each in sent(world):
                world.replica.land(took_s=0.0001 + 0.0002 * each)
        assert world.add(*range(8)) == [True] * 8
        await turn()
        assert sent(world) == [4, 4]
        world.replica.land(took_s=0.0009)
        assert world.add(*range(2)) == [True] * 2
        await turn()
        assert sent(world) == [4, 2]

    asyncio.run(main())


def test_rows_with_a_worker_end_at_their_deadline() -> None:
    """Whether they wait or are out; what comes back of them later is told to nobody."""

    async def main() -> None:
        world = World(on_loop=False, max_queue=20)
        assert world.add(1, 2) == [True, True]
        await turn()
        assert world.add(3) == [True]
        world.clock.advance(1.1)
        world.batcher._expire()
        assert [type(each.error).__name__ for each in world.ended] == ["DeadlineExceeded"] * 3
        world.replica.land()
        await asyncio.wait_for(world.batcher.emptied(), 1)
        assert (world.together, len(world.ended)) == ([], 3)

    asyncio.run(main())


def test_rows_that_a_worker_dies_of_are_asked_once_more_as_queries() -> None:
    """They go before those that came after them."""

    async def main() -> None:
        world = World(on_loop=False, max_queue=20)
        assert world.add(1, 2) == [True, True]
        await turn()
        world.clock.advance(0.1)
        assert world.add(3) == [True]
        world.replica.land(lost=True)
        for _ in range(6):
            await turn()
            while world.replica.out:
                world.replica.land()
        assert world.answers() == [10.0, 20.0, 30.0]
        assert not world.together

    asyncio.run(main())
