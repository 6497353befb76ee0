"""The actor that carries the batching law out: one queue per model version, event-driven.

Who has a higher priority goes first; of one priority, who must be answered earliest.

A turn of the event loop is a batch: what arrived since the last turn goes together, at once when a
replica is idle; while all are busy the batch grows. Where the fixed part of a batch is long, it may
be held for a moment, so that those who ask one shortly after the other go together. One timer per
queue watches the earliest deadline of all that waits or is out. Where batches are computed on the
loop itself, they are kept short, and a queue that has had its slice of the loop lets the others
have theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import NotReady, TidemillError, WorkerLost
from tidemill.foundation.logs import log
from tidemill.models.signature import Batch
from tidemill.serving.batching import (
    HELD_FROM_S,
    SLICE_S,
    Arrivals,
    ServiceTime,
    Slowdown,
    Telling,
    ample_s,
    answered_at,
    cut,
    doubt_after_s,
    fewest_rows,
    fills,
    held_until,
    most_rows,
    rows_at_once,
)
from tidemill.serving.crew import Crew
from tidemill.serving.flight import BatchObserver, Flight, Gathering
from tidemill.serving.joining import join, together, wrong_rows
from tidemill.serving.query import DEFAULT_PRIORITY, Answers, Query
from tidemill.serving.replicas.replica import Replica
from tidemill.serving.unanswered import full_queue, impossible, ms, too_late
from tidemill.serving.waiting import Waiting

MAX_ATTEMPTS = 2
"""A query is sent again once after its replica died or its batch failed."""


class Batcher:
    """Queues queries by deadline, sends batches to replicas, ends every query exactly once.

    Args:
        clock: where deadlines come from.
        max_batch: rows in one batch, at most.
        max_queue: rows that may wait, at most; one more is refused with ``Overloaded``.
        max_queue_bytes: bytes of input that may wait, at most.
        finish: told of each query with its outputs or its error set.
        observer: told of each batch.
        turned: called after a turn in which batches were computed on the loop: their answers need
            not wait until more is read.
        landed: called with this when a batch has come back; whoever is, calls ``told`` once the
            answers are on their way.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        max_batch: int,
        max_queue: int,
        max_queue_bytes: int,
        finish: Callable[[Query], None],
        observer: BatchObserver,
        turned: Callable[[], None] | None = None,
        landed: Callable[[Batcher], None] | None = None,
    ) -> None:
        self._clock = clock
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._finish = finish
        self._observer = observer
        self._turned = turned
        self._tells = landed
        self._telling = Telling()
        self._untold_since = 0.0
        self._queue = Waiting()
        self._crew = Crew()
        self._learned_at = 0.0
        self._scheduled = False
        self._due: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._emptied: asyncio.Event | None = None
        self._grown = 1
        self._hedged = False  # the queue may hold queries that are with a doubted replica, too
        self._slowdown = Slowdown()
        self._arrivals = Arrivals()
        self._sent_at = 0.0
        self._held_until = float("inf")
        self.closed_until = 0.0
        self.closed_for_s = 0.0
        self._model = ServiceTime()
        self._fewest = max_batch
        self._know(ServiceTime())

    @property
    def queued_rows(self) -> int:
        """How many rows wait."""
        return self._queue.rows

    @property
    def queued_bytes(self) -> int:
        """How many bytes of input wait."""
        return self._queue.nbytes

    @property
    def batches_out(self) -> int:
        """How many batches are with replicas."""
        return len(self._crew.out)

    @property
    def _fixed_s(self) -> float:
        """How long a batch takes whatever its rows, as far as that can be told.

        The time until it is back knows less of that: a gateway that has much to do sees it late.
        """
        return self._model.a_s if self._model.weight else self.law.a_s

    @property
    def _is_empty(self) -> bool:
        return not (self._queue.queries or self._crew.out) and self._queue.joined is None

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas that take this version's batches."""
        return self._crew.replicas

    def set_replicas(self, replicas: Sequence[Replica]) -> None:
        """Changes who takes batches; what is out stays where it is."""
        self._crew.change(replicas)
        self._know(self.law)
        self.wake()

    def offer(self, query: Query) -> None:
        """Takes a query, or says at once why not.

        Raises:
            Overloaded: the queue is full, by rows or by bytes.
            DeadlineExceeded: it could not be answered in time.
        """
        queue, waiting = self._queue, self._queue.queries
        if queue.joined is not None and queue.must_part(query, self._most):
            queue.part()
        if (
            queue.rows + query.n <= self._ample_rows
            and queue.nbytes + query.nbytes <= self._max_queue_bytes
            and self._crew.usual
            and query.deadline - query.arrived - query.unseen_s >= self._ample_s
            and query.priority == DEFAULT_PRIORITY
            and not queue.ranked
            and (not waiting or waiting[-1].deadline <= query.deadline)
        ):
            queue.append(query)
            if not self._scheduled:
                self.wake()
            return
        self._admit(query)
        queue.put(query)
        self.wake()

    def offer_row(self, rows: Gathering, nbytes: int, deadline: float, allowed_s: float) -> bool:
        """Counts one more row among those that go together; says whether it may.

        It may in the usual state of a queue: if not, ``offer`` it.

        Args:
            rows: those that were counted, and are taken once they go, or each goes its own way.
            nbytes: of the row's request.
            deadline: no earlier than that of the row before.
            allowed_s: how long it may still take.
        """
        queue = self._queue
        if queue.queries or queue.nbytes + nbytes > self._max_queue_bytes:
            return False
        usual = queue.rows < self._ample_rows and self._crew.usual and allowed_s >= self._ample_s
        if not usual and (self._crew.on_loop or not self._admits_row(deadline, allowed_s)):
            return False
        if queue.joined is None:
            if not self._crew.replicas or (self._crew.on_loop and self._crew.out):
                return False
        elif queue.joined is not rows or deadline < queue.joined_until:
            return False
        queue.join(rows, nbytes, deadline)
        if not self._scheduled:
            self.wake()
        return True

    def _admits_row(self, deadline: float, allowed_s: float) -> bool:
        """Says whether one more row may wait behind more than a batch; see ``_admit``."""
        if self._queue.rows >= self._max_queue:
            return False
        ends = self._answered_at(1, deadline - allowed_s, self._queue.rows)
        return ends <= deadline - self._telling.takes_s(allowed_s)

    def _admit(self, query: Query) -> None:
        if self._queue.rows + query.n > self._max_queue and self._queue.rows:
            raise full_queue("rows", self._queue.rows, self._max_queue)
        if self._queue.nbytes + query.nbytes > self._max_queue_bytes and self._queue.rows:
            nbytes, most = self._queue.nbytes, self._max_queue_bytes
            raise full_queue("bytes", nbytes, most, smaller="or smaller ")
        late_s = self._late_s(query)
        if late_s > 0.0 and self._doubt():
            late_s = self._late_s(query)
        if late_s > 0.0:
            self._close(query, late_s)
            raise impossible(
                query.deadline - query.arrived,
                self._queue.rows,
                most=self._most,
                batch_s=self.law.predict(self._most),
            )

    async def emptied(self) -> None:
        """Returns when nothing waits and nothing is out."""
        if not self._is_empty:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def _close(self, query: Query, late_s: float) -> None:
        """Notes until when nobody can be admitted who has no more time than this query has.

        What is ahead of them is worked off no faster than time goes by. Where priorities are used,
        somebody may still go first.
        """
        if query.n == 1 and not self._queue.ranks:
            self.closed_until = query.arrived + late_s
            self.closed_for_s = query.deadline - query.arrived

    def _late_s(self, query: Query) -> float:
        """Returns how long after its deadline a query would be answered."""
        queued_rows, now = self._queue.rows_before(query.priority), query.arrived + query.unseen_s
        return self._answered_at(query.n, now, queued_rows) - self._due_at(query)

    def _answered_at(self, rows: int, now: float, queued_rows: int) -> float:
        """Returns when rows that come now will probably be answered, behind so many that wait."""
        return answered_at(
            rows,
            now=now,
            queued_rows=queued_rows,
            busy_s=self._crew.busy_s(self.law, self._clock.monotonic()),
            replicas=self._crew.trusted,
            law=self.law,
            max_batch=self._most,
            slowdown=self._slowdown.factor,
        )

    def _due_at(self, query: Query) -> float:
        """Returns when a query's batch must be back, so that its client is told in time."""
        return query.deadline - self._telling.takes_s(query.deadline - query.arrived)

    def _doubt(self) -> bool:
        """Forgets a law that is about to refuse a query and is out of date; says whether.

        What refuses everything is never proved wrong: after a while without a batch, the next
        query finds out how things are now.
        """
        if self.law.weight == 0.0 or not self.doubtful(self._clock.monotonic()):
            return False
        self._know(ServiceTime())
        self.closed_until = 0.0  # that it is closed was learned of this law, too
        return True

    def doubtful(self, now: float) -> bool:
        """Says whether what was learned is too old to refuse anybody for: it has to be tried."""
        return not self._crew.out and now - self._learned_at >= doubt_after_s(self.law)

    def _know(self, law: ServiceTime) -> None:
        self.law = law
        self._most = self._max_batch
        if self._crew.on_loop:
            self._most = most_rows(law, min(self._grown, self._max_batch))
        self._ample_rows = min(self._most, self._max_queue)
        self._ample_s = (
            self._slowdown.factor * ample_s(law, self._most, self._crew.usual_out)
            + self._telling.most_s
        )

    def wake(self) -> None:
        """Looks at the queue at the end of this turn: something may go out now."""
        if not self._scheduled:
            self._scheduled = True
            self._due = asyncio.get_running_loop().call_soon(self._due_turn)

    def catch_up(self) -> None:
        """Takes what has come back by now, and has the turn that is due at once."""
        for replica in self._crew.replicas:
            if replica.in_flight:
                replica.collect()
        if self._scheduled and self._due is not None:
            self._due.cancel()  # or there would be two turns where one was due
            self._turn()

    def _turn(self) -> None:
        self._scheduled = False
        may_hold = self._held_until > 0.0 and self._fixed_s >= HELD_FROM_S
        self._held_until = float("inf")
        began = now = self._clock.monotonic()
        if self._hedged:
            self._queue.drop_ended()
            self._hedged = bool(self._queue.queries)
        if self._queue.joined is not None:
            self._turn_together(now, may_hold=may_hold)
            now = self._clock.monotonic()
        if self._queue.joined is None:
            self._send_due(began, now, may_hold=may_hold)
        self._settle()

    def _send_due(self, began: float, now: float, *, may_hold: bool) -> None:
        """Sends what waits, as far as replicas are free and others need not have their turn."""
        while self._queue.queries:
            if now - began > SLICE_S:
                self.wake()  # the others first
                break
            replica = self._crew.free(self._queue.rows, self._fewest)
            if replica is None or (may_hold and self._holds_queries(replica, now)):
                break
            busy = replica.in_flight > 0
            most = rows_at_once(self._queue.rows, replica.in_flight, self._fewest, self._most)
            head = self._queue.queries[:most]
            decision = cut(
                [self._due_at(query) for query in head],
                [query.n for query in head],
                now=self._crew.begins_at(replica, self.law, now) if busy else now,
                law=self.law,
                max_batch=most,
            )
            rows = sum([query.n for query in head[: decision.take]])
            if busy and (decision.late or not fills(rows, self._fewest, self._most)):
                break  # nobody is given up for a batch that has to wait
            if decision.late and self._doubt():
                continue
            for query in self._queue.take(decision.late):
                if not (query.hedged and self._has(query)):
                    self._end_late(query)
            if decision.take:
                self._send(
                    replica, self._queue.take(together(self._queue.queries[: decision.take]))
                )
            if self._queue.queries:
                now = self._clock.monotonic()

    def _turn_together(self, now: float, *, may_hold: bool) -> None:
        """Sends what is asked together, as far as replicas are free and all of it is in time."""
        queue = self._queue
        while (joined := queue.joined) is not None:
            replica = self._crew.free(self._queue.rows, self._fewest)
            if replica is None:
                if self._crew.on_loop:
                    queue.part()
                return
            due, begins_at = joined.earliest, self._crew.begins_at(replica, self.law, now)
            due -= self._telling.takes_s(due - joined.first)
            if may_hold and self._holds(replica, now, joined.arrived, due):
                return
            most = rows_at_once(queue.rows, replica.in_flight, self._fewest, self._most)
            rows = min(queue.joined_rows, most)
            late = begins_at + self.law.predict(rows) > due
            if late or (self._crew.on_loop and rows < queue.joined_rows):
                if not replica.in_flight:
                    queue.part()  # not the usual case of ``cut``
                return
            asked = queue.take_joined(rows)
            inputs = asked.inputs()
            if inputs is None:
                queue.part(asked)
                return
            now = self._clock.monotonic()
            waited_s = now * rows - sum(asked.arrived)
            flight = Flight((), rows, replica, now, asked)
            flight.inputs = inputs
            self._begin(flight, waited_s)

    def _due_turn(self) -> None:
        self._turn()
        if self._crew.on_loop and self._turned is not None:
            self._turned()

    def _holds_queries(self, replica: Replica, now: float) -> bool:
        queries = self._queue.queries
        due = min([self._due_at(query) for query in queries])
        return self._holds(replica, now, [query.arrived for query in queries], due)

    def _holds(self, replica: Replica, now: float, arrived: Sequence[float], due: float) -> bool:
        """Says whether more rows may join those that wait before an idle replica gets them."""
        if self._crew.on_loop or replica.in_flight:
            return False
        until = held_until(
            law=self.law,
            fixed_s=self._fixed_s,
            rate_rps=self._arrivals.rate_rps,
            queued_rows=self._queue.rows,
            max_batch=self._most,
            idle_since=max(self._learned_at, min(arrived)),
            newest=max(arrived),
            deadline=due,
        )
        if until <= now:
            return False
        self._held_until = until
        return True

    def _send(self, replica: Replica, queries: list[Query]) -> None:
        now = self._clock.monotonic()
        rows = sum([query.n for query in queries])
        waited_s = now * len(queries) - sum([query.arrived for query in queries])
        self._begin(Flight(queries, rows, replica, now), waited_s)

    def _begin(self, flight: Flight, waited_s: float) -> None:
        now, rows = flight.started, flight.rows
        # A long silence says no more than a short one, and is sooner forgotten.
        self._arrivals.update(rows, min(now - self._sent_at, 4.0 * self._fixed_s))
        self._sent_at = now
        self._crew.out.append(flight)
        self._observer.sent(flight, waited_s)
        try:
            if flight.together is None:
                flight.inputs = join(flight.queries)
            flight.replica.submit(flight.inputs, partial(self._landed, flight))
        except Exception as error:
            if flight not in self._crew.out:
                raise
            # Nobody would ever end these queries, nor this flight.
            log("serving.batcher").exception("batch.not_sent", rows=rows)
            what = f"a batch could not be given to the model: {type(error).__name__}: {error}"
            self._landed(flight, NotReady(what, remedy="Retry in a moment."))

    def _landed(self, flight: Flight, result: Batch | TidemillError, took_s: float = 0.0) -> None:
        self._crew.landed(flight)
        if not flight.replica.on_loop:  # else this turn goes on
            self.wake()  # the replica need not wait until clients have been told
        if isinstance(result, TidemillError):
            flight.part()
            flight.note().returned = self._clock.monotonic()
        if isinstance(result, WorkerLost):
            self._again(flight, result)
        elif isinstance(result, TidemillError):
            self._apart(flight, result)
        else:
            self._learn(flight, took_s)
            wrong = wrong_rows(result, flight.rows)
            if wrong is None:
                self._deal(flight, result)
            else:
                flight.part()
                flight.note()
                self._apart(flight, wrong)

    def told(self) -> None:
        """Learns how long it took to tell those whose batch had come back."""
        self._telling.update(self._clock.monotonic() - self._untold_since)
        self._untold_since = 0.0

    def _learn(self, flight: Flight, took_s: float) -> None:
        now = self._clock.monotonic()
        since = self._crew.since(flight)
        self._crew.freed(flight.replica, now)
        if self._crew.on_loop:
            waits = bool(self._queue.queries)
            self._slowdown.follow(now - since, now - self._learned_at, waits=waits)
            if flight.rows >= self._grown:  # it is known now what so many take: dare twice that
                self._grown = 2 * flight.rows
        self._learned_at = now
        if took_s > 0.0:
            self._model = self._model.update(flight.rows, took_s)
            self._fewest = fewest_rows(self._model, self._max_batch)
        self._know(self.law.update(flight.rows, now - since))
        self._observer.landed(flight, now)

    def _deal(self, flight: Flight, outputs: Batch) -> None:
        answers, start, finish = Answers(flight.inputs, outputs), 0, self._finish
        together, tells = flight.together, None if self._crew.on_loop else self._tells
        awaited = together is not None or not all(query.ended for query in flight.queries)
        if tells is not None and awaited and not self._untold_since:
            self._untold_since = self._learned_at
            tells(self)
        if together is not None:
            together.answered(answers)
            return
        for query in flight.queries:
            if not query.ended:
                query.answers, query.start = answers, start
                finish(query)
            start += query.n

    def _again(self, flight: Flight, error: TidemillError) -> None:
        """Queues a lost batch's queries again, for another replica or the restarted one."""
        self._queue.part()  # they have waited for longer than what may wait together
        for query in flight.queries:
            query.attempts += 1
            if query.ended or (query.hedged and self._has(query)):
                continue
            if query.attempts >= MAX_ATTEMPTS:
                self._fail(query, error)
            else:
                self._queue.put(query)

    def _has(self, query: Query) -> bool:
        """Says whether a query waits, or is out, once more."""
        return query in self._queue.queries or any(
            query in flight.queries for flight in self._crew.out
        )

    def _doubt_overdue(self, now: float) -> None:
        """Asks another replica, too, where a batch is overdue; the first answer counts."""
        for flight in self._crew.oldest():
            if self._crew.overdue_at(flight, self.law) > now:
                continue
            doubted = self._crew.doubt(flight)
            if not doubted:
                continue
            name, out_ms = flight.replica.name, ms(now - flight.started)
            log("serving.batcher").warning("replica.overdue", replica=name, out_ms=out_ms)
            for each in doubted:
                self._hedge(each)
            self.wake()

    def _hedge(self, flight: Flight) -> None:
        """Queues what a batch asks once more, unless it is queued already."""
        flight.part()
        self._queue.part()
        again = [query for query in flight.queries if not query.ended and not query.hedged]
        for query in again:
            query.hedged = self._hedged = True
            self._queue.put(query)
        if again:
            self._observer.hedged(flight)

    def _apart(self, flight: Flight, error: TidemillError) -> None:
        """Sends a failed batch's queries one by one, so that one bad row spoils only its own."""
        if len(flight.queries) == 1:
            self._fail(flight.queries[0], error)
            return
        for query in flight.queries:
            if not query.ended:
                self._send(flight.replica, [query])

    def _end_late(self, query: Query) -> None:
        waited_s = self._clock.monotonic() - query.arrived
        if self._crew.replicas and not any(replica.alive for replica in self._crew.replicas):
            what = f"no replica was alive for {ms(waited_s)} ms"
            self._fail(query, NotReady(what, remedy="Retry in a moment."))
        else:
            self._fail(query, too_late(query.deadline - query.arrived, waited_s))

    def _fail(self, query: Query, error: TidemillError) -> None:
        if not query.ended:
            query.error = error
            self._finish(query)

    def _settle(self) -> None:
        """Arms the timer for the earliest deadline, or says that nothing is left."""
        earliest = min(self._queue.earliest, self._held_until)
        for flight in self._crew.out:
            earliest = min(earliest, flight.earliest)
        for flight in self._crew.oldest():
            earliest = min(earliest, self._crew.overdue_at(flight, self.law))
        if earliest < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            delay = max(0.0, earliest - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)
            self._timer_at = earliest
        if self._emptied is not None and self._is_empty:
            self._emptied.set()

    def _expire(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now = self._clock.monotonic() + 0.0005
        if self._queue.earliest <= now:
            self._queue.part()
        for query in self._queue.take_late(now):
            self._end_late(query)
        for flight in self._crew.out:
            if flight.earliest <= now:
                flight.part()
            for query in flight.queries:
                if not query.ended and query.deadline <= now:
                    flight.note()
                    self._end_late(query)
        self._doubt_overdue(now)
        if self._held_until <= now:
            self._held_until = 0.0  # long enough: whatever waits goes now
            self.wake()
        else:
            self._settle()
