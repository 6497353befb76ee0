"""Files in a folder: one file for each key."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tidemill.foundation.durable import replacing, sha256_file, sync_folder
from tidemill.foundation.errors import InvalidInput, NotFound

_KEY = re.compile(r"[A-Za-z0-9_=+@,()~ .-]+(/[A-Za-z0-9_=+@,()~ .-]+)*\Z")
_TEMPORARY = ".tmp"  # no key starts with a dot


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

    def put(self, key: str, source: Path, *, final: bool = False) -> None:
        """Copies the file into the folder, atomically and durably; the copy is read-only.

        A file that nobody writes to any more is given a second name instead, where that can be.
        """
        target = self._path(key)
        with replacing(target, self._root / _TEMPORARY) as temporary:
            if not (final and _linked(source, temporary)):
                shutil.copyfile(source, temporary)
            temporary.chmod(0o444)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Writes the bytes into the folder, atomically and durably, as a read-only file."""
        with replacing(self._path(key), self._root / _TEMPORARY) as temporary:
            temporary.write_bytes(data)
            temporary.chmod(0o444)

    def get_bytes(self, key: str) -> bytes:
        """Returns the bytes."""
        return self.fetch(key).read_bytes()

    def fetch(self, key: str) -> Path:
        """Returns the path of the file itself."""
        path = self._path(key)
        if not path.is_file():
            raise missing(self.url, key)
        return path

    def exists(self, key: str) -> bool:
        """Tells whether the file is there."""
        return self._path(key).is_file()

    def holds(self, key: str, digest: str) -> bool:
        """Tells whether the file is there and has this sha256."""
        path = self._path(key)
        return path.is_file() and sha256_file(path) == digest

    def written_at(self, key: str) -> float:
        """Returns when the file was written, in seconds since the epoch."""
        return self.fetch(key).stat().st_mtime

    def scan(self, prefix: str = "") -> Iterator[str]:
        """Yields, in order, the keys that start with the prefix."""
        folder = self._root / check_prefix(prefix).rpartition("/")[0]
        found = (
            path.relative_to(self._root).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        yield from sorted(
            key for key in found if key.startswith(prefix) and not key.startswith(_TEMPORARY)
        )

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


def check_prefix(prefix: str) -> str:
    """Returns the prefix if a key may start with it, else raises as ``check_key`` does."""
    check_key(f"{prefix}x")
    return prefix


def missing(url: str, key: str) -> NotFound:
    """Returns the error for a key that is not there."""
    return NotFound(
        f"file {key!r} is not in {url}", remedy="Restore it from a backup, or produce it again."
    )


def _linked(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError:  # on another file system, or on one without
        return False
    return True
