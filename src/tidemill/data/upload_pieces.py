"""A piece of an upload: bytes that are durable before they are acknowledged."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import msgspec

from tidemill.data.upload_records import Upload
from tidemill.data.uploads import Uploads
from tidemill.foundation.errors import (
    Conflict,
    Corrupted,
    DiskFull,
    InvalidInput,
    NotFound,
    Unavailable,
)

KEEP_EVERY_BYTES = 32 << 20
"""What a crash may take of a piece that is on its way, at most: the rest is acknowledged."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Piece:
    """Takes the bytes of one piece in order; open it with ``with``.

    Bytes count once ``keep`` or ``finish`` has returned. Its methods wait for each other, so that
    a write which somebody gave up waiting for is either whole in what is kept, or not there.

    Args:
        uploads: of the installation.
        upload: as it stands.
        sha256: of this piece alone, as hexadecimal digits: it is kept whole, or not at all.
    """

    def __init__(self, uploads: Uploads, upload: Upload, *, sha256: str | None = None) -> None:
        self._uploads = uploads
        self._upload = upload
        self._sha256 = sha256
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()
        self._file = -1
        self._end = self._looked = upload.offset

    def __enter__(self) -> Self:
        with _told():
            self._file = os.open(self._uploads.data_path(self._upload), os.O_RDWR | os.O_CLOEXEC)
            try:
                self._claim()
            except BaseException:
                os.close(self._file)
                raise
        return self

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"upload {self._upload.upload!r} is being written to", remedy="Retry in a moment."
            ) from error
        size = os.fstat(self._file).st_size
        if size < self._end:
            raise Corrupted(
                f"upload {self._upload.upload!r} has {size} bytes, and {self._end} were kept",
                remedy="Delete the upload and send the file again.",
            )
        if size > self._end:  # a crash left what was never acknowledged
            os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            os.close(self._file)
            self._file = -1

    def write(self, data: bytes) -> None:
        """Adds bytes; now and then, what came so far is kept.

        Raises:
            TooLarge: the upload is over its limit.
            InvalidInput: it is longer than was said.
            DiskFull: they have no room.
        """
        with self._lock:
            if self._file < 0:
                return
            self._check(len(data))
            view = memoryview(data)
            with _told():
                while view:
                    written = os.write(self._file, view)
                    self._hash.update(view[:written])
                    self._end += written
                    view = view[written:]
            if self._sha256 is None and self._end - self._upload.offset >= KEEP_EVERY_BYTES:
                self._keep()

    def _check(self, more: int) -> None:
        length = self._upload.terms.length
        if length is not None and self._end + more > length:
            raise InvalidInput(
                f"upload {self._upload.upload!r} is longer than the {length} bytes that were said",
                remedy="Delete it, and send the file with its length.",
            )
        self._uploads.check_size(self._end + more)
        if self._end - self._looked >= KEEP_EVERY_BYTES // 4 or self._end == self._upload.offset:
            self._looked = self._end
            self._uploads.check_room(more)

    def keep(self) -> Upload:
        """Makes durable what came so far, unless the piece's hash says that it counts whole.

        An upload that became whole meanwhile, unseen by who gave up waiting, stays so.
        """
        with self._lock:
            still_open = self._upload.state == "open" and self._file >= 0
            if still_open and self._sha256 is None:
                self._keep()
            return self._upload

    def finish(self, *, last: bool) -> Upload:
        """Makes the piece durable; with the last one, the upload is whole.

        Raises:
            InvalidInput: the piece is not what its hash says, or the upload is shorter than was
                said; in the first case nothing of the piece is kept, in the second all is.
            NotFound: the upload was removed meanwhile.
        """
        with self._lock:
            self._verify()
            length = self._upload.terms.length
            if last and length is not None and self._end < length:
                self._keep()
                raise InvalidInput(
                    f"upload {self._upload.upload!r} ends after {self._end} bytes, and was "
                    f"to have {length}",
                    remedy="Go on from there, or delete it and say the right length.",
                )
            self._keep(last=last)
            return self._upload

    def _verify(self) -> None:
        found = self._hash.hexdigest()
        if self._sha256 is not None and found != self._sha256:
            os.ftruncate(self._file, self._upload.offset)
            raise InvalidInput(
                f"the piece at {self._upload.offset} has the sha256 {found}, and was "
                f"said to have {self._sha256}",
                remedy="Send the piece again.",
            )

    def _keep(self, *, last: bool = False) -> None:
        with _told():
            os.fsync(self._file)
            if not os.fstat(self._file).st_nlink:  # an acknowledgement would be of no byte
                raise NotFound(
                    f"upload {self._upload.upload!r} was removed while it was written to",
                    remedy="Send the file again.",
                )
            self._upload = self._uploads.changed(
                self._upload, offset=self._end, state="received" if last else "open"
            )


def with_terms(upload: Upload, *, length: int | None, sha256: str | None) -> Upload:
    """Returns the upload with what a later piece says of the whole.

    Raises:
        Conflict: an earlier piece said something else.
    """
    said = {"length": length, "sha256": sha256}
    for name, value in said.items():
        known = getattr(upload.terms, name)
        if value is not None and known not in (None, value):
            raise Conflict(
                f"upload {upload.upload!r} has the {name} {known}, and this piece says {value}",
                remedy="Say the same with each piece, or choose another name.",
            )
    more = {name: value for name, value in said.items() if value is not None}
    terms = msgspec.structs.replace(upload.terms, **more)
    return msgspec.structs.replace(upload, terms=terms)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"the disk of the home folder takes no more: {error.strerror}",
                remedy="Free space there, then go on from the offset that was acknowledged.",
            ) from error
        raise Unavailable(
            f"the upload cannot be written: {error.strerror}",
            remedy="See to the disk of the home folder, then go on.",
        ) from error
