"""The batcher, which carries the batching law out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    TidemillError,
    WorkerLost,
)
from tidemill.models.signature import Batch
from tidemill.serving.batcher import Batcher
from tidemill.serving.batching import (
    ServiceTime,
    ample_s,
    answered_at,
    cut,
    remaining_s,
)
from tidemill.serving.query import DEFAULT_PRIORITY, FIRST_PRIORITY, LAST_PRIORITY, Query
from tidemill.serving.replicas.replica import Done, Replica

pytestmark = pytest.mark.alone  # milliseconds of the real clock decide


class Slow:
    """A replica that answers x → 10·x after a delay; a row of 13 spoils its batch."""

    on_loop = False

    def __init__(self, delay_s: float = 0.001, capacity: int = 1) -> None:
        self.delay_s = delay_s
        self.capacity = capacity
        self.in_flight = 0
        self.alive = True
        self.name = "slow"
        self.sizes: list[int] = []
        self._out: list[tuple[asyncio.TimerHandle, Done]] = []

    async def start(self) -> None:
        """Nothing to load."""

    def submit(self, batch: Batch, done: Done) -> None:
        self.in_flight += 1
        self.sizes.append(len(batch["x"]))
        result: Batch | TidemillError = {"y": batch["x"] * 10}
        if (batch["x"] == 13).any():
            result = InvalidInput("13 is refused", remedy="Send another number.")

        def land() -> None:
            self.in_flight -= 1
            done(result)

        timer = asyncio.get_running_loop().call_later(self.delay_s, land)
        self._out.append((timer, done))

    def kill(self) -> None:
        self.alive = False
        self.in_flight = 0
        for timer, done in self._out:
            if not timer.cancelled() and timer.when() > asyncio.get_running_loop().time():
                timer.cancel()
                done(WorkerLost("killed"))

    def collect(self) -> None:
        """Leaves it to the loop."""

    async def aclose(self) -> None:
        """Nothing to give back."""


class Observed:
    """What the batcher says of its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, float]] = []
        self.returned: list[tuple[int, float]] = []
        self.overdue: list[int] = []

    def sent(self, flight: Any, waited_s: float) -> None:
        self.batches.append((flight.rows, len(flight.queries), waited_s))

    def landed(self, flight: Any, now: float) -> None:
        self.returned.append((len(flight.queries), now - flight.started))

    def hedged(self, flight: Any) -> None:
        self.overdue.append(len(flight.queries))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


class World:
    """A batcher over replicas, and everything that it ended."""

    def __init__(self, *replicas: Replica, max_batch: int = 8, max_queue: int = 1000) -> None:
        self.ended: list[Query] = []
        self.observed = Observed()
        self.batcher = Batcher(
            clock=SYSTEM_CLOCK,
            max_batch=max_batch,
            max_queue=max_queue,
            max_queue_bytes=1 << 20,
            finish=self.finish,
            observer=self.observed,
        )
        self.batcher.set_replicas(replicas)

    def finish(self, query: Query) -> None:
        assert not query.ended
        query.ended = True
        self.ended.append(query)

    def ask(self, *values: int, allowed_s: float = 5.0, priority: int = DEFAULT_PRIORITY) -> Query:
        now = SYSTEM_CLOCK.monotonic()
        query = Query(
            inputs={"x": np.array(values)},
            n=len(values),
            arrived=now,
            deadline=now + allowed_s,
            done=lambda _: None,
        )
        query.nbytes = 8 * len(values)
        query.priority = priority
        self.batcher.offer(query)
        return query


def test_every_query_gets_its_own_answer() -> None:
    """Mixed sizes, many batches, several replicas: no answer goes to another's query."""

    async def main() -> None:
        world = World(Slow(), Slow(0.002, capacity=2))
        rng = random.Random(3)
        asked = []
        for i in range(200):
            asked.append(world.ask(*(rng.randint(100, 999) for _ in range(rng.randint(1, 5)))))
            if i % 7 == 0:
                await asyncio.sleep(0.001)
        await world.batcher.emptied()
        assert len(world.ended) == 200
        for query in asked:
            assert (query.outputs["y"] == query.inputs["x"] * 10).all()

    run(main())


def test_what_arrives_in_one_turn_is_one_batch() -> None:
    """Queries of one turn of the loop go together, at once, up to the limit."""

    async def main() -> None:
        replica = Slow()
        world = World(replica, max_batch=8)
        for value in range(12):
            world.ask(value)
        await world.batcher.emptied()
        assert replica.sizes == [8, 4]
        assert [(rows, queries) for rows, queries, _ in world.observed.batches] == [(8, 8), (4, 4)]
        assert all(waited_s > 0.0 for *_, waited_s in world.observed.batches)
        assert [queries for queries, _ in world.observed.returned] == [8, 4]

    run(main())


