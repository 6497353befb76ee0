"""Locks: whose turn it is, told by a file that may go meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tidemill.foundation.errors import Conflict
from tidemill.foundation.locks import hold


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """Another is told at once if it says how, and gets it afterwards."""
    busy = Conflict("it is held", remedy="Wait.")
    with (
        hold(tmp_path / "lock"),
        pytest.raises(Conflict, match="is held"),
        hold(tmp_path / "lock", busy=busy),
    ):
        pass
    with hold(tmp_path / "lock", busy=busy):
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_a_lock_whose_file_is_gone_is_opened_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Where it cannot be, the error says so, and nobody else's file is closed in its place."""
    path = tmp_path / "lock"
    real, opened = os.open, []

    def opening(name: Any, *flags: int) -> int:
        if opened and fails:
            opened.append(real(os.devnull, os.O_RDONLY))  # another thread's, just then
            raise OSError(24, "Too many open files")
        opened.append(real(name, *flags))
        if len(opened) == 1:
            path.unlink()  # by who held it
        return opened[-1]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", opening)
        if fails:
            with pytest.raises(OSError, match="Too many"), hold(path):
                pass
        else:
            with hold(path):
                assert os.path.samestat(path.stat(), os.fstat(opened[1]))
    assert len(opened) == 2
    if fails:
        os.close(opened[1])  # it is open still
    for handle in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)
