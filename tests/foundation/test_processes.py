"""A process that gives way to others does so as far as it may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.foundation.processes import yield_to_others

_TOLD = Path("/proc/self/autogroup")
_HAS_GROUPS = _TOLD.exists() and bool(_TOLD.read_text().strip())
"""Some kernels (gVisor's) have the file, and nothing in it."""
_ASK = f"""
import os
from pathlib import Path
from {yield_to_others.__module__} import yield_to_others
yield_to_others()
print(os.sched_getscheduler(0) == os.SCHED_IDLE, Path("{_TOLD}").read_text().split()[-1])
"""


def ask(program: str, *, leads: bool) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, in a session of its own if it is to lead one."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=leads,
    )


@pytest.mark.skipif(not _HAS_GROUPS, reason="the kernel has no groups by session")
@pytest.mark.parametrize("leads", [True, False])
def test_who_leads_a_session_gives_way_to_other_sessions(*, leads: bool) -> None:
    """A process in somebody else's session leaves its share as it is, and gives way within."""
    before = _TOLD.read_text().split()[-1]
    said = ask(_ASK, leads=leads).stdout
    assert said.split() == ["True", "19" if leads else before]
    assert _TOLD.read_text().split()[-1] == before
    assert os.sched_getscheduler(0) != os.SCHED_IDLE


def test_who_gives_way_runs_on_where_the_kernel_has_no_groups() -> None:
    """What cannot be told to the kernel is left; the process does its work all the same."""
    works = f"from {yield_to_others.__module__} import yield_to_others; yield_to_others(); print(1)"
    said = ask(works, leads=True)
    assert (said.stdout, said.stderr) == ("1\n", "")
