"""Large batches through memory files: written once, sealed, passed by descriptor, never by name."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

AVAILABLE = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")

Mapped = mmap.mmap
_PARTS_AT_ONCE = 512


def share(parts: Sequence[bytes | bytearray | memoryview]) -> int:
    """Returns a new memory file that holds the parts in order and can never change again.

    The caller closes it. The seals matter to the reader: a file that its writer could still cut
    short would kill whoever has it mapped.
    """
    file = os.memfd_create("tidemill-batch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for start in range(0, len(parts), _PARTS_AT_ONCE):
            _write(file, parts[start : start + _PARTS_AT_ONCE])
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _seals())
    except BaseException:
        os.close(file)
        raise
    return file


def mapped(file: int, max_bytes: int) -> Mapped:
    """Maps a received memory file, copied where it is written to, and closes the descriptor.

    Raises:
        ValueError: it is not sealed, empty, or larger than allowed.
        OSError: it is no memory file.
    """
    try:
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _seals() != _seals():
            raise ValueError("it is not sealed")
        size = os.fstat(file).st_size
        if not 0 < size <= max_bytes:
            raise ValueError(f"it has {size} bytes, allowed are 1 to {max_bytes}")
        return mmap.mmap(file, size, access=mmap.ACCESS_COPY)
    finally:
        os.close(file)


def _seals() -> int:
    return fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def _write(file: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
    left = sum(len(part) for part in parts) - os.writev(file, parts)
    if left:
        rest = memoryview(b"".join(parts))[-left:]
        while rest:
            rest = rest[os.write(file, rest) :]
