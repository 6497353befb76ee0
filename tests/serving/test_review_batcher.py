"""The batcher when the world is not as it was, and when a replica does what few do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.serving.fakes import Replica

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import (
    DeadlineExceeded,
    ModelFailed,
    NotReady,
    TidemillError,
    WorkerLost,
)
from tidemill.models.signature import Batch
from tidemill.serving.batcher import Batcher
from tidemill.serving.batching import ServiceTime
from tidemill.serving.query import Query
from tidemill.serving.replicas.replica import Done

LATER_S = 2.0


class Model(Replica):
    """Answers at once with what a function makes of the batch; that takes as long as it is told."""

    def __init__(self, clock: FakeClock, predict: Callable[[Any], Batch | TidemillError]) -> None:
        super().__init__(self.answers)
        self.clock = clock
        self.predict = predict
        self.takes_s = 0.0

    def answers(self, batch: Batch) -> Batch | TidemillError:
        outputs = self.predict(batch["x"])
        self.clock.advance(self.takes_s)
        return outputs


class Distant(Replica):
    """Has its answers at once, but they have to be collected."""

    def __init__(self) -> None:
        super().__init__(lambda batch: tens(batch["x"]))
        self.back: list[tuple[Batch, Done]] = []

    def submit(self, batch: Batch, done: Done) -> None:
        self.in_flight += 1
        self.back.append((batch, done))

    def collect(self) -> None:
        back, self.back, self.in_flight = self.back, [], 0
        for batch, done in back:
            super().submit(batch, done)


class Observer:
    def sent(self, flight: Any, waited_s: float) -> None:
        pass

    def landed(self, flight: Any, now: float) -> None:
        pass

    def hedged(self, flight: Any) -> None:
        pass


class World:
    """A batcher over one replica, on a clock that stands still while nothing is asked."""

    def __init__(self, predict: Callable[[Any], Batch | TidemillError]) -> None:
        self.clock = FakeClock(at=100.0)
        self.ended: list[Query] = []
        self.replica = Model(self.clock, predict)
        self.batcher = Batcher(
            clock=self.clock,
            max_batch=8,
            max_queue=1000,
            max_queue_bytes=1 << 20,
            finish=self.finish,
            observer=Observer(),
        )
        self.batcher.set_replicas([self.replica])

    def finish(self, query: Query) -> None:
        assert not query.ended
        query.ended = True
        self.ended.append(query)

    def ask(self, *values: int, allowed_s: float = 5.0) -> Query:
        now = self.clock.monotonic()
        query = Query(
            inputs={"x": np.array(values)},
            n=len(values),
            arrived=now,
            deadline=now + allowed_s,
            done=lambda _: None,
        )
        self.batcher.offer(query)
        return query

    async def emptied(self) -> None:
        async with asyncio.timeout(5):
            await self.batcher.emptied()


def tens(x: Any) -> Batch:
    return {"y": x * 10}


def test_what_has_come_back_is_taken_and_the_next_batch_sent_while_more_is_read() -> None:
    """A replica does not rest, nor does an answer wait, until a long reading has ended."""

    async def main() -> None:
        world = World(tens)
        world.batcher.set_replicas([Distant()])
        asked = [world.ask(1)]
        world.batcher.catch_up()
        assert world.batcher.batches_out == 1
        asked.append(world.ask(2))
        world.batcher.catch_up()
        assert [int(query.outputs["y"][0]) for query in world.ended] == [10]
        assert world.batcher.batches_out == 1
        world.batcher.catch_up()
        assert [int(query.outputs["y"][0]) for query in asked] == [10, 20]
        assert world.batcher.batches_out == 0

    asyncio.run(main())


def test_a_slow_spell_does_not_refuse_queries_for_ever() -> None:
    """When all were refused for a while, one finds out that the model is quick again."""

    async def main() -> None:
        world = World(tens)
        world.replica.takes_s = 0.5
        world.ask(1)
        await world.emptied()
        world.replica.takes_s = 0.001
        with pytest.raises(DeadlineExceeded):
            world.ask(2, allowed_s=0.1)
        world.clock.advance(LATER_S)
        found_out = world.ask(3, allowed_s=0.1)
        await world.emptied()
        others = [world.ask(value, allowed_s=0.1) for value in range(20)]
        await world.emptied()
        assert [query.error for query in (found_out, *others)] == [None] * 21

    asyncio.run(main())


def test_a_slow_model_is_asked_once_in_a_while_only() -> None:
    """As long as it is too slow, one batch in a second finds that out; the rest is told at once."""

    async def main() -> None:
        world = World(tens)
        world.replica.takes_s = 0.5
        asked = 0
        for _ in range(400):
            world.clock.advance(0.01)
            try:
                world.ask(1, allowed_s=0.1)
            except DeadlineExceeded:
                continue
            asked += 1
            await world.emptied()
        assert 2 <= asked <= 6

    asyncio.run(main())


def test_a_model_that_was_slow_for_a_moment_is_tried_again_soon() -> None:
    """What is idle and quick is not left alone for a second: soon one query finds out."""

    async def main() -> None:
        world = World(tens)
        world.replica.takes_s = 0.03
        world.ask(1)
        await world.emptied()
        world.replica.takes_s = 0.001
        with pytest.raises(DeadlineExceeded):
            world.ask(2, allowed_s=0.02)
        world.clock.advance(0.4)
        found_out = world.ask(3, allowed_s=0.02)
        await world.emptied()
        assert found_out.error is None
        assert world.ask(4, allowed_s=0.02).error is None

    asyncio.run(main())


def test_a_queue_is_closed_no_longer_than_its_law_is_believed() -> None:
    """After a long stall, who finds out that it is over opens the queue for all others."""

    async def main() -> None:
        world = World(tens)
        world.replica.takes_s = 30.0
        world.ask(1, allowed_s=60.0)
        await world.emptied()
        world.replica.takes_s = 0.001
        with pytest.raises(DeadlineExceeded):
            world.ask(2, allowed_s=0.02)
        assert world.batcher.closed_until > world.clock.monotonic() + 20.0
        world.clock.advance(1.0)
        found_out = world.ask(3, allowed_s=0.02)
        assert world.batcher.closed_until < world.clock.monotonic()
        await world.emptied()
        assert found_out.error is None

    asyncio.run(main())


def test_a_query_that_was_let_in_is_not_given_up_unasked_for_ever() -> None:
    """A law that calls late what admission let in is doubted, too."""

    async def main() -> None:
        world = World(tens)
        query = world.ask(1)
        world.batcher.law = ServiceTime(a_s=60.0, weight=10.0)
        await world.emptied()
        assert query.error is None

    asyncio.run(main())


def test_outputs_that_are_not_one_per_row_reach_nobody() -> None:
    """Nobody gets a row of another's, or none: a model that adds rows up is asked one by one."""

    async def main() -> None:
        world = World(lambda x: {"y": x.sum(keepdims=True)})
        asked = [world.ask(value) for value in (1, 2, 3)]
        several = world.ask(4, 5)
        await world.emptied()
        assert [query.outputs["y"].tolist() for query in asked] == [[1], [2], [3]]
        assert isinstance(several.error, ModelFailed)

    asyncio.run(main())