def test_those_who_ask_one_after_the_other_share_a_batch() -> None:
    """A dozen clients, each asking again shortly after its answer, pay the fixed part together."""

    async def main() -> None:
        replica = Slow(0.02)
        world = World(replica, max_batch=16)
        loop = asyncio.get_running_loop()
        asked = 0

        def again(query: Query) -> None:
            nonlocal asked
            world.ended.append(query)
            query.ended = True
            if asked < 12 * 15:
                asked += 1
                loop.call_later(0.0002 * (asked % 12), world.ask, 100 + asked)

        world.batcher._finish = again
        for _ in range(12):
            world.ask(0)
            await asyncio.sleep(0.0002)
        while len(world.ended) < 12 * 16:
            await asyncio.sleep(0.005)
        assert len(replica.sizes) < 12 * 16 / 8, replica.sizes

    run(main())


def test_a_lonely_query_is_not_held() -> None:
    """Where rows come seldom, the first one goes at once."""

    async def main() -> None:
        world = World(Slow(0.01), max_batch=16)
        for _ in range(5):
            world.ask(1)
            await world.batcher.emptied()
            await asyncio.sleep(0.01)
        assert all(waited_s < 0.0024 for *_, waited_s in world.observed.batches)

    run(main())


class Computing:
    """A replica that computes while it is asked, as one in the gateway does: 2 ms a row."""

    name = "gateway"
    on_loop = True
    alive = True
    capacity = 1
    in_flight = 0

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def start(self) -> None:
        """Loaded already."""

    def submit(self, batch: Batch, done: Done) -> None:
        self.sizes.append(len(batch["x"]))
        time.sleep(0.002 * len(batch["x"]))
        done({"y": batch["x"] * 10})

    def collect(self) -> None:
        """Has nothing out."""

    async def aclose(self) -> None:
        """Nothing to give back."""


def test_a_queue_that_computes_on_the_loop_lets_others_have_their_turns() -> None:
    """Its batches stay short, from the first one on, and the loop turns between them."""

    async def main() -> None:
        replica = Computing()
        world = World(replica, max_batch=64)
        asked = [world.ask(value) for value in range(24)]
        turns = 0
        while world.batcher.queued_rows:
            turns += 1
            await asyncio.sleep(0)
        assert replica.sizes[0] == 1
        assert max(replica.sizes) <= 16
        assert turns >= 3
        assert [int(query.outputs["y"][0]) for query in asked] == [10 * v for v in range(24)]

    run(main())


def test_one_turn_of_a_queue_is_due_however_often_it_catches_up() -> None:
    """Turns that were taken early are not taken again: others would wait for them."""

    async def main() -> None:
        replica = Computing()
        world = World(replica, max_batch=64)
        for value in range(30):
            world.ask(value)
        for _ in range(3):
            world.batcher.catch_up()
        before = len(replica.sizes)
        await asyncio.sleep(0)
        assert len(replica.sizes) - before <= 1
        await world.batcher.emptied()

    run(main())


def test_one_bad_row_spoils_only_its_own_query() -> None:
    """A failed batch is tried apart; the others in it are answered."""

    async def main() -> None:
        world = World(Slow())
        asked = [world.ask(value) for value in (1, 13, 3)]
        await world.batcher.emptied()
        assert [query.error is None for query in asked] == [True, False, True]
        assert isinstance(asked[1].error, InvalidInput)

    run(main())


def test_a_lost_batch_is_tried_on_another_replica() -> None:
    """The queries of a replica that dies are answered by the next, within their deadline."""

    async def main() -> None:
        dying, healthy = Slow(1.0), Slow(0.001)
        world = World(dying)
        asked = [world.ask(value) for value in (1, 2)]
        await asyncio.sleep(0.01)
        world.batcher.set_replicas([dying, healthy])
        dying.kill()
        await world.batcher.emptied()
        assert [query.outputs["y"].tolist() for query in asked] == [[10], [20]]

    run(main())


