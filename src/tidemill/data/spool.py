"""The spool: copies of what is not on this machine, in one folder, never more than allowed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from tidemill.foundation.errors import TooLarge, Unavailable

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,12}")


class Spool:
    """Hands out places for copies, and takes back the oldest where room is needed.

    Args:
        folder: an empty folder of one's own.
        max_bytes: how much all copies together may take.

    Example:
        >>> spool = Spool(Path("spool"), max_bytes=100)
        >>> spool.place("in/a.csv.gz").name, spool.place("in/b").name
        ('000000.csv.gz', '000001')
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._placed = 0
        self._copies: dict[Path, int] = {}
        self._for_good = 0

    def place(self, name: str) -> Path:
        """Returns a path for a copy; it ends as the name does, which says what it is."""
        endings = PurePosixPath(name).suffixes[-2:]
        ending = "".join(each for each in endings if _SUFFIX.fullmatch(each))
        self._placed += 1
        return self._folder / f"{self._placed - 1:06}{ending}"

    def fits(self, size: int) -> bool:
        """Tells whether so many bytes more fit beside all that is there."""
        return self._for_good + sum(self._copies.values()) + size <= self._max_bytes

    def make_room(self, size: int, name: str) -> None:
        """Removes the oldest copies that can be had again until so many bytes more fit.

        Raises:
            TooLarge: they never will.
        """
        while self._copies and not self.fits(size):
            oldest = next(iter(self._copies))
            oldest.unlink(missing_ok=True)
            del self._copies[oldest]
        if not self.fits(size):
            raise TooLarge(
                f"{name} takes more than {self._max_bytes - self._for_good:,} bytes",
                remedy="Read it in parts, or raise the setting data.spool_bytes.",
            )

    def keep(self, path: Path, size: int, *, for_good: bool = False) -> None:
        """Counts a copy; one that is there for good cannot be had again."""
        if for_good:
            self._for_good += size
        else:
            self._copies[path] = size


class Copy:
    """A file that is being written, with its size and the hash of what was written."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Appends bytes, or only counts and hashes them where there is no file."""
        if self._file is not None:
            self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)
        return len(data)

    @property
    def sha256(self) -> str:
        """The hash of all that was written."""
        return self._hash.hexdigest()


@contextmanager
def copying(path: Path | None, name: str) -> Iterator[Copy]:
    """Gives a copy to be written to a path, or to nowhere; what is not whole is removed.

    Raises:
        Unavailable: the disk is full.
    """
    if path is None:
        yield Copy(None)
        return
    try:
        with path.open("wb") as file:
            yield Copy(file)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Unavailable(
                f"{name} cannot be copied to {path.parent}: {error.strerror or error}",
                remedy="Free space on the home's disk.",
            ) from error
        raise
