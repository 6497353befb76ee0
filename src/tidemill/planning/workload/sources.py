"""Where requests are read from: a trace file, a web server's access log, or the ledger."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from tidemill.data.keys import hash_rows
from tidemill.data.ledger import each_part
from tidemill.data.queries import quoted, spilling
from tidemill.data.represented_rows import key_columns, represented_rows
from tidemill.foundation.errors import InvalidInput, NotFound, TidemillError
from tidemill.foundation.names import nearest
from tidemill.planning.workload.sketch import Floats, Workload

if TYPE_CHECKING:
    import pyarrow as pa

_AS_THEY_ARE: Mapping[str, str] = {}

Progress = Callable[[int, int], None]
"""Told what is done and how much there is: bytes of a file, or 0 where that is not known."""

_BATCH = 1 << 16
_MEMORY = "500MB"
_TOLERATED = 0.001
"""A trace with a larger part of its rows out of order is sorted first."""

_LOG_LINE = re.compile(
    rb'\S+ \S+ .*?\[([^\]]{20,40})\] "(?:[A-Z]{3,10} )?(\S+)(?: HTTP/[0-9.]+)?" [0-9]{3} '
)
_LATEST_S = 1e11
"""The year 5138: what is later is counted in milliseconds, or less."""
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


def read_trace(
    path: Path,
    key: Sequence[str] | None = None,
    *,
    time: str = "time",
    represent: Mapping[str, str] = _AS_THEY_ARE,
    progress: Progress | None = None,
) -> Workload:
    """Returns the workload of a trace: CSV or Parquet with a time and key columns.

    A trace whose rows are out of order is sorted first, on disk where it is large.

    Args:
        path: the file, or a folder of Parquet files.
        key: the columns of the key; all but the time if None.
        time: the column of the time: timestamps, or numbers of seconds.
        represent: the representations of some columns of the key.
        progress: told the rows done.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read, or lacks a column.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist", remedy="Check the path.")
    seen = _taken(_batches(path), key, time, represent, progress)
    if seen.out_of_order > _TOLERATED:
        seen = _taken(_sorted(path, time), key, time, represent, progress)
    return seen


def read_access_log(
    path: Path,
    *,
    represent: Mapping[str, str] = _AS_THEY_ARE,
    progress: Progress | None = None,
) -> Workload:
    """Returns the workload of an access log in the common or combined format, perhaps gzipped.

    The key is what was asked for, its query string included. Lines of another form are skipped and
    counted.

    Args:
        path: the file.
        represent: the representation of ``path``, which is the key, if any.
        progress: told the bytes read and the file's size.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read.
    """
    import pyarrow as pa  # noqa: PLC0415

    if not path.is_file():
        raise NotFound(f"{path} does not exist", remedy="Check the path.")
    seen, size = Workload(), path.stat().st_size
    try:
        with path.open("rb") as raw:
            for lines in _chunks(_unzipped(raw)):
                found = [_log_entry(line) for line in lines]
                entries = [each for each in found if each is not None]
                seen.skipped += len(found) - len(entries)
                times = np.array([at for at, _ in entries], np.float64)
                asked = pa.table({"path": pa.array([path for _, path in entries], pa.string())})
                _take(seen, times, represented_rows(asked, represent), ["path"])
                if progress is not None:
                    progress(raw.tell(), size)
    except (OSError, EOFError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {error}", remedy="Give an access log, plain or gzipped."
        ) from error
    return seen


def read_served(
    ledger: Path,
    application: str,
    key: Sequence[str],
    *,
    represent: Mapping[str, str] = _AS_THEY_ARE,
    since: float | None = None,
    progress: Progress | None = None,
) -> Workload:
    """Returns the workload of what an application was asked, as the ledger has it.

    Args:
        ledger: its folder.
        application: whose queries.
        key: the columns of the key; all inputs if there are none.
        represent: the representations of some columns of the key.
        since: what was answered before that moment does not count; None counts all.
        progress: told the rows done.

    Raises:
        InvalidInput: nothing that was asked has all of the columns.
    """
    served = Served(application, key, represent)
    for part in each_part(ledger, application, since=since):
        served.take(part, progress)
        if served.failed is not None:
            break
    return served.workload()


def read_each_served(ledger: Path, each: Sequence[Served], *, since: float) -> None:
    """Has each take what was asked since a moment; the ledger is read once for all of them.

    Args:
        ledger: its folder.
        each: one for each application. What goes wrong with one stops no other: its ``workload``
            says it.
        since: what was answered before that moment does not count.
    """
    import pyarrow.compute as pc  # noqa: PLC0415

    for part in each_part(ledger, None, since=since):
        for served in each:
            served.take(part.filter(pc.equal(part["application"], served.application)))


