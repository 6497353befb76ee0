"""Work beside a server that goes on for as long as it does, whatever surprises it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from tidemill.foundation.clock import Clock
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log

FIRST_WAIT_S, MOST_WAIT_S = 1.0, 60.0


class Loops:
    """Keeps work going: what ends it is logged, counted, and it is begun again.

    The waits between are doubled from one second to a minute, and begin anew once it has gone on
    for longer than that.

    Args:
        clock: of the installation.
        instruments: where it counts.
        first_wait_s: the first of the waits.
    """

    def __init__(
        self, clock: Clock, instruments: Instruments, *, first_wait_s: float = FIRST_WAIT_S
    ) -> None:
        self._clock = clock
        self._first_wait_s = first_wait_s
        self._ended = instruments.counter(
            "tidemill_loop_failures",
            "How often work beside the server ended by an unexpected error.",
            ("loop",),
        )

    async def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> NoReturn:
        """Has work done, and begun again if it fails, until it is cancelled.

        Args:
            name: of the work, in the log and the metrics.
            work: ends by an error alone; if it just returns, it is over and rests for good.
        """
        failures, wait_s = self._ended.of(name), self._first_wait_s
        while True:
            began = self._clock.monotonic()
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - a surprise in one loop ends no server
                if self._clock.monotonic() - began > MOST_WAIT_S:
                    wait_s = self._first_wait_s
                failures.value += 1
                log("control.loops").exception(
                    "loop.failed", loop=name, error=repr(error), again_in_s=wait_s
                )
                await asyncio.sleep(wait_s)
                wait_s = min(2.0 * wait_s, MOST_WAIT_S)
            else:
                await asyncio.Event().wait()
