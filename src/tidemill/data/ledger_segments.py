"""Segment files: who may write one, how one is sealed, and what becomes of an abandoned one.

    segments/GATEWAY-MICROSECONDS-RANDOM.open   being written, by the process that holds its lock
    segments/GATEWAY-MICROSECONDS-RANDOM.seg    sealed: whole, synced, never changed again

Names are never used twice, so that a segment that was compacted cannot be taken for a new one. A
writer holds an exclusive ``flock`` on its open segment; an open segment without a lock was left by
a process that died, and anybody may cut its torn tail and seal it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.data.ledger_frames import HEADER_BYTES, Scan, scan, segment_header
from tidemill.foundation.clock import Clock
from tidemill.foundation.durable import sync_folder

OPEN, SEALED = ".open", ".seg"

_sync: Any = getattr(os, "fdatasync", os.fsync)


def segments_folder(path: Path) -> Path:
    """Returns where a ledger's segments are."""
    return path / "segments"


def gateway_of(segment: Path) -> str:
    """Returns the name of the writer.

    Example:
        >>> gateway_of(Path("gateway-0-0000000000000001-0a0b0c0d.seg"))
        'gateway-0'
    """
    return segment.stem.rsplit("-", 2)[0]


class OpenSegment:
    """A segment that this process is writing; made by ``create``. One thread writes at a time."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size_bytes = HEADER_BYTES
        self._torn = False

    @classmethod
    def create(cls, folder: Path, gateway: str, clock: Clock) -> OpenSegment:
        """Makes a new segment and locks it; its name is durable after the folder is synced.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        while True:
            name = f"{gateway}-{int(clock.now() * 1e6):016d}-{secrets.token_hex(4)}{OPEN}"
            path = folder / name
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _is_at(path, fd):  # else somebody took it for abandoned before we had the lock
                    _write_all(fd, segment_header())
                    return cls(path, fd)
            except OSError:
                os.close(fd)
                path.unlink(missing_ok=True)
                raise
            os.close(fd)

    @property
    def empty(self) -> bool:
        """Whether it has no frame."""
        return self.size_bytes == HEADER_BYTES

    def write(self, frame: bytes) -> None:
        """Appends a whole frame, or nothing.

        Raises:
            OSError: the disk is full or broken; a part that was written is cut off, now or before
                the next frame.
        """
        if self._torn:
            self._cut()
        try:
            written = os.write(self.fd, frame)
            if written != len(frame):
                _write_all(self.fd, frame[written:])
        except OSError:
            self._torn = True
            with suppress(OSError):  # the write's own error says more; cut before the next write
                self._cut()
            raise
        self.size_bytes += len(frame)

    def sync(self) -> None:
        """Returns when everything written so far is on the disk, where it can be found again.

        Raises:
            OSError: it cannot be written, or somebody removed the file.
        """
        _sync(self.fd)
        if not os.fstat(self.fd).st_nlink:
            raise FileNotFoundError(errno.ENOENT, f"{self.path.name} was removed")

    def seal(self) -> None:
        """Gives up writing a synced segment; it is removed if it is empty."""
        if self.empty:
            self.path.unlink(missing_ok=True)
        else:
            self.path.rename(self.path.with_suffix(SEALED))
        self.abandon()

    def abandon(self) -> None:
        """Gives up writing; whoever looks after abandoned segments seals it."""
        os.close(self.fd)

    def _cut(self) -> None:
        os.ftruncate(self.fd, self.size_bytes)
        self._torn = False


def _write_all(fd: int, data: bytes) -> None:
    left = data
    while left:
        written = os.write(fd, left)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left = left[written:]


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """What was found of writers that died."""

    segments: int
    torn_bytes: int


def seal_abandoned(folder: Path, gateway: str | None = None) -> Abandoned:
    """Seals what dead writers left open, without its torn tail; leaves living writers alone.

    Args:
        folder: the folder of segments.
        gateway: only that writer's segments; None for everybody's.

    Raises:
        InvalidSettings: a newer Tidemill wrote one.
        OSError: the disk cannot be written.
    """
    segments = torn_bytes = 0
    for path in sorted(folder.glob(f"*{OPEN}")):
        if gateway is not None and gateway_of(path) != gateway:
            continue
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            if _lock(fd) and _is_at(path, fd):
                torn_bytes += _seal(path, fd)
                segments += 1
        finally:
            os.close(fd)
    if segments:
        sync_folder(folder)
    return Abandoned(segments=segments, torn_bytes=torn_bytes)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _seal(path: Path, fd: int) -> int:
    found = scan(path.read_bytes(), path.stem, sealed=False)
    if found.torn_bytes:
        os.ftruncate(fd, found.end)
    os.fsync(fd)
    if found.frames or found.problems:
        path.rename(path.with_suffix(SEALED))
    else:
        path.unlink()
    return found.torn_bytes


def read_segment(path: Path) -> tuple[bytes, Scan]:
    """Returns a segment's bytes and the whole frames in them, while it is written or after.

    Raises:
        FileNotFoundError: it was sealed or compacted meanwhile.
        InvalidSettings: a newer Tidemill wrote it.
    """
    data = path.read_bytes()
    return data, scan(data, path.stem, sealed=path.suffix == SEALED)


def list_segments(folder: Path) -> dict[str, Path]:
    """Returns every segment's path by its name, in order of name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in {OPEN, SEALED}:
            found[path.stem] = path
    return found
