"""Work beside a server leaves the processors to the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from tidemill.control import chores
from tidemill.foundation.errors import Unavailable
from tidemill.foundation.home import Home


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this kernel has no idle policy")
@pytest.mark.parametrize("priority", ["idle", "low"])
def test_a_chore_has_the_priority_that_it_is_begun_with(priority: str) -> None:
    """Where nobody else wants the processor, or with less of it than whoever serves."""
    module = (sys.executable, "-P", "-m", "tidemill.control.chores")
    command = (*module, "compact", str(os.getpid()), priority)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as chore:  # it waits for its settings
        try:
            low = priority == "low"
            until = time.monotonic() + 20
            while not _gave_way(chore.pid, low=low) and time.monotonic() < until:
                time.sleep(0.01)
            assert _gave_way(chore.pid, low=low)
        finally:
            chore.kill()


@pytest.mark.parametrize(
    ("name", "about", "starves", "begun"),
    [
        ("compact", (), False, ["idle"]),
        ("compact", (), True, ["idle", "low"]),
        ("settle", ("none", "none"), True, ["low"]),
    ],
)
def test_a_chore_that_starves_is_begun_again_and_done(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    about: tuple[str, ...],
    starves: bool,
    begun: list[str],
) -> None:
    """Where all processors are busy an idle one gets nothing, and what it does must be done; an
    upload's client waits, so that one never is idle.
    """
    if starves:
        monkeypatch.setattr(chores, "_LOOK_EVERY_S", 0.02)
        monkeypatch.setattr(chores, "_LEAST_SHARE", 1e9)
    seen: list[str] = []
    begin = asyncio.create_subprocess_exec

    async def watched(*command: str, **how: Any) -> asyncio.subprocess.Process:
        seen.append(command[6])
        return await begin(*command, **how)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    with contextlib.suppress(Unavailable) if about else contextlib.nullcontext():
        assert asyncio.run(chores.do_chore(home, name, *about)) == 0
    assert seen == begun


def _gave_way(process: int, *, low: bool) -> bool:
    if low:
        return os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0)
    return os.sched_getscheduler(process) == os.SCHED_IDLE
