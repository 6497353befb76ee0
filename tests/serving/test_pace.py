"""How long requests waited before the gateway saw them, and what it does about that."""

from __future__ import annotations

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from tidemill.foundation.clock import SYSTEM_CLOCK, FakeClock
from tidemill.foundation.errors import DeadlineExceeded, TidemillError
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Column, Signature
from tidemill.serving.application import Application
from tidemill.serving.batching import SLICE_S, UNSEEN_FROM_S, Patience, unseen_wait_s
from tidemill.serving.dataplane import DataPlane
from tidemill.serving.exchange import Exchange, Head, Load
from tidemill.serving.pace import ANSWERED_FOR_S, Pace


@pytest.mark.parametrize(
    ("worked_until", "again", "wait_s"),
    [
        (0.9, True, 0.0),  # the loop had nothing to do for 100 ms: it came just now
        (1.0, True, 0.25),  # one turn after the other: as long ago as the reading before
        (1.0, False, 0.125),  # a single stall: at any time in it
    ],
)
def test_what_waited_unseen(*, worked_until: float, again: bool, wait_s: float) -> None:
    """The wait is that since the last reading, if the loop was busy all the time."""
    found = unseen_wait_s(now=1.0, read_at=0.75, worked_until=worked_until, again=again)
    assert found == pytest.approx(wait_s)


def test_patience_ends_sooner_under_a_load_that_lasts() -> None:
    """After a stall all of the SLO may pass; once that is over and the wait is not, half of it."""
    patience = Patience(slo_s=0.02)
    for turn in range(3):
        patience.update(1.0 + 0.009 * turn, waited_s=0.01)
        assert patience.left_s == 0.02
    patience.update(1.027, waited_s=0.01)
    assert patience.left_s == pytest.approx(0.01)
    patience.update(1.036, waited_s=0.001)  # somebody waited for next to nothing: it is over
    assert patience.left_s == 0.02


def test_what_was_long_ago_tries_nobody_s_patience() -> None:
    """A load that was followed by silence is not the one that comes after it."""
    patience = Patience(slo_s=0.02)
    for turn in range(9):
        patience.update(1.0 + 0.01 * turn, waited_s=0.01)
    assert patience.left_s < 0.02
    patience.update(2.0, waited_s=0.01)
    assert patience.left_s == 0.02


def test_what_answering_takes_is_known_when_more_is_read() -> None:
    """Right after an answer of 20 ms, the next one is another slice and 20 ms away."""
    clock = FakeClock(at=100.0)
    pace = Pace(clock)
    pace.answer = lambda: clock.advance(0.020)
    pace.catch_up()
    assert pace.answers_in_s(clock.monotonic()) == pytest.approx(0.040)
    assert pace.answers_in_s(clock.monotonic() + 1.0) == pytest.approx(0.020)


def test_a_stall_while_answering_is_forgotten() -> None:
    """Where the loop has had no slice to answer since, nobody is refused for what one once took."""
    clock = FakeClock(at=100.0)
    pace = Pace(clock)
    pace.answer = lambda: clock.advance(0.5)
    pace.catch_up()
    clock.advance(ANSWERED_FOR_S)
    assert pace.answers_in_s(clock.monotonic()) == 0.0
    pace.answer = lambda: clock.advance(0.003)
    pace.catch_up()
    assert pace.answers_in_s(clock.monotonic() + 1.0) == pytest.approx(0.003)


def test_a_short_wait_is_none() -> None:
    """Turns of the usual length change nothing of what is measured."""
    now = 1.0
    found = unseen_wait_s(now=now, read_at=now - 0.9 * UNSEEN_FROM_S, worked_until=now, again=True)
    assert found == 0.0


def test_requests_of_a_busy_loop_arrived_before_they_were_read() -> None:
    """After turns of 30 ms, what is read has waited for 30 ms; after a quiet time, not at all."""

    async def main() -> None:
        clock = FakeClock(at=100.0)
        pace = Pace(clock)
        assert pace.arrival() == 100.0
        for _ in range(3):
            await asyncio.sleep(0)  # the turn ends
            clock.advance(0.030)
            pace.worked()
            arrived = pace.arrival()
        assert clock.monotonic() - arrived == pytest.approx(0.030)
        await asyncio.sleep(0)
        clock.advance(1.0)
        assert pace.arrival() == clock.monotonic()
        assert pace.waited_s == 0.0

    asyncio.run(main())


