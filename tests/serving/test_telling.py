"""What it takes to tell clients of their answers is kept of the time that their queries have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.test_batching import Observed, Slow

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import DeadlineExceeded
from tidemill.serving.batcher import Batcher
from tidemill.serving.batching import TELLING_SHARE, Telling
from tidemill.serving.query import Query

pytestmark = pytest.mark.alone  # milliseconds of the real clock decide


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


class World:
    """A batcher over a replica, and whoever tells those whose batch has come back."""

    def __init__(self, replica: Slow, landed: Callable[[Batcher], None] | None = None) -> None:
        self.batcher = Batcher(
            clock=SYSTEM_CLOCK,
            max_batch=8,
            max_queue=1000,
            max_queue_bytes=1 << 20,
            finish=self.finish,
            observer=Observed(),
            landed=landed,
        )
        self.batcher.set_replicas([replica])

    def finish(self, query: Query) -> None:
        query.ended = True

    def ask(self, value: int, *, allowed_s: float = 5.0) -> Query:
        now = SYSTEM_CLOCK.monotonic()
        query = Query({"x": np.array([value])}, 1, now, now + allowed_s, lambda _: None)
        self.batcher.offer(query)
        return query


def later(batcher: Batcher) -> None:
    """Tells all, which takes 20 ms, at the end of the turn."""

    def tell() -> None:
        time.sleep(0.02)
        batcher.told()

    asyncio.get_running_loop().call_soon(tell)


def test_what_telling_takes_is_learned_and_a_stall_is_not() -> None:
    """Nothing is kept until it is known; a stall of a second is no more than a few usual ones."""
    telling = Telling()
    assert telling.takes_s(0.02) == 0.0
    for turn in range(200):
        telling.update(0.001 if turn % 2 else 0.003)
    assert telling.mean_s == pytest.approx(0.002, rel=0.1)
    assert telling.most_s >= 0.003
    before = telling.most_s
    telling.update(1.0)
    assert telling.most_s < 2.0 * before
    for _ in range(200):
        telling.update(0.001)
    assert telling.most_s == pytest.approx(0.001, rel=0.1)


@given(st.lists(st.floats(0.0, 10.0), max_size=50), st.floats(0.001, 10.0))
def test_telling_leaves_most_of_the_time_to_the_model(seen: list[float], allowed_s: float) -> None:
    """However long it takes: who refused everything for its sake would never learn better."""
    telling = Telling()
    for seconds in seen:
        telling.update(seconds)
    assert 0.0 <= telling.takes_s(allowed_s) <= TELLING_SHARE * allowed_s


def test_who_could_not_be_told_in_time_is_refused() -> None:
    """Where a batch takes 40 ms and telling of it 20 ms, nobody with 52 ms is let in."""

    async def main(landed: Callable[[Batcher], None] | None) -> None:
        world = World(Slow(0.04), landed)
        for _ in range(8):
            world.ask(1)
            await world.batcher.emptied()
            await asyncio.sleep(0)
        world.ask(2, allowed_s=0.2)
        await world.batcher.emptied()
        world.ask(3, allowed_s=0.052)
        await world.batcher.emptied()

    run(main(None))
    with pytest.raises(DeadlineExceeded):
        run(main(later))


def test_a_query_is_not_held_for_more_until_it_cannot_be_told_in_time() -> None:
    """Eight rows ask together, again and again; the last one asks alone, with 7 ms to spare."""

    async def main() -> None:
        world = World(Slow(0.04), later)
        for _ in range(8):
            for value in range(8):
                world.ask(value)
            await world.batcher.emptied()
            await asyncio.sleep(0)
        last = world.ask(8, allowed_s=0.064)
        await world.batcher.emptied()
        assert last.error is None

    run(main())


def test_a_batch_that_nobody_waits_for_any_more_teaches_nothing() -> None:
    """Nobody is told after it: how long it is until somebody is says nothing."""

    async def main() -> None:
        landed: list[Batcher] = []
        world = World(Slow(0.05), landed.append)
        late = world.ask(1, allowed_s=0.01)
        await world.batcher.emptied()
        assert isinstance(late.error, DeadlineExceeded)
        assert not landed
        world.ask(2)
        await world.batcher.emptied()
        assert landed == [world.batcher]

    run(main())


def test_a_replica_need_not_wait_until_clients_have_been_told() -> None:
    """What waits goes to the replica first; then those are told whose batch has come back."""

    async def main() -> None:
        replica = Slow(0.005)
        world = World(replica)
        told: list[tuple[Query, int]] = []

        def finish(query: Query) -> None:
            query.ended = True
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: told.append((query, len(replica.sizes))))

        world.batcher._finish = finish
        first = world.ask(1)
        await asyncio.sleep(0)  # it is out
        second = world.ask(2)
        await world.batcher.emptied()
        await asyncio.sleep(0)
        assert told == [(first, 2), (second, 2)]

    run(main())
