"""Time as a parameter: the only module that reads a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

FIRST_S, END_S = -62135596800.0, 253402300800.0
"""When the years 1 to 9999 begin and end, in seconds since the epoch."""


class Clock(Protocol):
    """Tells the time of day and measures durations."""

    def now(self) -> float:
        """Returns seconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Returns seconds on a clock that never goes back; deadlines are absolute on it."""


class SystemClock:
    """The machine's clocks: the functions themselves, since every query reads them."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


@dataclass(slots=True)
class FakeClock:
    """A clock that a test moves by hand.

    Example:
        >>> clock = FakeClock(at=10.0)
        >>> clock.advance(2.5)
        >>> clock.monotonic()
        12.5
    """

    at: float = 0.0

    def now(self) -> float:  # noqa: D102
        return self.at

    def monotonic(self) -> float:  # noqa: D102
        return self.at

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward."""
        self.at += seconds


SYSTEM_CLOCK = SystemClock()


def iso(seconds: float) -> str:
    """Returns the UTC time as ISO 8601 with milliseconds.

    Example:
        >>> iso(0.0)
        '1970-01-01T00:00:00.000Z'
    """
    stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")