def test_who_comes_after_work_that_nobody_waited_for_has_not_waited_as_long_as_that() -> None:
    """A loop that computed for a second, and was asked nothing, was asked just now.

    It asked the kernel between one batch and the next, and there was nothing.
    """

    async def main() -> None:
        clock = FakeClock(at=100.0)
        pace = Pace(clock)
        pace.arrival()
        await asyncio.sleep(0)
        for _ in range(50):
            clock.advance(0.020)
            pace.computed()
            await asyncio.sleep(0)
        clock.advance(0.020)
        pace.computed()
        assert clock.monotonic() - pace.arrival() <= 0.020

    asyncio.run(main())


def test_who_comes_while_answers_are_made_of_what_is_read_has_waited() -> None:
    """A turn that reads and answers for 30 ms keeps those waiting that come meanwhile."""

    async def main() -> list[float]:
        loop, pace, waited = asyncio.get_running_loop(), Pace(SYSTEM_CLOCK), []
        pairs = [socket.socketpair() for _ in range(3)]
        done = asyncio.Event()

        def read(number: int) -> None:
            pairs[number][0].recv(1)
            pace.arrival()
            waited.append(pace.waited_s)
            time.sleep(0.015)
            if number + 1 < len(pairs):
                pairs[number + 1][1].send(b"x")  # comes in the middle of the turn
            time.sleep(0.015)
            pace.computed()
            if number + 1 == len(pairs):
                done.set()

        for number, (mine, _) in enumerate(pairs):
            loop.add_reader(mine.fileno(), read, number)
        pairs[0][1].send(b"x")
        await asyncio.wait_for(done.wait(), 10)
        for mine, other in pairs:
            loop.remove_reader(mine.fileno())
            mine.close()
            other.close()
        return waited

    first, second, third = uvloop.run(main())
    assert first == 0.0
    assert second >= 0.014  # half of a single stall
    assert third >= 0.028


def test_a_long_reading_is_cut() -> None:
    """After a slice, what was read is answered, and the next slice is as long as that took."""

    async def main() -> None:
        clock = FakeClock(at=100.0)
        pace = Pace(clock)
        answered: list[float] = []

        def answer() -> None:
            answered.append(clock.monotonic())
            clock.advance(10 * SLICE_S)

        pace.answer = answer
        for _ in range(30):
            pace.arrival()
            clock.advance(SLICE_S / 2)
            if pace.late:
                pace.catch_up()
        assert len(answered) == 2

    asyncio.run(main())


def test_what_has_waited_too_long_is_refused_unread() -> None:
    """A body that nobody could answer in time is not even parsed; the query is counted as ended."""

    async def main() -> None:
        clock = FakeClock(at=100.0)
        pace = Pace(clock)
        pace.arrival()
        pace.waited_s, pace.now = 0.2, 100.0
        refused: list[tuple[TidemillError, int, float]] = []
        applications: dict[str, Any] = {}
        processor = SimpleNamespace(
            applications=applications,
            application=applications.get,
            refuse=lambda _, error, *, times, waited_s: refused.append((error, times, waited_s)),
            refused_unread=lambda *_, **__: None,
            model_turn=lambda *_: None,
        )
        application = SimpleNamespace(
            name="app",
            slo_s=0.1,
            only=None,
            versions=(),
            closed_to=lambda _: False,
            signature=Signature((Column("x", "float64"),), (Column("y", "float64"),)),
            deployment=SimpleNamespace(slo_ms=100.0, default=None),
        )
        application.hopeless = lambda *when, **how: Application.hopeless(
            cast("Application", application), *when, **how
        )
        applications["app"] = application
        plane = DataPlane(
            cast("Any", processor),
            ledger=cast("Any", None),
            instruments=Instruments(),
            clock=SYSTEM_CLOCK,
            collect=cast("Any", None),
            pace=pace,
        )
        for ask in (lambda e: plane.infer(e, "app", None), lambda e: plane.predict(e, "app")):
            connection = SimpleNamespace(load=Load(), flush=lambda: None)
            exchange = Exchange(cast("Any", connection), Head(), b"no JSON", 99.8)
            ask(exchange)
            assert exchange.out is not None
            assert exchange.out.startswith(b"HTTP/1.1 504 ")
            assert b"100 ms" in exchange.out
        assert not refused
        await asyncio.sleep(0)
        (error, times, waited_s) = refused.pop()
        assert (type(error), times) == (DeadlineExceeded, 2)
        assert waited_s == pytest.approx(0.2)
        assert application.hopeless(99.8, 100.0, soonest_s=0.0, patience_s=0.1)
        application.deployment.default = {"y": 0}  # it has something to say all the same
        assert not application.hopeless(99.8, 100.0, soonest_s=0.0, patience_s=0.1)

    asyncio.run(main())
