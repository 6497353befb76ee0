"""The pace of a gateway's event loop: how long requests waited before anybody saw them.

While the loop is busy, requests wait in the kernel's buffers, where no queue counts them. The loop
asks the kernel what has come, reads all of that, and asks again: whatever it reads was there when
it asked, and not when it asked before; where the loop had nothing to do in between, it came just
then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tidemill.foundation.clock import Clock
from tidemill.serving.batching import SLICE_S, unseen_wait_s

ASKED_AT_ONCE: Final = 1024
"""The loop is told of so many readable sockets at once, and asks again when it has read them."""

ANSWERED_FOR_S = 2.0
"""So long after a slice was answered, what that took says something of the next one."""


class Pace:
    """Follows the turns of one event loop; costs a callback a turn, and next to nothing a request.

    A long reading is cut: after a slice, ``late`` asks whoever reads to call ``catch_up``, so that
    what was read is answered before more is.

    Args:
        clock: measures the turns.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic  # looked up once: every request is asked for
        self._reading = False
        self._looks = False
        self._left = 0
        self._all_read_at = 0.0
        self._slice_ends = 0.0
        self._answering_s = 0.0
        self._answered_at = float("-inf")
        self.answer: Callable[[], None] | None = None
        """Answers what has been read so far; set by whoever can."""
        self.began = 0.0
        self.worked_until = float("-inf")
        self.waited_s = 0.0
        """How long what is read in this turn has waited unseen; mostly not at all."""
        self.now = 0.0
        """When the latest request was read."""
        self.late = False

    def arrival(self) -> float:
        """Returns when the request that is read now arrived, as far as can be told."""
        self.now = now = self._monotonic()
        self._left -= 1
        if self._left < 0 or not self._reading:
            self._begin(now)
        if now > self._slice_ends:
            self.late = True
        return min(self.began, now - self.waited_s) if self.waited_s > 0.0 else self.began

    def worked(self) -> None:
        """Says that the loop was busy until now."""
        self.worked_until = self._clock.monotonic()

    def computed(self) -> None:
        """Says that something was computed until now; what came meanwhile is read after that.

        Where nothing is read, nothing had come: whoever is read later has come later, too. While
        requests are read, the kernel was last asked when that began.
        """
        self.worked()
        if not (self._looks or self._reading):
            self._looks = True
            asyncio.get_running_loop().call_soon(self._looked)

    def answers_in_s(self, now: float) -> float:
        """Returns in what time it comes to answer what is read now, by what that took of late."""
        return max(0.0, self._slice_ends - now) + self._took_s(now)

    def catch_up(self) -> None:
        """Answers what has been read, and begins another slice, at least as long as that took.

        So the reading of all that has come, however much it is, takes at most twice its time.
        """
        self.late = False
        began = self._clock.monotonic()
        if self.answer is not None:
            self.answer()
        ended = self._clock.monotonic()
        self._slice_ends = ended + max(SLICE_S, ended - began)
        self._answering_s = max(0.75 * self._took_s(began), ended - began)
        self._answered_at = ended

    def _took_s(self, now: float) -> float:
        """Returns what answering took of late; of long ago, a single stall would count for ever."""
        return self._answering_s if now - self._answered_at < ANSWERED_FOR_S else 0.0

    def _begin(self, now: float) -> None:
        if self._left >= 0:  # it was told of all that there was, and not just of so many
            self._all_read_at = max(self._all_read_at, self.began)
        self.waited_s = unseen_wait_s(
            now=now,
            read_at=self._all_read_at,
            worked_until=now if self._reading else self.worked_until,
            again=self.waited_s > 0.0,
        )
        self.began, self._left = now, ASKED_AT_ONCE - 1
        if not self._reading:
            self._slice_ends = now + SLICE_S
            self._reading, self.late = True, False
            asyncio.get_running_loop().call_soon(self._end)

    def _looked(self) -> None:
        """Notes that the loop has asked the kernel, where that had nothing to tell."""
        self._looks = False
        if not self._reading:
            self._all_read_at = self._clock.monotonic()

    def _end(self) -> None:
        self._reading = False
        self.worked()