def test_an_overdue_batch_is_asked_of_another_replica_too() -> None:
    """One that hangs costs no answer, gets nothing more meanwhile, and its late answer is none."""

    async def main() -> None:
        first, second = Slow(0.002), Slow(0.002)
        world = World(first, second)
        for value in range(40):
            world.ask(value + 20)
            await asyncio.sleep(0.005)
        await world.batcher.emptied()
        world.ended.clear()
        world.observed.overdue.clear()
        first.delay_s = 1.0
        asked = [world.ask(7, allowed_s=0.9)]
        await asyncio.sleep(0.001)
        asked.append(world.ask(8, allowed_s=0.9))
        hung = len(first.sizes)
        async with asyncio.timeout(0.9):
            while len(world.ended) < 2:
                await asyncio.sleep(0.005)
        assert [query.outputs["y"].tolist() for query in asked] == [[70], [80]]
        assert sum(world.observed.overdue) == sum(query.hedged for query in asked) > 0
        for value in range(5):
            query = world.ask(value + 20, allowed_s=5.0)
            while not query.ended:
                await asyncio.sleep(0.002)
        assert len(first.sizes) <= hung + 1
        assert world.batcher.queued_rows == 0
        await world.batcher.emptied()
        assert len(world.ended) == 7  # each ended once

    run(main())


def test_a_hedged_query_of_high_priority_that_is_answered_after_all_leaves_an_empty_queue() -> None:
    """It waits for the other replica, is answered by the first, and nothing is left behind."""

    async def main() -> None:
        first, second = Slow(0.002), Slow(0.002)
        world = World(first, second)
        for value in range(20):
            world.ask(value + 20)
            await asyncio.sleep(0.005)
        await world.batcher.emptied()
        world.ended.clear()
        first.delay_s, second.delay_s = 0.15, 0.3
        urgent = world.ask(7, priority=FIRST_PRIORITY)
        await asyncio.sleep(0.01)
        world.ask(8)
        async with asyncio.timeout(2.0):
            while not urgent.hedged or not urgent.ended:
                await asyncio.sleep(0.002)
            await world.batcher.emptied()
        assert urgent.outputs["y"].tolist() == [70]
        assert len(world.ended) == 2
        assert world.batcher.queued_rows == world.batcher.queued_bytes == 0

    run(main())


def test_a_hedged_query_whose_replicas_all_die_ends_once() -> None:
    """Wherever it is, it is not forgotten: it is tried again, or ends as lost."""

    async def main() -> None:
        first, second = Slow(0.002), Slow(0.002)
        world = World(first, second)
        for value in range(20):
            world.ask(value + 20)
            await asyncio.sleep(0.005)
        await world.batcher.emptied()
        world.ended.clear()
        first.delay_s = second.delay_s = 2.0
        query = world.ask(7, allowed_s=1.0)
        async with asyncio.timeout(1.0):
            while not (first.in_flight and second.in_flight):
                await asyncio.sleep(0.005)
        first.kill()
        assert not query.ended
        second.kill()
        async with asyncio.timeout(5.0):
            while not query.ended:
                await asyncio.sleep(0.01)
        assert isinstance(query.error, WorkerLost | NotReady | DeadlineExceeded)
        assert world.ended == [query]

    run(main())


def test_without_a_live_replica_a_query_waits_for_its_deadline_and_says_why() -> None:
    """Nobody alive: not an endless wait and not a silent loss, but NotReady in time."""

    async def main() -> None:
        dead = Slow()
        dead.alive = False
        world = World(dead)
        query = world.ask(1, allowed_s=0.05)
        await asyncio.sleep(0.1)
        assert isinstance(query.error, NotReady)

    run(main())


def test_a_deadline_passes_while_the_batch_is_out() -> None:
    """A query whose replica is too slow ends at its deadline, once; the late answer is dropped."""

    async def main() -> None:
        world = World(Slow(0.15))
        query = world.ask(1, allowed_s=0.03)
        await asyncio.sleep(0.08)
        assert isinstance(query.error, DeadlineExceeded)
        await world.batcher.emptied()
        assert len(world.ended) == 1

    run(main())


def test_a_full_queue_refuses() -> None:
    """Rows over the bound are refused, typed, and nothing that waits is lost."""

    async def main() -> None:
        world = World(Slow(0.01), max_queue=4)
        for value in range(4):
            world.ask(value)
        with pytest.raises(Overloaded, match="4 may"):
            world.ask(9)
        await world.batcher.emptied()
        assert len(world.ended) == 4

    run(main())


def test_what_cannot_be_met_is_refused_on_arrival() -> None:
    """Once batches are known to take 50 ms, a query with 20 ms is refused at once."""

    async def main() -> None:
        world = World(Slow(0.05))
        world.ask(1)
        await world.batcher.emptied()
        with pytest.raises(DeadlineExceeded):
            world.ask(1, allowed_s=0.02)

    run(main())


def test_the_earliest_deadline_goes_first() -> None:
    """Who has less time is served before who came first."""

    async def main() -> None:
        world = World(Slow(), max_batch=1)
        patient = world.ask(1, allowed_s=5.0)
        urgent = world.ask(2, allowed_s=1.0)
        await world.batcher.emptied()
        assert world.ended == [urgent, patient]

    run(main())


