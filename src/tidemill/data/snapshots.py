"""Snapshots: the accepted rows of one ingest each, immutable, verified when read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.catalog import find_reviews, find_snapshots, get_dataset
from tidemill.data.records import Snapshot, SnapshotFile
from tidemill.data.summaries import TableStatistics
from tidemill.foundation.errors import Corrupted, InvalidInput, NotFound
from tidemill.foundation.files import content_sha256, sha256_file
from tidemill.foundation.home import Home


def list_snapshots(home: Home, name: str) -> list[Snapshot]:
    """Returns a dataset's snapshots, oldest first.

    Raises:
        NotFound: there is no such dataset.
    """
    get_dataset(home, name)
    return find_snapshots(home, dataset=name)


def batches_of(home: Home, name: str) -> list[Snapshot]:
    """Returns the snapshots that ingests made, oldest first: what later batches compare with.

    Rows that were released are a choice of a person's, often few: a snapshot of such is none.
    """
    released = {review.snapshot for review in find_reviews(home, name)}
    return [one for one in find_snapshots(home, dataset=name) if one.id not in released]


def get_snapshot(home: Home, id: str) -> Snapshot:  # noqa: A002 - what it is called
    """Returns a snapshot by its id.

    Raises:
        NotFound: there is no such snapshot.
    """
    found = find_snapshots(home, snapshot=id)
    if not found:
        raise NotFound(f"snapshot {id[:40]!r} does not exist", remedy="List the snapshots.")
    return found[0]


def read_snapshot(
    home: Home, snapshot: Snapshot | str, *, columns: Sequence[str] | None = None
) -> pa.Table:
    """Returns a snapshot's rows in the order they were read.

    Args:
        home: the installation.
        snapshot: it, or its id.
        columns: only these, in this order.

    Raises:
        NotFound: there is no such snapshot, or a file of it is gone.
        InvalidInput: there is no such column.
        Corrupted: a file's bytes are not what was written.
    """
    tables = []
    for path in snapshot_paths(home, [snapshot]):
        known = pq.read_schema(path).names
        for column in columns or ():
            if column not in known:
                raise InvalidInput(
                    f"there is no column {column!r}", remedy=f"Columns: {', '.join(known[:30])}."
                )
        table = pq.read_table(path, columns=columns)
        tables.append(table if columns is None else table.select(list(columns)))
    return pa.concat_tables(tables)


def snapshot_paths(
    home: Home, snapshots: Sequence[Snapshot | str], *, verify: bool = True
) -> list[Path]:
    """Returns local Parquet files, for ``read_parquet`` in DuckDB and the like; only to be read.

    Args:
        home: the installation.
        snapshots: they, or their ids; all of one dataset have the same columns.
        verify: compare each file's bytes with the hash that they were written with.

    Raises:
        NotFound: there is no such snapshot, or a file of it is gone.
        Corrupted: a file's bytes are not what was written.
    """
    paths = []
    for snapshot in snapshots:
        known = get_snapshot(home, snapshot) if isinstance(snapshot, str) else snapshot
        for file in known.files:
            path = home.files.fetch(file.key)
            if verify:
                _verify(path, file, known)
            paths.append(path)
    return paths


def read_statistics(home: Home, snapshot: Snapshot | str) -> TableStatistics:
    """Returns the statistics of a snapshot's rows.

    Raises:
        NotFound: there is no such snapshot, or its statistics are gone.
        Corrupted: they are not what was written.
    """
    known = get_snapshot(home, snapshot) if isinstance(snapshot, str) else snapshot
    data = home.files.get_bytes(known.statistics_key)
    if hashlib.sha256(data).hexdigest() != content_sha256(known.statistics_key):
        raise Corrupted(
            f"the statistics of snapshot {known.id} are not what was written",
            remedy="Restore them from a backup.",
        )
    return msgspec.json.decode(data, type=TableStatistics)


def _verify(path: Path, file: SnapshotFile, snapshot: Snapshot) -> None:
    if sha256_file(path) != file.sha256:
        raise Corrupted(
            f"file {file.key} of snapshot {snapshot.id} is not what was written",
            remedy="Restore it from a backup.",
        )