class Served:
    """What an application was asked, as it is read from the ledger.

    A request's time is that of its answer: those that were answered in one turn of a gateway have
    the same one. Those that lack a column of the key, as they were asked before it was the key, are
    skipped and counted; so are, without a key, those that lack a represented column.

    Args:
        application: whose queries.
        key: the columns of the key; all inputs if there are none.
        represent: the representations of some columns of the key.
    """

    def __init__(
        self, application: str, key: Sequence[str], represent: Mapping[str, str] = _AS_THEY_ARE
    ) -> None:
        self.application = application
        self._key = key
        self._represent = represent
        self._seen = Workload()
        self._lacking: str | None = None
        self._done = self._taken = 0
        self.failed: TidemillError | None = None

    def take(self, part: pa.Table, progress: Progress | None = None) -> None:
        """Takes its rows of the ledger in, in the order of time; none once some were no good.

        Args:
            part: predictions of this application.
            progress: told the rows done.
        """
        for start in range(0, part.num_rows, _BATCH):
            if self.failed is None:
                try:
                    self._take(part.slice(start, _BATCH))
                except TidemillError as error:
                    self.failed = error
            if progress is not None:
                progress(self._done, 0)

    def workload(self) -> Workload:
        """Returns what it took in.

        Raises:
            InvalidInput: nothing of it has all of the columns.
            TidemillError: some of it could not be taken in.
        """
        if self.failed is not None:
            raise self.failed
        if self._lacking is not None and not self._taken:
            names = list(self._key or self._represent)
            raise _no_input(self.application, names, orjson.loads(self._lacking))
        return self._seen

    def _take(self, batch: pa.Table) -> None:
        times = np.asarray(batch["time"].to_numpy(), np.float64)
        keys, whole = _keys(batch["inputs"].to_pylist(), self._key, self._represent)
        if not whole.all():
            self._lacking = self._lacking or batch["inputs"][int(whole.argmin())].as_py()
            self._seen.skipped += int((~whole).sum())
        _take(self._seen, times[whole], keys, keys.column_names)
        self._taken += int(whole.sum())
        self._done += batch.num_rows


