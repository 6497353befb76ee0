"""Where a table's keys come from: files, snapshots, what was asked before, or whole domains.

Files elsewhere, and what databases answer, are in ``keyed_sources``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from tidemill.data.batches import SourceFile
from tidemill.data.catalog import get_dataset
from tidemill.data.ledger import each_part
from tidemill.data.queries import spilling
from tidemill.data.records import DatasetOptions
from tidemill.data.schema import Column as SchemaColumn
from tidemill.data.snapshots import get_snapshot, list_snapshots, snapshot_paths
from tidemill.data.sources import SUFFIXES, locate, read
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.recipes.asked_keys import AskedKeys

MAX_DOMAIN_ROWS = 20_000_000
"""More combinations than that are no domain to store whole."""

_BATCH = 1 << 16
_MEMORY = "500MB"
_CSV_BLOCK = 16 << 20
_LEDGER_LASTS_S = 86_400.0
_ROW_BYTES = 60  # of a stored answer with its key, as a first guess


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRows:
    """Rows with every input of a model, in pieces.

    Args:
        name: what they are, for the table's record.
        batches: returns them, from the beginning, each time.
        identity: equal for equal rows, so that a build that was cut off can go on; None if nobody
            can say that.
        times: the column that says how often a row counts; None where each counts once.
        representatives: whether rows stand for others that are not there.
        lasting_s: where the same source has other rows later on: for so long, a build that was
            cut off goes on with those that it had read.
    """

    name: str
    batches: Callable[[], Iterator[pa.RecordBatch]]
    identity: str | None = None
    times: str | None = None
    representatives: bool = False
    lasting_s: float | None = None


def rows_of_table(rows: pa.Table, name: str) -> KeyedRows:
    """Returns the rows of a table in memory."""
    empty = pa.RecordBatch.from_pylist([], rows.schema)
    return KeyedRows(name=name, batches=lambda: iter(rows.to_batches(_BATCH) or [empty]))


def rows_of_files(path: Path, name: str | None = None) -> KeyedRows:
    """Returns the rows of a file, or of all files of data in a folder and below it.

    They are of the forms that an ingest takes. A CSV file's types are those of its first 16 MiB.

    Raises:
        NotFound: there is no such file, or no such file in the folder.
    """
    if path.is_dir():
        below = (file for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES))
        files = sorted(file for file in below if file.is_file() and not file.name.startswith("."))
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise NotFound(
            f"{path} does not exist" if not path.is_dir() else f"{path} holds no keyed rows",
            remedy="Give a file of data, or a folder of such.",
        )
    stats = [file.stat() for file in files]
    seen = [
        (str(file), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
        for file, s in zip(files, stats, strict=True)
    ]
    return KeyedRows(
        name=name or str(path),
        batches=lambda: itertools.chain.from_iterable(map(_local_batches, files)),
        identity=hashlib.sha256(repr(seen).encode()).hexdigest(),
    )


def rows_of_snapshot(home: Home, told: str) -> KeyedRows:
    """Returns the rows of a dataset, ``NAME``, or of one of its snapshots, ``NAME@ID``.

    Raises:
        NotFound: there is no such dataset or snapshot, or it has none.
    """
    name, _, chosen = told.partition("@")
    found = [get_snapshot(home, chosen)] if chosen else list_snapshots(home, name)
    if not found or any(snapshot.dataset != name for snapshot in found):
        raise NotFound(
            f"dataset {name[:100]!r} has no snapshot {chosen}".strip(),
            remedy=f"List them: tidemill snapshots {name[:100]}.",
        )

    def batches() -> Iterator[pa.RecordBatch]:
        for path in snapshot_paths(home, found):
            yield from _file_batches(path, str(path))

    identity = hashlib.sha256(repr([each.id for each in found]).encode()).hexdigest()
    return KeyedRows(name=f"snapshot {told}", batches=batches, identity=identity)


def rows_of_ledger(
    home: Home,
    application: str,
    inputs: Sequence[str],
    *,
    head: int | None = None,
    key: Sequence[str] = (),
    represent: Mapping[str, str] = MappingProxyType({}),
) -> KeyedRows:
    """Returns what an application was asked, each distinct question once, the most frequent first.

    Questions by key alone are left out: they hold no other input. A build that is cut off once it
    has read them goes on with them, for a day.

    Args:
        home: the installation.
        application: who was asked.
        inputs: of its model.
        head: only those about so many keys, the most frequent.
        key: its columns; without any, each question is a key.
        represent: what represents some of the key's columns.

    Raises:
        InvalidInput: the head is not positive.
    """
    if head is not None and head < 1:
        raise InvalidInput(f"a head of {head} keys holds none", remedy="Give 1 or more.")

    def of_keys() -> Iterator[pa.RecordBatch]:
        asked = AskedKeys(
            home=home, application=application, inputs=inputs, key=key, represent=represent
        )
        for texts in asked.head(head or 0):
            rows = [orjson.loads(each) for each in texts]
            yield pa.RecordBatch.from_pydict({name: [row[name] for row in rows] for name in inputs})

    def batches() -> Iterator[pa.RecordBatch]:
        parts = each_part(home.ledger_path, application)
        asked = (b for part in parts for b in part.select(["inputs"]).to_batches(_BATCH))
        wanted = set(inputs)
        with home.scratch("asked") as work, spilling(work, memory=_MEMORY) as connection:
            schema = pa.schema([("inputs", pa.large_string())])
            reader = pa.RecordBatchReader.from_batches(schema, asked)
            connection.register("asked", reader)
            query = (
                "select inputs, count(*) as times from asked group by inputs "
                "order by times desc, inputs"
            )
            left = head
            for batch in pa.RecordBatchReader.from_stream(connection.sql(query)):
                texts = batch.column("inputs").to_pylist()
                rows = [row for row in map(orjson.loads, texts) if wanted <= row.keys()]
                rows = rows if left is None else rows[:left]
                left = None if left is None else left - len(rows)
                if rows:
                    columns = {name: [row[name] for row in rows] for name in inputs}
                    yield pa.RecordBatch.from_pydict(columns)
                if left == 0:
                    return

    of = "" if head is None else f"the {head} most frequent of "
    return KeyedRows(
        name=f"{of}what {application} was asked",
        batches=of_keys if head is not None and key else batches,
        identity=repr(
            ("ledger", application, tuple(inputs), head, tuple(key), sorted(represent.items()))
        ),
        lasting_s=_LEDGER_LASTS_S,
    )


def rows_of_domain(home: Home, dataset: str, inputs: Mapping[str, str]) -> KeyedRows:
    """Returns every combination of the values that a dataset's schema allows.

    A column has a domain if its schema lists its values, or bounds a whole number on both sides, or
    if it is true or false.

    Args:
        home: the installation.
        dataset: whose schema.
        inputs: the model's, with their types.

    Raises:
        NotFound: there is no such dataset.
        InvalidInput: a column has no domain, or there are too many combinations.
    """
    schema = get_dataset(home, dataset).schema
    domains: dict[str, Sequence[Any]] = {}
    for name, kind in inputs.items():
        column = None if schema is None else schema.column(name)
        domain = _domain(column, kind)
        if domain is None:
            raise InvalidInput(
                f"column {name!r} of {dataset!r} has no domain",
                remedy="List its values in the schema, or bound it with min and max.",
            )
        domains[name] = domain
    count = math.prod(len(domain) for domain in domains.values())
    if count > MAX_DOMAIN_ROWS:
        sizes = " · ".join(f"{len(domain):,} {name}" for name, domain in domains.items())
        raise InvalidInput(
            f"the domains allow {count:,} combinations ({sizes}), about "
            f"{count * _ROW_BYTES / 1e9:,.1f} GB",
            remedy=f"At most {MAX_DOMAIN_ROWS:,} are built; give a source of the keys that matter.",
        )

    def batches() -> Iterator[pa.RecordBatch]:
        rows = itertools.product(*domains.values())
        while part := list(itertools.islice(rows, _BATCH)):
            columns = dict(zip(domains, map(list, zip(*part, strict=True)), strict=True))
            yield pa.RecordBatch.from_pydict(columns)

    identity = hashlib.sha256(repr([(n, list(d)) for n, d in domains.items()]).encode()).hexdigest()
    return KeyedRows(name=f"the domain of {dataset}", batches=batches, identity=identity)


def _domain(column: SchemaColumn | None, kind: str) -> Sequence[Any] | None:
    if kind == "bool":
        return (False, True)
    if column is None:
        return None
    if column.values is not None:
        return column.values
    if isinstance(column.min, int) and isinstance(column.max, int):
        return range(column.min, column.max + 1)
    return None


def rows_of_source(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file that ``locate`` found, at least one batch.

    Texts stay texts, to be cast to what a model wants; those that mean "no value" are null.

    Raises:
        InvalidInput: it cannot be read, or a row of it is none.
        Conflict: somebody wrote to it meanwhile.
        Unavailable: it is elsewhere, and can't be had.
    """
    if _is_plain(file.path):
        if file.elsewhere is not None:
            file.elsewhere.bring()
        yield from _file_batches(file.path, file.name)
        if file.elsewhere is not None:
            file.elsewhere.check()
        return
    for batch in read(file, _OPTIONS, lambda _done, _total: None):
        if batch.unreadable:
            bad = batch.unreadable[0]
            raise InvalidInput(
                f"line {bad.line} of {file.name} is no row: {bad.rule}", remedy="Correct it."
            )
        for each in batch.table.to_batches() or [
            pa.RecordBatch.from_pylist([], batch.table.schema)
        ]:
            yield _with_nulls(each, texts=batch.form != "typed")