def test_a_higher_priority_goes_first_and_of_one_priority_the_earliest_deadline() -> None:
    """The queue is in order of priority, then of deadline; nobody is lost or answered twice."""

    async def main() -> None:
        replica = Slow(0.02)
        world = World(replica, max_batch=1)
        world.ask(0)
        await asyncio.sleep(0.005)  # it is out: what comes now waits
        late = world.ask(1, priority=LAST_PRIORITY)
        plain = world.ask(2, allowed_s=4.0)
        sooner = world.ask(3, allowed_s=3.0)
        first = world.ask(4, priority=FIRST_PRIORITY)
        await world.batcher.emptied()
        assert world.ended[1:] == [first, sooner, plain, late]
        world.ask(5)
        world.ask(6, allowed_s=1.0)
        await world.batcher.emptied()
        assert [query.inputs["x"].tolist() for query in world.ended[5:]] == [[6], [5]]

    run(main())


def test_who_waits_behind_a_higher_priority_is_told_at_its_deadline() -> None:
    """A query of low priority whose time is up ends then, wherever in the queue it stands."""

    async def main() -> None:
        world = World(Slow(0.1), max_batch=1)
        world.ask(0)
        await asyncio.sleep(0.005)
        urgent = world.ask(1, priority=FIRST_PRIORITY)
        began = SYSTEM_CLOCK.monotonic()
        starved = world.ask(2, priority=LAST_PRIORITY, allowed_s=0.03)
        while not starved.ended:
            await asyncio.sleep(0.001)
        assert isinstance(starved.error, DeadlineExceeded)
        assert SYSTEM_CLOCK.monotonic() - began < 0.1
        await world.batcher.emptied()
        assert urgent.error is None

    run(main())


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 9)), min_size=1, max_size=20),
    st.floats(0.0, 0.1),
    st.floats(0.0, 0.02),
)
def test_a_batch_ends_before_the_earliest_deadline_in_it(
    head: list[tuple[float, int]], a_s: float, b_s: float
) -> None:
    """In whatever order queries wait, no query is taken into a batch that ends after its time."""
    law = ServiceTime(a_s=a_s, b_s=b_s, weight=1.0)
    deadlines, rows = [each[0] for each in head], [each[1] for each in head]
    decision = cut(deadlines, rows, now=0.0, law=law, max_batch=16)
    taken = slice(decision.late, decision.late + decision.take)
    total = sum(rows[taken])
    assert decision.take == 1 or total <= 16
    assert all(law.predict(total) <= deadline for deadline in deadlines[taken])
    best = total / law.expect(total) if decision.take and a_s > 0.0 else 0.0
    assert all(law.expect(n) > d or n / law.expect(n) < best for d, n in head[: decision.late])


@given(
    queued=st.integers(0, 200),
    rows=st.integers(1, 64),
    replicas=st.integers(1, 4),
    out=st.integers(1, 2),
    law=st.builds(
        ServiceTime,
        a_s=st.floats(0.0, 0.1),
        b_s=st.floats(0.0, 0.02),
        spread_s=st.floats(0.0, 0.05),
        weight=st.just(1.0),
    ),
)
def test_ample_time_is_enough(
    queued: int, rows: int, replicas: int, out: int, law: ServiceTime
) -> None:
    """What is admitted by the short way would be admitted by the long one."""
    at = answered_at(
        rows,
        now=0.0,
        queued_rows=min(queued, 64 - rows),
        busy_s=out * replicas * remaining_s(law, 64, 0.0),
        replicas=replicas,
        law=law,
        max_batch=64,
    )
    assert at <= ample_s(law, 64, out) + 1e-9


def test_who_cannot_be_admitted_need_not_be_read() -> None:
    """After a refusal the queue says until when others would be refused, and then takes them."""

    async def main() -> None:
        world = World(Slow(0.02), max_batch=4)
        for _ in range(6):  # it learns what a batch takes
            world.ask(1)
            await world.batcher.emptied()
        world.ask(1, 2, 3, 4)
        await asyncio.sleep(0)  # a batch is out
        with pytest.raises(DeadlineExceeded):
            world.ask(1, allowed_s=0.03)
        now = SYSTEM_CLOCK.monotonic()
        assert now < world.batcher.closed_until < now + 0.02
        assert world.batcher.closed_for_s == pytest.approx(0.03)
        await asyncio.sleep(world.batcher.closed_until - now + 0.001)
        world.ask(1, allowed_s=0.03)
        await world.batcher.emptied()
        assert world.ended[-1].error is None

    run(main())