def _keys(
    inputs: Sequence[str], key: Sequence[str], represent: Mapping[str, str]
) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Returns the keys of the questions that have all of its columns, and which those are.

    Where some columns are represented, these are made of values as they are; all else is text.
    Without a key, those that have all of the represented columns count, each by all that it has.
    """
    import pyarrow as pa  # noqa: PLC0415

    if not key and not represent:
        return pa.table({"key": inputs}), np.ones(len(inputs), np.bool_)
    rows = [orjson.loads(each) for each in inputs]
    names = list(key or represent)
    whole = np.array([all(name in row for name in names) for row in rows], np.bool_)
    kept = [row for row, has in zip(rows, whole, strict=True) if has]
    if not represent or not kept:
        return pa.table({"key": pa.array([_said(row, names) for row in kept], pa.string())}), whole
    if key:
        return key_columns(kept, key, represent), whole
    folded = pa.table({name: [row[name] for row in kept] for name in represent})
    stands = represented_rows(folded, represent)
    alike = [{**row, **stood} for row, stood in zip(kept, stands.to_pylist(), strict=True)]
    return pa.table({"key": [_said(row, sorted(row)) for row in alike]}), whole


def _said(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={row[name]}" for name in names)


def _no_input(application: str, key: Sequence[str], values: Mapping[str, Any]) -> InvalidInput:
    missing = next(name for name in key if name not in values)
    return InvalidInput(
        f"queries of {application!r} have no input {missing!r}",
        remedy=f"Choose among: {', '.join(values)}.",
    )


def _taken(
    batches: Iterable[pa.RecordBatch],
    key: Sequence[str] | None,
    time: str,
    represent: Mapping[str, str],
    progress: Progress | None,
) -> Workload:
    import pyarrow as pa  # noqa: PLC0415

    seen, done = Workload(), 0
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        columns = _columns(rows.column_names, key, time)
        times = _seconds(rows.column(time), time)
        known = np.isfinite(times)
        if not known.all():
            seen.skipped += int((~known).sum())
            rows, times = rows.filter(pa.array(known)), times[known]
        _take(seen, times, represented_rows(rows.select(columns), represent), columns)
        done += batch.num_rows
        if progress is not None:
            progress(done, 0)
    return seen


def _take(seen: Workload, times: Floats, keys: pa.Table, columns: Sequence[str]) -> None:
    def name(at: int) -> str:
        row = keys.slice(at, 1).to_pylist()[0]
        if len(columns) == 1:
            return str(row[columns[0]])[:200]
        return ", ".join(f"{column}={row[column]}" for column in columns)[:200]

    if len(times):
        seen.update(times, hash_rows(keys, columns), name)


def _columns(names: list[str], key: Sequence[str] | None, time: str) -> list[str]:
    if time not in names:
        raise InvalidInput(
            f"the trace has no column {time!r}", remedy=f"Name its time: {nearest(time, names)}"
        )
    found = [name for name in names if name != time] if key is None else list(key)
    for column in found:
        if names.count(column) != 1:
            raise InvalidInput(
                f"the trace has {'several columns' if column in names else 'no column'} {column!r}",
                remedy=f"Its columns: {', '.join(names[:30])}.",
            )
    if not found:
        raise InvalidInput(
            f"the trace has no column but {time!r}", remedy="Give the columns of the key, too."
        )
    return found


def _seconds(column: Any, name: str) -> Floats:
    """Returns times as seconds, NaN where there is none."""
    import pyarrow as pa  # noqa: PLC0415

    kind = column.type
    try:
        if pa.types.is_string(kind) or pa.types.is_date(kind):
            column, kind = column.cast(pa.timestamp("us")), pa.timestamp("us")
        if pa.types.is_timestamp(kind):
            micros = column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
            return np.asarray(micros.cast(pa.float64(), safe=False).to_numpy(), np.float64) / 1e6
        seconds = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException as error:
        raise InvalidInput(
            f"column {name!r} of the trace holds no times: {str(error)[:200]}",
            remedy="Give timestamps, or seconds.",
        ) from error
    far = seconds[np.isfinite(seconds) & (np.abs(seconds) > _LATEST_S)]
    if len(far):
        raise InvalidInput(
            f"column {name!r} of the trace holds {far[0]:.6g}, which are no seconds since 1970 or "
            "since its beginning",
            remedy="Give timestamps, or seconds: divide milliseconds by 1,000.",
        )
    return seconds


def trace_format(path: Path) -> Literal["parquet", "csv"]:
    """Returns what a trace is written in: a folder's files are Parquet, as is what is called so.

    Example:
        >>> trace_format(Path("requests.parquet")), trace_format(Path("requests.csv"))
        ('parquet', 'csv')
    """
    return "parquet" if path.is_dir() or path.suffix.lower() == ".parquet" else "csv"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.dataset as ds  # noqa: PLC0415

    try:
        found = ds.dataset(path, format=trace_format(path))
        yield from found.to_batches(batch_size=_BATCH, use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {str(error)[:300]}", remedy="Give a CSV or Parquet file."
        ) from error


def _sorted(path: Path, time: str) -> Iterator[pa.RecordBatch]:
    import duckdb  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    source = str(path / "**/*.parquet") if path.is_dir() else str(path)
    column = quoted(time)
    reader = f"read_{trace_format(path)}(?)"
    with TemporaryDirectory() as folder, spilling(Path(folder), memory=_MEMORY) as connection:
        try:
            query = f"select * from {reader} order by {column}"  # noqa: S608 - quoted
            found = connection.sql(query, params=[source])
            yield from pa.RecordBatchReader.from_stream(found)
        except duckdb.Error as error:
            raise InvalidInput(
                f"{path} cannot be sorted by {time!r}: {str(error)[:300]}",
                remedy="Sort it by its time.",
            ) from error


def _unzipped(raw: IO[bytes]) -> IO[bytes] | gzip.GzipFile:
    start = raw.read(2)
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if start == b"\x1f\x8b" else raw


def _chunks(lines: IO[bytes] | gzip.GzipFile) -> Iterator[list[bytes]]:
    while chunk := lines.readlines(_BATCH * 64):
        yield chunk


def _log_entry(line: bytes) -> tuple[float, str] | None:
    found = _LOG_LINE.match(line[:8192])
    if found is None:
        return None
    try:
        at = _log_seconds(found[1].decode())
    except ValueError:
        return None
    return at, found[2].decode("utf-8", "replace")


def _log_seconds(text: str) -> float:
    """Returns a moment as access logs have it; their months are English whatever the locale.

    Example:
        >>> _log_seconds("01/Jan/1970:01:00:01 +0100")
        1.0
    """
    day, month, rest = text.split("/", 2)
    year, clock = rest.split(":", 1)
    hours, zone = clock.split(" ")
    at = _MONTHS.index(month) // 3 + 1
    said = f"{year}-{at:02}-{day}T{hours}{zone[:3]}:{zone[3:]}"
    return datetime.fromisoformat(said).timestamp()
