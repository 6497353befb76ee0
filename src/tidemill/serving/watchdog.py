"""Ends processes that were stopped: they hold their sockets, and would never answer again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from tidemill.foundation.logs import log
from tidemill.foundation.processes import is_stopped

LOOK_EVERY_S = 0.5


class Watched(Protocol):
    """A process that is started again when it has died."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def kill(self) -> None:
        """Ends it at once, if it still runs."""


async def watch_stopped(running: Callable[[], Iterable[Watched]]) -> None:
    """Ends every process that is found stopped at two looks in a row; returns never.

    Args:
        running: tells which processes there are now.
    """
    before: set[int] = set()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        stopped = {each.pid: each for each in running() if is_stopped(each.pid)}
        for pid in stopped.keys() & before:
            log("serving.watchdog").warning("process.stopped", pid=pid)
            stopped[pid].kill()
        before = set(stopped)
