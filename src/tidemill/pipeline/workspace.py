"""The scratch folder of a run; what killed runs left behind is swept by the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.foundation.names import new_id

_LOCK = ".lock"


@contextmanager
def workspace(work: Path) -> Iterator[Path]:
    """Gives a fresh folder, removed at the end, and removes those of processes that are gone.

    Args:
        work: the folder of such folders; is made if need be.
    """
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work / _LOCK, fcntl.LOCK_EX):
        _sweep(work)
        folder = work / new_id()
        folder.mkdir()
        owner = _open(folder / _LOCK)
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def _sweep(work: Path) -> None:
    for folder in work.iterdir():
        lock = folder / _LOCK
        if lock.is_file():
            try:
                with _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                continue


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