_OPTIONS = DatasetOptions()


def _with_nulls(batch: pa.RecordBatch, *, texts: bool) -> pa.RecordBatch:
    """Returns rows whose columns without any value are of text, which casts to everything."""
    none = pa.array(_OPTIONS.null_values, pa.string())
    columns = []
    for column in batch.columns:
        if pa.types.is_null(column.type):
            columns.append(column.cast(pa.string()))
        elif texts:
            columns.append(pc.if_else(pc.is_in(column, none), pa.scalar(None, pa.string()), column))
        else:
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _local_batches(path: Path) -> Iterator[pa.RecordBatch]:
    if _is_plain(path):
        return _file_batches(path, str(path))
    (file,), _ = locate([path])
    return rows_of_source(file)


def _is_plain(path: Path) -> bool:
    """Tells whether Arrow's own readers of Parquet and CSV are for a file, by its name."""
    name = path.name.lower()
    return name.endswith((".parquet", ".csv", ".csv.gz"))


def _file_batches(path: Path, name: str) -> Iterator[pa.RecordBatch]:
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as parquet:
                empty = True
                for batch in parquet.iter_batches(_BATCH):
                    empty = False
                    yield batch
                if empty:
                    yield pa.RecordBatch.from_pylist([], parquet.schema_arrow)
            return
        options = csv.ReadOptions(block_size=_CSV_BLOCK)
        with csv.open_csv(path, read_options=options) as reader:
            for batch in reader:
                batch.schema.names  # noqa: B018 - only now their bytes are decoded
                yield batch
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise InvalidInput(
            f"{name} cannot be read: {error}", remedy="Give a CSV or Parquet file of keyed rows."
        ) from error
