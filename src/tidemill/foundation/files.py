"""The files: large immutable things under keys, in a folder or in an S3-compatible bucket.

    put      the bytes are durable and whole, or not there
    fetch    a local read-only path, verified when it came over a network
    scan     keys in order, by prefix

What is put by ``put_content`` is named by its sha256, so that writing it twice writes it once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tidemill.foundation.durable import sha256_file, write_atomic
from tidemill.foundation.errors import Corrupted, InvalidSettings
from tidemill.foundation.files_local import LocalFiles
from tidemill.foundation.files_s3 import S3Files

__all__ = ["Files", "open_files", "put_content", "sha256_file", "write_atomic"]


class Files(Protocol):
    """Bytes under '/'-separated keys; safe to share between threads and processes."""

    @property
    def url(self) -> str:
        """Where they are, without secrets."""

    def put(self, key: str, source: Path, *, final: bool = False) -> None:
        """Stores a copy of the file; when it returns, the copy is whole and durable.

        Args:
            key: under which it is found.
            source: the file.
            final: whether nobody writes to it any more: it may be stored itself, read-only.
        """

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

    def holds(self, key: str, digest: str) -> bool:
        """Reads what is under a key; tells whether it is there and has this sha256."""

    def written_at(self, key: str) -> float:
        """Returns when the key was written, in seconds since the epoch.

        Raises:
            NotFound: there is no such key.
        """

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
    if scheme == "s3":
        return S3Files(url, cache)
    raise InvalidSettings(
        f"files cannot be kept at a {scheme!r} URL", remedy="Use a path, file:// or s3://."
    )


def put_content(
    files: Files,
    source: Path,
    *,
    folder: str,
    suffix: str,
    digest: str | None = None,
    final: bool = False,
    verify: bool = False,
) -> str:
    """Stores a file under its own sha256 and returns the key; does nothing if it is there.

    Args:
        files: where to.
        source: the file.
        folder: the first part of the key.
        suffix: what the name ends with, ``parquet`` or ``.parquet``; may be empty.
        digest: the file's sha256, where the caller has just verified it.
        final: whether nobody writes to the file any more: it may be stored itself, not copied.
        verify: whether what is there is read, and replaced where it has another sha256.

    Returns:
        ``folder/ab/abcdef….suffix``.
    """
    digest = sha256_file(source) if digest is None else digest
    ending = f".{suffix.lstrip('.')}" if suffix else ""
    key = f"{folder}/{digest[:2]}/{digest}{ending}"
    if not files.exists(key) or (verify and not files.holds(key, digest)):
        files.put(key, source, final=final)
    return key


def fetch_content(files: Files, key: str) -> Path:
    """Returns a local path of what ``put_content`` stored, once its sha256 was compared.

    Where a copy on this machine is not what was stored, what it was made of is asked.

    Raises:
        NotFound: there is no such key.
        Corrupted: it is not what was stored.
    """
    digest = content_sha256(key)
    path = files.fetch(key)
    if sha256_file(path) == digest:
        return path
    if files.holds(key, digest):
        path = files.fetch(key)
        if sha256_file(path) == digest:
            return path
    raise Corrupted(
        f"file {key!r} in {files.url} is not what was stored",
        remedy="Restore it from a backup, or produce it again.",
    )


def content_sha256(key: str) -> str:
    """Returns the sha256 that a key of ``put_content`` names."""
    return key.rpartition("/")[2].partition(".")[0]
