"""Chores that are done again whenever the ledger has grown, as long as a server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tidemill.control.chores import do_chore, ledger_stamp
from tidemill.foundation.errors import TidemillError
from tidemill.foundation.home import Home
from tidemill.foundation.logs import log

SHARE = 0.05
"""Of one core, at most, goes into each: a slow one waits accordingly longer."""


async def follow_ledger(
    home: Home, chore: str, show: Callable[[Any], None], *, interval_s: float
) -> None:
    """Does a chore until it is cancelled, whenever the ledger has grown; a failed one again.

    Args:
        home: the installation.
        chore: its name.
        show: told what it came to.
        interval_s: between two, at least.
    """
    clock = home.clock
    seen: tuple[int, int, int] | None = None
    while True:
        began = clock.monotonic()
        stamp = await asyncio.to_thread(ledger_stamp, home.ledger_path)
        if stamp != seen:
            try:
                show(await do_chore(home, chore))
                seen = stamp
            except (TidemillError, OSError, TimeoutError) as error:
                log("control.following").warning("chore.failed", chore=chore, error=str(error))
        took = clock.monotonic() - began
        await asyncio.sleep(max(interval_s, took / SHARE))
