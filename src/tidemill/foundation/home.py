"""The home: the folder of one installation, with its store, its files and its ledger."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.files import Files, open_files, write_atomic
from tidemill.foundation.names import new_id
from tidemill.foundation.settings import Settings
from tidemill.foundation.store import Store

FORMAT = 1
"""The layout of the home folder; one written by a newer Tidemill is refused."""


class Home:
    """One installation: its settings, its three places of state, and its clock.

    Closing it gives the store's connections back. Safe to share between threads.

    Example:
        >>> import tempfile
        >>> with open_home(Settings(home=Path(tempfile.mkdtemp()))) as home:
        ...     home.ledger_path.name, home.run_path.name
        ('ledger', 'run')
    """

    def __init__(self, settings: Settings, store: Store, files: Files, clock: Clock) -> None:
        self.settings = settings
        self.store = store
        self.files = files
        self.clock = clock
        self.path: Path = settings.home

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @property
    def ledger_path(self) -> Path:
        """The folder of the prediction ledger."""
        return self.path / "ledger"

    @property
    def run_path(self) -> Path:
        """The folder of sockets and other things of running processes, closed to other users."""
        return self.path / "run"

    @property
    def cache_path(self) -> Path:
        """The folder of copies that can be made again."""
        return self.path / "cache"

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Gives an empty folder on the home's disk while the block runs.

        Folders of that name that were left by processes which are gone are removed.
        """
        place = self.cache_path / "scratch"
        place.mkdir(parents=True, exist_ok=True)
        for left in place.glob(f"{name}-*-*"):
            pid = left.name.split("-")[-2]
            if pid.isdecimal() and not _exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
        folder = place / f"{name}-{os.getpid()}-{new_id()[:8]}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Gives the store's connections back."""
        self.store.close()


def open_home(settings: Settings, *, clock: Clock = SYSTEM_CLOCK) -> Home:
    """Makes the home folder if need be and returns it; the caller closes it.

    Raises:
        InvalidSettings: the folder cannot be made, or a newer Tidemill wrote it.
        Unavailable: the files are at a URL whose extra is not installed.
    """
    path = settings.home
    try:
        for folder in (path, path / "ledger", path / "cache", path / "run"):
            folder.mkdir(parents=True, exist_ok=True)
        (path / "run").chmod(0o700)
        _check_format(path / "format")
    except OSError as error:
        raise InvalidSettings(
            f"home folder {str(path)!r} cannot be used: {error.strerror}",
            remedy="Choose another with --home or TIDEMILL_HOME.",
        ) from error
    files = open_files(settings.files_url, path / "cache" / "files")
    return Home(settings, Store(settings.store_url), files, clock)


def _check_format(path: Path) -> None:
    if not path.exists():
        write_atomic(path, f"{FORMAT}\n".encode())
        return
    found = path.read_text(encoding="utf-8").strip()
    if not found.isdecimal() or int(found) > FORMAT:
        raise InvalidSettings(
            f"home folder {str(path.parent)!r} has format {found[:20]!r}, and {FORMAT} is known",
            remedy="Upgrade Tidemill on this machine.",
        )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
