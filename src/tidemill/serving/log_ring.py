"""The newest lines that a server's processes have said, by application; bounded, in memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import msgspec

from tidemill.foundation.clock import Clock

MAX_LINES = 1000
"""Lines kept of one application, and of the gateways together."""

MAX_BYTES = 512 << 10
"""What these lines may have, all together."""

MAX_LINE_BYTES = 8 << 10
"""What is beyond this in one line is cut off."""

MAX_APPLICATIONS = 200
"""Applications whose lines are kept; the one that was silent longest goes first."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line: its number, when it came, and from whom; no application stands for all."""

    number: int
    at: float
    application: str | None
    source: str
    line: str


class LogRing:
    """Keeps lines until newer ones take their place.

    Args:
        clock: says when they came.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rings: OrderedDict[str | None, _Ring] = OrderedDict()
        self._number = 0

    def add(self, application: str | None, source: str, line: str) -> None:
        """Keeps a line of an application's process, or with None of a gateway."""
        self._number += 1
        kept = LogLine(
            number=self._number,
            at=self._clock.now(),
            application=application,
            source=source,
            line=line[:MAX_LINE_BYTES],
        )
        self._rings.setdefault(application, _Ring()).add(kept)
        self._rings.move_to_end(application)
        while len(self._rings) > MAX_APPLICATIONS:
            self._rings.popitem(last=False)

    def read(self, application: str | None, *, after: int = 0, limit: int = 200) -> list[LogLine]:
        """Returns the newest lines with a number over ``after``, the oldest of them first.

        Args:
            application: whose lines, with those of gateways that name it; all lines if None.
            after: the number of the last line that was seen.
            limit: how many, at most.
        """
        word = f'"{application}"'
        found = [
            line
            for ring in self._rings.values()
            for line in ring.lines
            if line.number > after
            and (application in (None, line.application) or _names(line, word))
        ]
        return sorted(found, key=_number)[-limit:]

    @property
    def newest(self) -> int:
        """The number of the newest line; 0 before the first."""
        return self._number


class _Ring:
    """The lines of one application."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque()
        self._bytes = 0

    def add(self, line: LogLine) -> None:
        self.lines.append(line)
        self._bytes += len(line.line)
        while len(self.lines) > MAX_LINES or self._bytes > MAX_BYTES:
            self._bytes -= len(self.lines.popleft().line)


def _number(line: LogLine) -> int:
    return line.number


def _names(line: LogLine, word: str) -> bool:
    return line.application is None and word in line.line


def said(lines: list[LogLine], newest: int) -> dict[str, Any]:
    """Returns lines as the admin API gives them; ``newest`` is where the next look begins."""
    return {"newest": newest, "lines": msgspec.to_builtins(lines)}
