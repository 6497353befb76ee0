"""The files: large immutable things under keys, in a folder or in an S3-compatible bucket.

    put      the bytes are durable and whole, or not there
    fetch    a local read-only path, verified when it came over a network
    scan     keys in order, by prefix

What is put by ``put_content`` is named by its sha256, so that writing it twice writes it once.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tidemill.foundation.errors import InvalidInput, InvalidSettings, NotFound

_KEY = re.compile(r"[A-Za-z0-9_=+@,()~ .-]+(/[A-Za-z0-9_=+@,()~ .-]+)*\Z")
_TEMPORARY = ".tmp"


class Files(Protocol):
    """Bytes under '/'-separated keys; safe to share between threads and processes."""

    @property
    def url(self) -> str:
        """Where they are, without secrets."""

    def put(self, key: str, source: Path) -> None:
        """Stores a copy of the file; when it returns, the copy is whole and durable."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Stores the bytes; when it returns, they are whole and durable."""

    def get_bytes(self, key: str) -> bytes:
        """Returns the bytes.

        Raises:
            NotFound: there is no such key.
            Corrupted: they are not what was stored.
        """

    def fetch(self, key: str) -> Path:
        """Returns a local path that must only be read.

        Raises:
            NotFound: there is no such key.
            Corrupted: what arrived is not what was stored.
        """

    def exists(self, key: str) -> bool:
        """Tells whether the key is there."""

    def scan(self, prefix: str = "") -> Iterator[str]:
        """Yields, in order, the keys that start with the prefix."""

    def delete(self, key: str) -> None:
        """Removes the key; removing what is not there does nothing."""


def open_files(url: str, cache: Path) -> Files:
    """Returns the files at a path, a ``file://`` URL or an ``s3://BUCKET/PREFIX`` URL.

    Nothing is opened before the first use.

    Args:
        url: where; for S3, ``?endpoint=…&region=…`` may follow.
        cache: a local folder for verified copies of what is remote.

    Raises:
        InvalidSettings: the scheme is not known.
        Unavailable: the extra ``s3`` is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return LocalFiles(Path(url))
    if scheme == "file":
        return LocalFiles(Path(unquote(urlsplit(url).path)))
    _ = cache
    raise InvalidSettings(
        f"files cannot be kept at a {scheme!r} URL", remedy="Use a path, file:// or s3://."
    )


class LocalFiles:
    """Files in a folder of this machine.

    Example:
        >>> import tempfile
        >>> files = LocalFiles(Path(tempfile.mkdtemp()))
        >>> files.put_bytes("reports/one.json", b"{}")
        >>> list(files.scan("reports/")), files.get_bytes("reports/one.json")
        (['reports/one.json'], b'{}')
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def __repr__(self) -> str:
        return f"LocalFiles({str(self._root)!r})"

    @property
    def url(self) -> str:
        """The folder."""
        return str(self._root)

    def put(self, key: str, source: Path) -> None:
        """Copies the file into the folder, atomically and durably; the copy is read-only."""
        target = self._path(key)
        with _replacing(target, self._root / _TEMPORARY) as temporary:
            shutil.copyfile(source, temporary)
            temporary.chmod(0o444)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Writes the bytes into the folder, atomically and durably, as a read-only file."""
        with _replacing(self._path(key), self._root / _TEMPORARY) as temporary:
            temporary.write_bytes(data)
            temporary.chmod(0o444)

    def get_bytes(self, key: str) -> bytes:
        """Returns the bytes."""
        return self.fetch(key).read_bytes()

    def fetch(self, key: str) -> Path:
        """Returns the path of the file itself."""
        path = self._path(key)
        if not path.is_file():
            raise missing(self, key)
        return path

    def exists(self, key: str) -> bool:
        """Tells whether the file is there."""
        return self._path(key).is_file()

    def scan(self, prefix: str = "") -> Iterator[str]:
        """Yields, in order, the keys that start with the prefix."""
        folder = self._root / prefix.rpartition("/")[0]
        found = (
            path.relative_to(self._root).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and _TEMPORARY not in path.parts
        )
        yield from sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """Removes the file and makes the removal durable."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)


def check_key(key: str) -> str:
    """Returns the key if it may be used as one.

    Raises:
        InvalidInput: it is empty or absolute, or has an empty, '.' or '..' part or a character
            that is not plain.

    Example:
        >>> check_key("data/ab/abcdef.parquet")
        'data/ab/abcdef.parquet'
    """
    if not _KEY.match(key) or any(part.startswith(".") for part in key.split("/")):
        raise InvalidInput(
            f"file key {key[:200]!r} is not allowed",
            remedy="Use '/'-separated names of plain characters, none starting with '.'.",
        )
    return key


def missing(files: Files, key: str) -> NotFound:
    """Returns the error for a key that is not there."""
    return NotFound(
        f"file {key!r} is not in {files.url}",
        remedy="Restore it from a backup, or produce it again.",
    )


def sha256_file(path: Path) -> str:
    """Returns the sha256 of the file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a whole file: after a crash there is the old one or the new one, never a part.

    The folder is made if need be. When it returns, the file is durable.
    """
    with _replacing(path, path.parent) as temporary:
        temporary.write_bytes(data)


def put_content(files: Files, source: Path, *, folder: str, suffix: str) -> str:
    """Stores a file under its own sha256 and returns the key; does nothing if it is there.

    Args:
        files: where to.
        source: the file.
        folder: the first part of the key.
        suffix: what the name ends with, ``parquet`` or ``.parquet``; may be empty.

    Returns:
        ``folder/ab/abcdef….suffix``.
    """
    digest = sha256_file(source)
    ending = f".{suffix.lstrip('.')}" if suffix else ""
    key = f"{folder}/{digest[:2]}/{digest}{ending}"
    if not files.exists(key):
        files.put(key, source)
    return key


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


@contextmanager
def _replacing(target: Path, folder: Path) -> Iterator[Path]:
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
