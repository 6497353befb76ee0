"""Uploads: files on their way in, kept piece by piece until they are ingested.

Each is a folder, ``HOME/uploads/DATASET/UPLOAD``: what is known of it, replaced whole, and its
bytes. What lies beyond the acknowledged offset does not count, and is cut off when the upload goes
on. All of it is on this machine's disk, whatever keeps the store and the files.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidemill.data.upload_records import Upload, UploadTerms, upload_decoder
from tidemill.foundation.durable import make_folder, sync_folder, write_atomic
from tidemill.foundation.errors import (
    Conflict,
    Corrupted,
    DiskFull,
    InvalidInput,
    NotFound,
    Overloaded,
    TooLarge,
)
from tidemill.foundation.home import Home
from tidemill.foundation.locks import hold
from tidemill.foundation.names import check_name
from tidemill.foundation.settings import UploadsSettings

MAX_FINISHED = 1000
"""Of how many it is known what became of them, at most."""

_RECORD = ".upload.json"
_PROGRESS = ".ingested"


class Uploads:
    """The uploads of an installation; safe to share between threads and processes.

    Args:
        home: the installation.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    @property
    def settings(self) -> UploadsSettings:
        """The limits that hold."""
        return self._home.settings.uploads

    @property
    def _path(self) -> Path:
        return self._home.path / "uploads"

    def begin(self, dataset: str, upload: str, terms: UploadTerms) -> Upload:
        """Makes an upload, with no byte yet.

        Raises:
            InvalidInput: a name is not one.
            Conflict: there is one of that name.
            Overloaded: as many as may be are under way.
            TooLarge: it will be larger than an upload may be.
            DiskFull: there is no room for it.
        """
        check_name("dataset", dataset)
        check_name("upload", upload)
        check_name("file", terms.file)
        self.check_size(terms.length or 0)
        self.check_room(terms.length or 0)
        now = self._home.clock.now()
        made = Upload(dataset=dataset, upload=upload, terms=terms, created_at=now, changed_at=now)
        make_folder(self._path)
        with hold(self._path / ".lock"):
            open_ones = sum(not each.finished for each in self.scan())
            if open_ones >= self.settings.max_open:
                raise Overloaded(
                    f"{open_ones} uploads are under way, as many as uploads.max_open allows",
                    remedy="Finish or delete one of them, or wait.",
                )
            if (self.folder(made) / _RECORD).exists():
                raise Conflict(
                    f"there is an upload {upload!r} of dataset {dataset!r}",
                    remedy="Ask how far it is, or choose another name.",
                )
            make_folder(self.folder(made))
            self.data_path(made).touch(mode=0o600)
            return self.save(made)

    def find(self, dataset: str, upload: str) -> Upload:
        """Returns an upload as it is now.

        Raises:
            NotFound: there is none of that name, or it is forgotten.
        """
        check_name("dataset", dataset)
        check_name("upload", upload)
        folder = self._path / dataset / upload
        try:
            found = upload_decoder.decode((folder / _RECORD).read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                f"dataset {dataset!r} has no upload {upload!r}",
                remedy="Begin it with a piece at offset 0.",
            ) from error
        except msgspec.DecodeError as error:
            raise Corrupted(
                f"what is known of upload {upload!r} cannot be read: {error}",
                remedy=f"Remove HOME/uploads/{dataset}/{upload}, and send the file again.",
            ) from error
        if found.state != "received":
            return found
        with contextlib.suppress(OSError, ValueError):
            return msgspec.structs.replace(
                found, ingested_bytes=int((folder / _PROGRESS).read_text("ascii"))
            )
        return found

    def scan(self, dataset: str | None = None) -> Iterator[Upload]:
        """Yields all uploads, or those of one dataset, the oldest first."""
        if dataset is not None:
            check_name("dataset", dataset)
        found = []
        for record in self._path.glob(f"{dataset or '*'}/*/{_RECORD}"):
            with contextlib.suppress(NotFound, Corrupted, InvalidInput):
                found.append(self.find(record.parents[1].name, record.parent.name))
        yield from sorted(found, key=lambda each: (each.created_at, each.upload))

    def save(self, upload: Upload) -> Upload:
        """Makes what is known of an upload durable, and returns it."""
        write_atomic(self.folder(upload) / _RECORD, msgspec.json.encode(upload))
        return upload

    def changed(self, upload: Upload, **fields: object) -> Upload:
        """Returns and keeps the upload with some fields changed, as of now."""
        now = self._home.clock.now()
        return self.save(msgspec.structs.replace(upload, changed_at=now, **fields))

    def note_progress(self, upload: Upload, ingested_bytes: int) -> None:
        """Says how far an ingest is; not durable, since it begins anew."""
        with contextlib.suppress(OSError):
            (self.folder(upload) / _PROGRESS).write_text(str(ingested_bytes), encoding="ascii")

    def folder(self, upload: Upload) -> Path:
        """Returns where an upload is kept."""
        return self._path / upload.dataset / upload.upload

    def data_path(self, upload: Upload) -> Path:
        """Returns where an upload's bytes are."""
        return self.folder(upload) / upload.terms.file

    def remove_data(self, upload: Upload) -> None:
        """Removes an upload's bytes, and leaves what became of it."""
        for path in (self.data_path(upload), self.folder(upload) / _PROGRESS):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def at_work(self, upload: Upload) -> Iterator[None]:
        """Keeps an upload that is whole from everybody else: it is ingested, or removed.

        Raises:
            Conflict: somebody else does either.
            NotFound: it is removed.
        """
        busy = Conflict(
            f"upload {upload.upload!r} is whole, and is being ingested",
            remedy="Ask what became of it; held rows are discarded by tidemill quarantine discard.",
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold(self.folder(upload) / ".at_work", busy=busy))
            except FileNotFoundError as error:
                raise NotFound(
                    f"upload {upload.upload!r} was removed", remedy="Send the file again."
                ) from error
            yield

    def forget(self, upload: Upload) -> None:
        """Removes an upload whole: what is known of it first."""
        folder = self.folder(upload)
        with hold(self._path / ".lock"):
            (folder / _RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                sync_folder(folder.parent)
                folder.parent.rmdir()  # the last one of its dataset

    def forget_nameless(self, *, before: float) -> int:
        """Forgets uploads that nobody can go on with: a server that took them is gone.

        Args:
            before: those that were begun earlier, in seconds since the epoch.
        """
        gone = [
            each
            for each in self.scan()
            if each.state == "open" and not each.terms.named and each.created_at < before
        ]
        for each in gone:
            self.forget(each)
        return len(gone)

    def sweep(self) -> int:
        """Forgets what nobody went on with in time, and what is over; returns how many."""
        oldest = self._home.clock.now() - self.settings.keep_s
        known = list(self.scan())
        finished = sorted(
            (each for each in known if each.finished), key=lambda each: -each.changed_at
        )
        gone = [each for each in known if each.state != "received" and each.changed_at < oldest]
        gone += [each for each in finished[MAX_FINISHED:] if each not in gone]
        for each in gone:
            self.forget(each)
        return len(gone)

    def check_size(self, size_bytes: int) -> None:
        """Checks that an upload may be that large.

        Raises:
            TooLarge: it may not.
        """
        if size_bytes > self.settings.max_bytes:
            raise TooLarge(
                f"the upload is over uploads.max_bytes, {self.settings.max_bytes} bytes",
                remedy="Send it as several files, each with its header.",
            )

    def check_room(self, more_bytes: int) -> None:
        """Checks that so many bytes more have room.

        Raises:
            DiskFull: too little would be free then.
        """
        free = shutil.disk_usage(self._home.path).free
        if free - more_bytes < self.settings.min_free_bytes:
            raise DiskFull(
                f"of {free} bytes that are free, uploads.min_free_bytes, "
                f"{self.settings.min_free_bytes}, must stay so",
                remedy="Free space on the disk of the home folder, then go on from the offset "
                "that was acknowledged.",
            )
