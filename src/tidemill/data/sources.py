"""Finds the files meant and reads each as a stream of batches in constant memory.

They are on this machine, in a bucket, or what a database answers to a query.

What a file is, its first bytes say, not its name: CSV or JSON Lines (plain, gzip, zip; see
``csv_source``, ``json_source``), Parquet, Arrow IPC, Avro.
Every row comes out once: in a batch's table, or among its unreadable rows.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import EACCES
from pathlib import Path

from tidemill.data.arrow_source import MAGIC, read_arrow, read_parquet
from tidemill.data.avro_source import MAGIC as AVRO_MAGIC
from tidemill.data.avro_source import read_avro
from tidemill.data.batches import Batch, Progress, SourceFile, written_to
from tidemill.data.csv_source import read_csv
from tidemill.data.elsewhere import Elsewhere
from tidemill.data.json_source import read_json_lines
from tidemill.data.records import Anomaly, DatasetOptions, SourceRecord
from tidemill.data.spans import is_pattern, read_glob, read_pattern, resolve, span_note
from tidemill.data.sql_source import SqlSource, is_database
from tidemill.data.text_stream import first_bytes
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.files import sha256_file
from tidemill.foundation.names import storable

SUFFIXES = (
    *(".csv", ".csv.gz", ".csv.zip", ".gz", ".zip", ".parquet"),
    *(".jsonl", ".ndjson", ".json", ".arrow", ".feather", ".arrows", ".avro"),
)
"""What the names of files of data end with, in folders and below prefixes."""
_NAMED = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow", ".arrows": "Arrow"}
_NAMED[".avro"] = "Avro"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file that is known by a name, because where it lies is nobody's business.

    Attributes:
        path: where it lies; its ending says its form where its first bytes do not.
        name: what stands in records, messages and beside held rows.
    """

    path: Path
    name: str


Source = Path | str | SqlSource | NamedFile
"""A file, a folder, a pattern of spans, an ``s3://`` URL of such, or a query of a database."""


def locate(
    sources: Sequence[Source], elsewhere: Elsewhere | None = None
) -> tuple[list[SourceFile], list[Anomaly]]:
    """Returns the files meant, each content once, in the order given; a folder means its files.

    Args:
        sources: what is meant.
        elsewhere: makes files of what is not on this machine; without it, such is refused.

    Raises:
        NotFound: a path or an object does not exist, or a pattern of spans matches nothing.
        InvalidInput: nothing was named, a pattern of spans is wrong, a folder holds no file that
            can be read, a path is not a file, or a URL is of no kind that is known; or a database
            refuses its query.
        Unavailable: a bucket or a database can't be reached.
    """
    notes: list[Anomaly] = []
    found: dict[str, SourceFile] = {}
    for source in sources:
        for file in _files(source, elsewhere, notes):
            if file.record.sha256 in found:
                notes.append(_same_content(file, found[file.record.sha256]))
            found.setdefault(file.record.sha256, file)
    if not found:
        raise InvalidInput("no file was named", remedy="Name at least one file of data.")
    return list(found.values()), notes


def read(file: SourceFile, options: DatasetOptions, progress: Progress) -> Iterator[Batch]:
    """Yields the rows of a file in batches; at least one batch, so that its columns are known.

    Args:
        file: from ``locate``.
        options: how text is written.
        progress: told the bytes read so far and the file's size.

    Raises:
        InvalidInput: the file is empty, truncated, not what its name says, or has no header.
        Conflict: somebody wrote to it while it was read.
        Unavailable: it is elsewhere, and can't be had.
    """
    if file.elsewhere is not None:
        file.elsewhere.bring()
    try:
        yield from _batches(file, options, progress)
    except OSError as error:
        raise InvalidInput(
            f"{file.name} cannot be read: {error.strerror or error}", remedy="Check the file."
        ) from error
    if file.elsewhere is not None:
        file.elsewhere.check()
    elif _stamp(file.path) != file.stamp:
        raise written_to(file.name)
    progress(file.record.bytes, file.record.bytes)


def named_sources(
    texts: Sequence[str], *, query: str | None = None, table: str | None = None
) -> list[Source]:
    """Returns sources as a person names them: the URL of a database goes with what it is asked.

    Args:
        texts: paths and URLs.
        query: what each database among them is asked.
        table: or the table of it that is read whole.

    Raises:
        InvalidInput: a database is asked nothing or twice, or a question has no database.
    """
    named: list[Source] = [
        SqlSource(url=text, query=query, table=table) if is_database(text) else text
        for text in texts
    ]
    databases = [each for each in named if isinstance(each, SqlSource)]
    for each in databases:
        each.check()
    if not databases and (query or table) is not None:
        raise InvalidInput(
            "a query is given, and no database",
            remedy="Name one, as postgresql+psycopg://USER@HOST/DATABASE or sqlite:///PATH.",
        )
    return named


# --- which files -----------------------------------------------------------------------------


