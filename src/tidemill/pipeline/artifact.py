"""Artifacts: what a step gave, as immutable files named by their sha256."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from tidemill.foundation.errors import Corrupted, InvalidInput, NotFound
from tidemill.foundation.files import Files, sha256_file
from tidemill.pipeline.tokens import digest

FOLDER = "artifacts"
_Mark = tuple[int, int, int]


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an artifact.

    Args:
        key: where it lies in the files.
        sha256: of its bytes.
        bytes: how many.
    """

    key: str
    sha256: str
    bytes: int


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """What one step gave: a value, files, or both.

    Args:
        id: distinct for each step, its inputs and the content.
        step: the step's name.
        value: the encoded return value; None where the step returns None.
        files: the files of ``out`` by their path in it.
    """

    id: str
    step: str
    value: StoredFile | None
    files: dict[str, StoredFile]

    @property
    def content(self) -> str:
        """The hash of all the content: equal results of different runs have the same."""
        return _content(self.value, self.files)

    def all_files(self) -> tuple[StoredFile, ...]:
        """Returns every stored file, the value's too."""
        return (*((self.value,) if self.value else ()), *self.files.values())

    def part(self, item: str | None) -> dict[str, StoredFile]:
        """Returns the files, or those that are the item or lie in the folder of that name.

        Raises:
            NotFound: there are none.
        """
        if item is None:
            return self.files
        path = PurePosixPath(item)
        found = {
            name: one
            for name, one in self.files.items()
            if PurePosixPath(name).is_relative_to(path)
        }
        if not found:
            raise NotFound(
                f"step {self.step!r} wrote no file {item!r}",
                remedy=f"It wrote: {', '.join(list(self.files)[:10]) or 'none'}.",
            )
        return found


def put_artifact(
    files: Files, *, step: str, key: str, value: bytes | None, out: Path | None
) -> Artifact:
    """Stores what a step gave; when it returns, all of it is durable.

    Args:
        files: where to.
        step: the step's name.
        key: what the step ran with; part of the artifact's id.
        value: the encoded return value.
        out: the folder that the step wrote.

    Raises:
        InvalidInput: the folder has a link or a special file, or a name that is not text.
    """
    stored = _put_bytes(files, value) if value is not None else None
    written = {name: _put_file(files, path) for name, path in _written(out, step)} if out else {}
    content = _content(stored, written)
    return Artifact(id=digest([key, content], 32), step=step, value=stored, files=written)


def _content(value: StoredFile | None, files: Mapping[str, StoredFile]) -> str:
    listed = [[name, one.sha256] for name, one in sorted(files.items())]
    return digest([value.sha256 if value else None, listed], 64)


def _written(out: Path, step: str) -> list[tuple[str, Path]]:
    found = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InvalidInput(
                f"step {step!r} wrote {name!r}, which is not a plain file",
                remedy="Write files and folders only; copy what a link points to.",
            )
        if not name.isprintable():
            raise InvalidInput(
                f"step {step!r} wrote a file named {name!r}", remedy="Use printable names."
            )
        if path.is_file():
            found.append((name, path))
    return found


def _put_bytes(files: Files, data: bytes) -> StoredFile:
    sha256 = hashlib.sha256(data).hexdigest()
    key = _key(sha256)
    files.put_bytes(key, data)
    return StoredFile(key=key, sha256=sha256, bytes=len(data))


def _put_file(files: Files, path: Path) -> StoredFile:
    # Written again even if the key is there: that is what mends a damaged file.
    sha256 = sha256_file(path)
    key = _key(sha256)
    files.put(key, path)
    return StoredFile(key=key, sha256=sha256, bytes=path.stat().st_size)


def _key(sha256: str) -> str:
    return f"{FOLDER}/{sha256[:2]}/{sha256}"


class Shelf:
    """Stored files as verified local paths; each is hashed once, and again if it was touched.

    Args:
        files: where the artifacts are.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._marks: dict[str, _Mark] = {}
        self._lock = threading.Lock()

    def fetch(self, stored: StoredFile) -> Path:
        """Returns the local path of the verified file.

        Raises:
            Corrupted: the bytes are not what was stored.
            NotFound: they are gone.
        """
        path = self._files.fetch(stored.key)
        mark = mark_of(path)
        with self._lock:
            known = self._marks.get(stored.key) == mark
        if not known:
            if mark[1] != stored.bytes or sha256_file(path) != stored.sha256:
                raise Corrupted(
                    f"file {stored.key!r} is not what was stored",
                    remedy="Run the pipeline: its step runs again and mends it.",
                )
            with self._lock:
                self._marks[stored.key] = mark
        return path

    def check(self, artifact: Artifact) -> str | None:
        """Returns the key of a file that is damaged or gone; None if all are well."""
        for one in artifact.all_files():
            try:
                self.fetch(one)
            except (Corrupted, NotFound):
                return one.key
        return None

    def value(self, artifact: Artifact) -> bytes:
        """Returns the encoded value.

        Raises:
            NotFound: the step returned none.
            Corrupted: the bytes are not what was stored.
        """
        if artifact.value is None:
            raise NotFound(f"step {artifact.step!r} returned no value", remedy="Take its files.")
        return self.fetch(artifact.value).read_bytes()

    def open(self, artifact: Artifact, folder: Path, item: str | None = None) -> Path:
        """Lays the artifact's files out in the folder, read-only, and returns the path.

        Args:
            artifact: which.
            folder: is made; the caller removes it.
            item: only this file or folder; its own path is returned then.

        Raises:
            NotFound: there is no such item, or a stored file is gone.
            Corrupted: a stored file is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, stored in artifact.part(item).items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(self.fetch(stored), target)
        return folder / item if item else folder


def mark_of(path: Path) -> _Mark:
    """Returns what changes when a file is written: its time, size and inode."""
    stat = path.stat()
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)
        target.chmod(0o444)


def source_sha256(path: Path) -> str:
    """Returns the hash of a file's bytes, or of a folder's names and bytes.

    Raises:
        NotFound: there is nothing at the path.
    """
    if path.is_dir():
        inside = sorted(one for one in path.rglob("*") if one.is_file())
        return digest([[one.relative_to(path).as_posix(), sha256_file(one)] for one in inside], 64)
    try:
        return sha256_file(path)
    except OSError as error:
        raise NotFound(
            f"source file {str(path)!r} cannot be read: {error.strerror}",
            remedy="Give the path of a file or folder that is there.",
        ) from error
