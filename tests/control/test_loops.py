"""Work beside a server goes on for as long as the server does, whatever surprises it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tidemill.control.loops import Loops
from tidemill.foundation.clock import SystemClock
from tidemill.foundation.instruments import Instruments


def _count(instruments: Instruments) -> float:
    rows = instruments.snapshot()["tidemill_loop_failures"]["rows"]
    return sum(float(state) for _, state in rows)


def test_work_that_fails_is_begun_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Each failure is counted, and logged with where it came from."""
    instruments, begun = Instruments(), []

    async def work() -> None:
        begun.append(None)
        if len(begun) < 4:
            raise ZeroDivisionError("a surprise")
        await asyncio.Event().wait()

    async def beside() -> None:
        loops = Loops(SystemClock(), instruments, first_wait_s=0.01)
        keeping = asyncio.create_task(loops.keep("uploads", work))
        while len(begun) < 4:
            await asyncio.sleep(0.005)
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping

    asyncio.run(asyncio.wait_for(beside(), 20))
    assert _count(instruments) == 3
    told = capsys.readouterr().err
    assert told.count("loop.failed") == 3
    assert "a surprise" in told
    assert __file__ in told


def test_what_is_over_rests() -> None:
    """Work that has nothing to do here is not asked again, and others are not ended by it."""
    instruments, begun = Instruments(), []

    async def work() -> None:
        begun.append(None)

    async def beside() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                loops = Loops(SystemClock(), instruments, first_wait_s=0.01)
                await loops.keep("certificate", work)

    asyncio.run(beside())
    assert (len(begun), _count(instruments)) == (1, 0)