def _files(
    source: Source, elsewhere: Elsewhere | None, notes: list[Anomaly]
) -> Iterable[SourceFile]:
    if isinstance(source, NamedFile):
        return [_look(source.path, source.name)]
    text = str(source)
    if not isinstance(source, SqlSource) and "://" not in text:
        return map(_look, _expand(source, notes))
    if elsewhere is not None and isinstance(source, SqlSource):
        return [elsewhere.rows(source)]
    if elsewhere is not None and text.startswith("s3://"):
        return elsewhere.objects(text, SUFFIXES, notes)
    scheme = source.name if isinstance(source, SqlSource) else text.partition("://")[0]
    raise InvalidInput(
        f"source {scheme[:200]!r} is not read here",
        remedy="Use a path, s3://BUCKET/PREFIX, or the URL of a database with --query or --table.",
    )


def _expand(source: Path | str, notes: list[Anomaly]) -> list[Path]:
    if is_pattern(str(source)):
        return _newest(str(source), notes)
    path = Path(source)
    try:
        if not path.is_dir():
            return [path]
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable(storable(path), error) from error
    files = [entry for entry in inside if entry.name.lower().endswith(SUFFIXES)]
    if not files:
        raise InvalidInput(
            f"folder {path} holds no data file",
            remedy=f"Put files there that end with {', '.join(SUFFIXES)}.",
        )
    notes += [
        Anomaly(
            kind="ignored_file",
            severity="info",
            message=f"{storable(entry)} is not a data file: not read",
        )
        for entry in inside
        if entry not in files
    ]
    return files


def _newest(text: str, notes: list[Anomaly]) -> list[Path]:
    pattern = read_pattern(text)
    _check_open(text)
    found = resolve(pattern, glob.glob(pattern.glob))  # noqa: PTH207 - it may be absolute
    notes.append(span_note(text, found))
    return [path for one in found.paths for path in _expand(one, notes)]


def _check_open(text: str) -> None:
    """Refuses a pattern if one of its folders is closed: what is newest might be in there."""
    parts = text.split("/")
    for place in range(1, len(parts)):
        wanted = os.X_OK | (os.R_OK if set(parts[place]) & set("{*?") else 0)
        where, regex = read_glob("/".join(parts[:place]) or "/")
        folders = filter(regex.fullmatch, glob.glob(where))  # noqa: PTH207 - it may be absolute
        for folder in sorted(folders):
            if Path(folder).is_dir() and not os.access(folder, wanted):
                closed = PermissionError(EACCES, os.strerror(EACCES))
                raise _unreadable(storable(Path(folder)), closed)


def _unreadable(name: str, error: OSError) -> InvalidInput:
    return InvalidInput(f"{name} cannot be read: {error.strerror}", remedy="Check its permissions.")


def _look(path: Path, known_as: str | None = None) -> SourceFile:
    name = known_as or storable(path)
    try:
        stamp = _stamp(path)
        if not path.is_file():
            raise InvalidInput(f"{name} is not a file", remedy="Give a file or a folder.")
        record = SourceRecord(path=name, sha256=sha256_file(path), bytes=stamp[0])
    except FileNotFoundError as error:
        raise NotFound(f"{name} does not exist", remedy="Check the path.") from error
    except OSError as error:
        raise _unreadable(name, error) from error
    return SourceFile(path=path, record=record, stamp=stamp)


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _same_content(file: SourceFile, first: SourceFile) -> Anomaly:
    return Anomaly(
        kind="repeated_source",
        severity="info",
        message=f"{file.record.path} has the same content as {first.record.path}: read once",
    )


# --- of which form -----------------------------------------------------------------------------


def _batches(file: SourceFile, options: DatasetOptions, progress: Progress) -> Iterator[Batch]:
    with file.path.open("rb") as raw:
        magic = raw.read(4)
    named = _NAMED.get(file.path.suffix.lower())
    kind = "Avro" if magic == AVRO_MAGIC else MAGIC.get(magic)
    if named is not None and (kind is None or not kind.startswith(named)):
        raise InvalidInput(
            f"{file.name} is not {named}" if magic else f"{file.name} is empty",
            remedy="Write it again, or name it after what it is.",
        )
    if kind == "Parquet":
        return read_parquet(file, progress)
    if kind == "Avro":
        return read_avro(file, progress)
    if kind is not None:
        return read_arrow(file, kind, progress)
    if _is_json(file):
        return read_json_lines(file, options, progress)
    return read_csv(file, options, progress)


def _is_json(file: SourceFile) -> bool:
    """Tells by the name, else by the first sign that is not blank."""
    suffixes = [suffix.lower() for suffix in file.path.suffixes[-2:]]
    if any(suffix in (".jsonl", ".ndjson") for suffix in suffixes):
        return True
    begin = first_bytes(file, 1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin[:1] == b"[" and ".json" in suffixes:
        raise InvalidInput(
            f"{file.name} is one JSON list", remedy="Write JSON Lines: one object on each line."
        )
    return begin[:1] == b"{"
