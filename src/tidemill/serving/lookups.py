"""Asks a table that is on another host: what is asked in one turn of the loop goes together.

A table that does not answer holds up nobody: each question is given up in time for the model to
answer, and after a failure nobody asks for a while. Whoever is not answered is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import TidemillError
from tidemill.foundation.instruments import Counter
from tidemill.foundation.logs import log
from tidemill.tables.table import RemoteTable

TIMEOUT_S = 0.05
"""A table on another host has so long to answer, or half of what the query has left, if less."""

REST_S = 1.0
"""After a failure, a table is not asked for so long."""

Found = list[bytes | None] | None
"""What each key was found to have; None if the table did not answer."""


class _Question:
    """Some keys of one query, and whom to tell; told once."""

    __slots__ = ("_then", "keys", "until")

    def __init__(self, keys: list[bytes], until: float, then: Callable[[Found], None]) -> None:
        self.keys = keys
        self.until = until
        self._then: Callable[[Found], None] | None = then

    @property
    def open(self) -> bool:
        """Whether nobody was told yet."""
        return self._then is not None

    def tell(self, found: Found) -> None:
        """Tells what was found, unless something was told before."""
        then, self._then = self._then, None
        if then is not None:
            then(found)


class Lookups:
    """The questions of one live version to its table.

    ``answers`` says whether it answered when it was asked last; None before.

    Args:
        table: is asked.
        clock: tells the time.
        failures: counts the questions that it did not answer.
    """

    def __init__(self, table: RemoteTable, clock: Clock, failures: Counter) -> None:
        self._table = table
        self._clock = clock
        self._failures = failures
        self._gathered: list[_Question] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._rests_until = 0.0
        self.answers: bool | None = None
        self._log = log("serving.lookups")

    def ask(self, keys: list[bytes], deadline: float, then: Callable[[Found], None]) -> None:
        """Has ``then`` told what the table holds of the keys, once: now or in a later turn.

        Args:
            keys: as its encoder makes them.
            deadline: of the query, on the monotonic clock.
            then: must not raise.
        """
        now = self._clock.monotonic()
        if now < self._rests_until:
            self._failures.value += 1
            then(None)
            return
        until = now + min(TIMEOUT_S, (deadline - now) / 2)
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._send)
        self._gathered.append(_Question(keys, until, then))

    async def aclose(self) -> None:
        """Waits until nobody waits for an answer, then gives the table's connections back."""
        while self._gathered or self._tasks:
            if self._gathered:
                await asyncio.sleep(0)
            else:
                await asyncio.wait(self._tasks)
        await self._table.aclose()

    def _send(self) -> None:
        questions, self._gathered = self._gathered, []
        task = asyncio.get_running_loop().create_task(self._ask(questions))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, questions: list[_Question]) -> None:
        """Asks for all at once; those whose time is up are told before the others."""
        asked = asyncio.ensure_future(
            self._table.fetch([key for each in questions for key in each.keys])
        )
        while not asked.done() and (still := [each for each in questions if each.open]):
            earliest = min(each.until for each in still)
            await asyncio.wait({asked}, timeout=max(0.0, earliest - self._clock.monotonic()))
            if not asked.done():
                self._give_up(still, self._clock.monotonic())
        if not asked.done():  # nobody waits any more
            asked.cancel()
            await asyncio.wait({asked})
        found = self._outcome(asked)
        at = 0
        for each in questions:
            part = None if found is None else found[at : at + len(each.keys)]
            at += len(each.keys)
            if each.open and part is None:
                self._failures.value += 1
            each.tell(part)

    def _give_up(self, questions: list[_Question], now: float) -> None:
        for each in questions:
            if each.until <= now:
                self._failures.value += 1
                each.tell(None)

    def _outcome(self, asked: asyncio.Future[Any]) -> Found:
        """Returns what was found; after a failure the table rests."""
        error = None if asked.cancelled() else asked.exception()
        if error is None and not asked.cancelled():
            found: Found = asked.result()
            self.answers = True
            return found
        self.answers = False
        self._rests_until = self._clock.monotonic() + REST_S
        what = "it did not answer in time" if error is None else str(error)
        if error is not None and not isinstance(error, TidemillError):
            self._log.error("table.failed", error=what, exc_info=error)
        else:
            self._log.warning("table.failed", error=what)
        return None
