"""Finds the objects meant in a bucket, and brings each when it is to be read.

An object is read in the version that was found, whatever is written meanwhile: asking for it names
its ETag. What is known by an earlier reading, by URL, ETag and size, is not brought to be hashed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidemill.data.records import Anomaly
from tidemill.data.spans import is_pattern, read_glob, read_pattern, resolve, span_note
from tidemill.data.spool import Spool, copying
from tidemill.foundation.bucket import Bucket, BucketObject
from tidemill.foundation.errors import InvalidInput, NotFound, TooLarge
from tidemill.foundation.names import storable

MAX_LISTED = 1_000_000
MAX_OBJECTS = 10_000
_IGNORED_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteObject:
    """An object whose copy comes and goes; see ``batches.Elsewhere``."""

    bucket: Bucket
    found: BucketObject
    spool: Spool
    path: Path
    sha256: str

    def bring(self) -> None:
        """Has the copy there, whole, with the bytes that were hashed."""
        if self.path.exists():
            return
        name = self.bucket.url_of(self.found.key)
        self.spool.make_room(self.found.bytes, name)
        with copying(self.path, name) as copy:
            self.bucket.bring(self.found, copy.write)
            if copy.sha256 != self.sha256:
                raise self.bucket.changed(self.found.key)
        self.spool.keep(self.path, self.found.bytes)

    def check(self) -> None:
        """Raises Conflict where the object is another one by now."""
        if self.bucket.look(self.found.key) != self.found:
            raise self.bucket.changed(self.found.key)


def find_objects(
    bucket: Bucket, suffixes: tuple[str, ...], notes: list[Anomaly]
) -> list[BucketObject]:
    """Returns the objects that a bucket's URL means, in order.

    That is the object of this key; else all below it, where it ends with ``/`` or is a folder's
    name; or what matches it, where it is a pattern with spans, or has a ``*``.

    Args:
        bucket: its key says what is meant.
        suffixes: what the names of data end with, in folders.
        notes: told what was chosen, and what is no data.

    Raises:
        NotFound: there is no such object, or nothing matches.
        InvalidInput: a folder holds no data, or a pattern is wrong.
        TooLarge: there are too many.
        Unavailable: the bucket cannot be read.
    """
    if is_pattern(bucket.key):
        objects = _newest(bucket, suffixes, notes)
    elif "*" in bucket.key:
        objects = _matching(bucket)
    else:
        objects = _at(bucket, bucket.key, suffixes, notes)
    if len(objects) > MAX_OBJECTS:
        raise TooLarge(
            f"{bucket.url_of(bucket.key)} means {len(objects):,} objects",
            remedy=f"At most {MAX_OBJECTS:,} are read at once; name a part of them.",
        )
    return objects


def _at(
    bucket: Bucket, key: str, suffixes: tuple[str, ...], notes: list[Anomaly]
) -> list[BucketObject]:
    if key and not key.endswith("/"):
        found = bucket.look(key)
        if found is not None:
            return [found]
    folder = f"{key.rstrip('/')}/" if key else ""
    inside = [each for each in _listed(bucket, folder) if _visible(each.key, folder)]
    if not inside:
        raise NotFound(f"{bucket.url_of(key)} does not exist", remedy="Check bucket and key.")
    data = [each for each in inside if each.key.lower().endswith(suffixes)]
    if not data:
        raise InvalidInput(
            f"{bucket.url_of(key)} holds no data file",
            remedy=f"Put objects there that end with {', '.join(suffixes)}.",
        )
    _note_ignored([each for each in inside if each not in data], bucket, notes)
    return data


def _newest(bucket: Bucket, suffixes: tuple[str, ...], notes: list[Anomaly]) -> list[BucketObject]:
    """Returns the objects of the newest span; a folder that matches means what is in it."""
    pattern = read_pattern(bucket.key.rstrip("/"))
    matching: dict[str, BucketObject | None] = {}
    for each in _listed(bucket, _literal(pattern.glob)):
        for place in _places(each.key):
            if pattern.regex.fullmatch(place):
                matching[place] = each if place == each.key else matching.get(place)
    found = resolve(pattern, matching)
    notes.append(span_note(bucket.url_of(bucket.key), found))
    objects: dict[str, BucketObject] = {}
    for path in found.paths:
        one = matching[path]
        for each in [one] if one is not None else _at(bucket, f"{path}/", suffixes, notes):
            objects[each.key] = each
    return list(objects.values())


def _matching(bucket: Bucket) -> list[BucketObject]:
    glob, regex = read_glob(bucket.key)
    found = [each for each in _listed(bucket, _literal(glob)) if regex.fullmatch(each.key)]
    if not found:
        raise NotFound(
            f"nothing matches {bucket.url_of(bucket.key)!r}", remedy="Check the pattern."
        )
    return found


def _listed(bucket: Bucket, prefix: str) -> Iterator[BucketObject]:
    for count, each in enumerate(bucket.scan(prefix), 1):
        if count > MAX_LISTED:
            raise TooLarge(
                f"{bucket.url_of(prefix)} has more than {MAX_LISTED:,} objects",
                remedy="Name a longer prefix.",
            )
        if not each.key.endswith("/"):  # such are there for folders that are to be seen
            yield each


def _literal(glob: str) -> str:
    """Returns what every key that matches begins with.

    Example:
        >>> _literal("in/span-*/[[]x].csv")
        'in/span-'
    """
    return glob[: min((glob.index(sign) for sign in "*?[" if sign in glob), default=len(glob))]


def _places(key: str) -> Iterator[str]:
    """Yields a key and the folders that it lies in.

    Example:
        >>> list(_places("a/b/c.csv"))
        ['a', 'a/b', 'a/b/c.csv']
    """
    for at, sign in enumerate(key):
        if sign == "/" and at:
            yield key[:at]
    yield key


def _visible(key: str, folder: str) -> bool:
    return not any(part.startswith(".") for part in key[len(folder) :].split("/"))


def _note_ignored(ignored: list[BucketObject], bucket: Bucket, notes: list[Anomaly]) -> None:
    said = [storable(bucket.url_of(each.key)) for each in ignored[:_IGNORED_SHOWN]]
    if len(ignored) > _IGNORED_SHOWN:
        said[-1] += f", and {len(ignored) - _IGNORED_SHOWN:,} more beside it,"
    notes += [
        Anomaly(
            kind="ignored_file", severity="info", message=f"{each} is not a data file: not read"
        )
        for each in said
    ]
