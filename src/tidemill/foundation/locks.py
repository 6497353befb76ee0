"""Turns between processes of one machine: a lock that a process gives up by ending, however."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.foundation.errors import TidemillError

_LOOK_EVERY_S = 0.2


@contextmanager
def hold(
    path: Path, *, busy: TidemillError | None = None, stop: threading.Event | None = None
) -> Iterator[None]:
    """Holds the lock file while the block runs; waits for it unless ``busy`` says otherwise.

    Args:
        path: the file; made if need be, and left there.
        busy: raised at once if another process holds it.
        stop: once set, it is not waited for any longer, and the block runs without it.

    Example:
        >>> import tempfile
        >>> with hold(Path(tempfile.mkdtemp()) / "lock"):
        ...     pass
    """
    handle = _opened(path)
    waiting = stop or threading.Event()
    try:
        while True:
            if not _taken(handle):
                if busy is not None:
                    raise busy
                if waiting.wait(_LOOK_EVERY_S):
                    break
            elif _is_gone(handle, path):
                gone, handle = handle, _opened(path)  # opened first: if it fails, one is closed
                os.close(gone)
            else:
                break
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _is_gone(handle: int, path: Path) -> bool:
    """Tells whether who held the lock removed its file: others lock another one by now.

    Where its folder is gone as well, there is nothing to hold any more.
    """
    try:
        return not os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return path.parent.is_dir()


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