def test_outputs_without_rows_are_an_error_of_the_model() -> None:
    """Every query of such a batch ends, and says why."""

    async def main() -> None:
        world = World(lambda x: {"y": np.array(x.sum())})
        asked = [world.ask(value) for value in (1, 2, 3)]
        await world.emptied()
        assert [type(query.error) for query in asked] == [ModelFailed] * 3
        assert "shape []" in str(asked[0].error)

    asyncio.run(main())


@pytest.mark.parametrize("values", [(1,), (1, 2, 3)])
def test_a_batch_that_cannot_be_sent_ends(values: tuple[int, ...]) -> None:
    """A replica that raises (no descriptors left, say) loses no query, and holds up no retreat."""

    async def main() -> None:
        def full(x: Any) -> Batch:
            raise OSError(24, "Too many open files")

        world = World(full)
        asked = [world.ask(value) for value in values]
        await world.emptied()
        assert [type(query.error) for query in asked] == [NotReady] * len(values)
        assert "Too many open files" in str(asked[0].error)

    asyncio.run(main())


def test_what_kills_its_worker_takes_nobody_with_it() -> None:
    """After a death its queries go one by one: only the one that kills again is lost."""

    async def main() -> None:
        def dies_of_13(x: Any) -> Batch | TidemillError:
            return WorkerLost("the worker process ended") if 13 in x else {"y": x * 10}

        world = World(dies_of_13)
        asked = [world.ask(value) for value in (1, 2, 13, 4)]
        await world.emptied()
        assert [type(query.error) for query in asked] == [
            type(None),
            type(None),
            WorkerLost,
            type(None),
        ]

    asyncio.run(main())
