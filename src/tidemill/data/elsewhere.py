"""Sources that are not files of this machine: found, copied to a bounded spool, and known again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.data.batches import Progress, SourceFile
from tidemill.data.bucket_source import RemoteObject, find_objects
from tidemill.data.object_hashes import KnownObject, find_known, keep_known
from tidemill.data.records import Anomaly, SourceRecord
from tidemill.data.spool import Spool, copying
from tidemill.data.sql_source import SqlSource, spool_query
from tidemill.foundation.bucket import Bucket, BucketObject
from tidemill.foundation.home import Home
from tidemill.foundation.names import storable

_NOWHERE = (0, 0, 0)


class Elsewhere:
    """Makes files of what is elsewhere; they can be read while ``looking_elsewhere`` lasts.

    Args:
        home: the installation, with what it knows of objects that were read before.
        folder: an empty folder for copies.
        progress: told the bytes that were brought, and all that are to be brought and read, or 0
            where nobody knows.
    """

    def __init__(self, home: Home, folder: Path, progress: Progress) -> None:
        self._home = home
        self._spool = Spool(folder, max_bytes=home.settings.data.spool_bytes)
        self._progress = progress
        self._total = 0
        self.brought = 0

    def rows(self, source: SqlSource) -> SourceFile:
        """Asks a database, and returns the rows that it gave as a file.

        Raises:
            InvalidInput: it refuses the query, or gives what can't be kept.
            TooLarge: the rows take more than the spool may.
            Unavailable: it can't be asked, or the disk is full.
        """
        name, path, before = source.name, self._spool.place("rows.arrows"), self.brought
        with copying(path, name) as copy:

            def told(written: int) -> None:
                self._spool.make_room(written, name)
                self.brought = before + written
                self._progress(self.brought, 0)

            password = self._home.settings.data.sql_password
            query = spool_query(source, copy, password=password, told=told)
        self._spool.keep(path, copy.bytes, for_good=True)
        self.brought = before + copy.bytes
        record = SourceRecord(
            path=storable(name), sha256=copy.sha256, bytes=copy.bytes, version=f"query:{query}"
        )
        return SourceFile(path=path, record=record, stamp=_NOWHERE, elsewhere=_Copied())

    def objects(
        self, url: str, suffixes: tuple[str, ...], notes: list[Anomaly]
    ) -> list[SourceFile]:
        """Returns the objects that a bucket's URL means, hashed; see ``find_objects``.

        Raises:
            NotFound: there is none.
            Conflict: one was written to meanwhile.
            Unavailable: the bucket can't be read.
        """
        bucket = Bucket(url)
        found = find_objects(bucket, suffixes, notes)
        known = find_known(self._home, [bucket.url_of(each.key) for each in found])
        places = [(each, known.get(_named(bucket, each))) for each in found]
        self._total += 2 * sum(each.bytes for each, sha256 in places if sha256 is None)
        return [self._file(bucket, each, sha256) for each, sha256 in places]

    def _file(self, bucket: Bucket, found: BucketObject, sha256: str | None) -> SourceFile:
        name, path = bucket.url_of(found.key), self._spool.place(found.key)
        if sha256 is None:
            sha256 = self._hashed(bucket, found, path)
            keep_known(self._home, _named(bucket, found), sha256)
        record = SourceRecord(
            path=storable(name), sha256=sha256, bytes=found.bytes, version=f"etag:{found.etag}"
        )
        there = RemoteObject(
            bucket=bucket, found=found, spool=self._spool, path=path, sha256=sha256
        )
        return SourceFile(path=path, record=record, stamp=_NOWHERE, elsewhere=there)

    def _hashed(self, bucket: Bucket, found: BucketObject, path: Path) -> str:
        """Returns an object's hash; its copy stays where there is room beside the others."""
        fits = self._spool.fits(found.bytes)
        with copying(path if fits else None, bucket.url_of(found.key)) as copy:

            def take(piece: bytes) -> None:
                copy.write(piece)
                self.brought += len(piece)
                self._progress(self.brought, self._total)

            bucket.bring(found, take)
        if fits:
            self._spool.keep(path, found.bytes)
        return copy.sha256


class _Copied:
    """Rows of a query: the copy is all there is."""

    def bring(self) -> None: ...

    def check(self) -> None: ...


@contextmanager
def looking_elsewhere(home: Home, progress: Progress) -> Iterator[Elsewhere]:
    """Gives what makes files of sources elsewhere; their copies are gone at the end."""
    with home.scratch("spool") as folder:
        yield Elsewhere(home, folder, progress)


def _named(bucket: Bucket, found: BucketObject) -> KnownObject:
    return KnownObject(url=bucket.url_of(found.key), etag=found.etag, bytes=found.bytes)
