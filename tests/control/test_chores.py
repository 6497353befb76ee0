"""Work beside a server leaves the processors to the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this kernel has no idle policy")
@pytest.mark.parametrize("name", ["compact", "profile", "score", "settle"])
def test_a_chore_that_nobody_waits_for_runs_where_nothing_else_does(name: str) -> None:
    """Those that read a ledger take nothing from whoever serves; an upload's client waits."""
    command = (sys.executable, "-P", "-m", "tidemill.control.chores", name, str(os.getpid()))
    with subprocess.Popen(command, stdin=subprocess.PIPE) as chore:  # it waits for its settings
        try:
            awaited = name == "settle"
            until = time.monotonic() + 20
            while not _gave_way(chore.pid, awaited=awaited) and time.monotonic() < until:
                time.sleep(0.01)
            assert _gave_way(chore.pid, awaited=awaited)
        finally:
            chore.kill()


def _gave_way(process: int, *, awaited: bool) -> bool:
    if awaited:
        return os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0)
    return os.sched_getscheduler(process) == os.SCHED_IDLE
