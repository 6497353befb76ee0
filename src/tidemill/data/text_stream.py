"""Opens files of text as streams of UTF-8: plain, gzip, or one file in a zip."""

from __future__ import annotations

import codecs
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from tidemill.data.batches import Progress, SourceFile, written_to
from tidemill.data.records import DatasetOptions
from tidemill.data.text_options import decoder_of
from tidemill.foundation.errors import InvalidInput


def first_bytes(file: SourceFile, count: int) -> bytes:
    """Returns the first bytes of a file's text, decompressed; nothing where there are none."""
    try:
        with file.path.open("rb") as raw, _decompressed(file, raw) as plain:
            return plain.read(count)
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile):
        return b""


class Stream(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Returns at most so many bytes; none at the end."""


@contextmanager
def open_text(file: SourceFile, options: DatasetOptions, progress: Progress) -> Iterator[Stream]:
    """Gives the file's text as UTF-8 bytes, decompressed; bytes that aren't text stay invalid."""
    try:
        with file.path.open("rb") as raw, _decompressed(file, raw) as plain:
            yield _Reader(file, plain, raw, options.encoding, progress)
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise InvalidInput(
            f"{file.name} is a broken archive: {error}",
            remedy="It was probably cut while it was copied: copy it again.",
        ) from error


@contextmanager
def _decompressed(file: SourceFile, raw: IO[bytes]) -> Iterator[Stream]:
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=raw) as plain:
            yield plain
    elif magic in (b"PK\x03\x04", b"PK\x05\x06"):
        with zipfile.ZipFile(raw) as archive, _only_member(file.name, archive) as plain:
            yield plain
    elif magic and file.path.suffix.lower() in (".gz", ".zip"):
        raise InvalidInput(
            f"{file.name} is named {file.path.suffix} and is not compressed so",
            remedy="Name it after what it is, or copy it again.",
        )
    else:
        yield raw


def _only_member(path: str, archive: zipfile.ZipFile) -> IO[bytes]:
    members = [
        info
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        names = ", ".join(info.filename for info in members[:3])
        raise InvalidInput(
            f"{path} holds {len(members)} files ({names})", remedy="Put one CSV file in each zip."
        )
    try:
        return archive.open(members[0])
    except (RuntimeError, NotImplementedError) as error:
        raise InvalidInput(
            f"{path} cannot be unpacked: {error}", remedy="Zip it plainly, without a password."
        ) from error


class _Reader:
    """Reads, recodes to UTF-8, and tells how far it is."""

    def __init__(
        self, file: SourceFile, plain: Stream, raw: IO[bytes], encoding: str, progress: Progress
    ) -> None:
        self._name = file.name
        self._size = file.record.bytes
        self._plain = plain
        self._raw = raw
        self._progress = progress
        self._encoding = encoding
        decoder = decoder_of(encoding)
        self._decoder = None if codecs.lookup(encoding).name == "utf-8" else decoder

    def read(self, size: int, /) -> bytes:
        data = self._plain.read(size)
        done = self._raw.tell()
        if done > self._size:  # a file that grows as fast as it is read has no end
            raise written_to(self._name)
        self._progress(done, self._size)
        if self._decoder is None:
            return data
        try:
            text = self._decoder.decode(data, final=not data)
            if data and not text:
                return self.read(size)  # a character cut in two: its rest comes next
            return text.encode("utf-8", "surrogateescape")
        except UnicodeError as error:
            raise InvalidInput(
                f"{self._name} is not text of encoding {self._encoding[:40]!r}: "
                f"{getattr(error, 'reason', error)}",
                remedy="Say the encoding in which it was written.",
            ) from error
