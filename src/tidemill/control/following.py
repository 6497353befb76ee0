"""Chores that are done again whenever the ledger has grown, as long as a server runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from tidemill.control.chores import WITHIN_S, do_chore, ledger_stamp
from tidemill.foundation.errors import TidemillError
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Counter
from tidemill.foundation.logs import log

SHARE = 0.05
"""Of one core, at most, goes into each: a slow one waits accordingly longer."""


async def follow_ledger(
    home: Home,
    chore: str,
    show: Callable[[Any], None],
    failures: Counter,
    *,
    interval_s: float,
    again_s: float = math.inf,
    within_s: float = WITHIN_S,
) -> None:
    """Does a chore until it is cancelled, whenever the ledger has grown; a failed one again.

    What it came to may change as time passes, too: unless it was nothing, it is done again after
    ``again_s`` in any case.

    Args:
        home: the installation.
        chore: its name.
        show: told what it came to.
        failures: counts those that failed, or were ended since they took too long.
        interval_s: between two, at least.
        again_s: between two, at most, where the ledger does not grow.
        within_s: how long it may take.
    """
    clock = home.clock
    seen: tuple[int, int, int] | None = None
    due = math.inf
    while True:
        began = clock.monotonic()
        stamp = await asyncio.to_thread(ledger_stamp, home.ledger_path)
        if stamp != seen or began >= due:
            try:
                came = await do_chore(home, chore, within_s=within_s)
                show(came)
                seen, due = stamp, began + again_s if came else math.inf
            except (TidemillError, OSError) as error:
                failures.value += 1
                log("control.following").warning("chore.failed", chore=chore, error=str(error))
        took = clock.monotonic() - began
        await asyncio.sleep(max(interval_s, took / SHARE))
