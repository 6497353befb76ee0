"""Durable writes: what is on disk when a call returns is whole, and stays."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GOING = ".going"


def sha256_file(path: Path) -> str:
    """Returns the sha256 of the file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a whole file: after a crash there is the old one or the new one, never a part.

    The folder is made if need be. When it returns, the file is durable.
    """
    with replacing(path, path.parent) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(target: Path, folder: Path) -> Iterator[Path]:
    """Gives a temporary path in the folder that becomes the target when the block ends well."""
    make_folder(folder)
    make_folder(target.parent)
    temporary = folder / f".{target.name[:80]}.{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes what was created, renamed or removed in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Removes a folder that nobody works in: killed at any point, all of it is there or nothing.

    What is left of it then has a name that ``is_half_removed`` knows.
    """
    going = folder.with_name(f".{folder.name[:80]}.{secrets.token_hex(8)}{_GOING}")
    folder.rename(going)
    sync_folder(folder.parent)
    shutil.rmtree(going, ignore_errors=True)


def is_half_removed(path: Path) -> bool:
    """Says whether a path is what was left of a folder when its removal was cut off."""
    return path.name.startswith(".") and path.name.endswith(_GOING)
