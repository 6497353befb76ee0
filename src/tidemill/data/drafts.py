"""What every way into a dataset shares: taking turns, and making what the gate staged durable."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tidemill.data.catalog import Dataset, find_snapshots
from tidemill.data.gate import Draft, Earlier
from tidemill.data.records import Snapshot, SnapshotFile, SourceRecord
from tidemill.data.schema import Schema
from tidemill.foundation.files import content_sha256, put_content
from tidemill.foundation.home import Home
from tidemill.foundation.locks import hold


@contextmanager
def my_turn(home: Home, name: str) -> Iterator[Path]:
    """Gives an empty folder while no other process of this machine ingests into the dataset."""
    folder = home.cache_path / "ingest" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    home.run_path.mkdir(parents=True, exist_ok=True)
    with hold(home.run_path / f"ingest-{name}.lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def earlier(home: Home, dataset: Dataset) -> Earlier:
    """Returns what the snapshots of a dataset say about new rows."""
    if not dataset.sequence or not (dataset.options.key or dataset.options.time):
        return Earlier()
    snapshots = find_snapshots(home, dataset=dataset.name)
    return Earlier(
        keys=[home.files.fetch(one.keys_key) for one in snapshots if one.keys_key],
        newest=max((one.time_max for one in snapshots if one.time_max is not None), default=None),
    )


def keep_snapshot(
    home: Home,
    dataset: Dataset,
    sources: tuple[SourceRecord, ...],
    draft: Draft,
    schema: Schema,
) -> Snapshot:
    """Makes the accepted rows of a draft durable, as the snapshot that nobody sees yet."""
    statistics = draft.parts[0][0].with_name("statistics.json")
    statistics.write_bytes(msgspec.json.format(msgspec.json.encode(draft.statistics), indent=1))
    sketches = statistics.with_name("statistics.zst")
    sketches.write_bytes(draft.sketches)
    snapshot = Snapshot(
        id="",
        dataset=dataset.name,
        sequence=dataset.sequence + 1,
        schema_sha256=schema.sha256,
        files=tuple(_keep_part(home, path, rows) for path, rows in draft.parts),
        sources=sources,
        counts=draft.counts,
        statistics_key=keep(home, statistics, "json"),
        sketches_key=keep(home, sketches, "statistics1"),
        keys_key=keep(home, draft.keys, "keys1") if draft.keys else None,
        time_min=draft.time_min,
        time_max=draft.time_max,
        created_at=home.clock.now(),
    )
    return msgspec.structs.replace(snapshot, id=_snapshot_id(snapshot))


def _snapshot_id(snapshot: Snapshot) -> str:
    manifest = msgspec.to_builtins(snapshot)
    for source in manifest["sources"]:
        del source["path"], source["version"]
    del manifest["id"], manifest["created_at"]
    return hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()[:16]


def _keep_part(home: Home, path: Path, rows: int) -> SnapshotFile:
    key = keep(home, path, "parquet")
    size = path.stat().st_size
    return SnapshotFile(key=key, sha256=content_sha256(key), rows=rows, bytes=size)


def keep(home: Home, path: Path, suffix: str) -> str:
    """Makes a staged file durable under the hash of its content, and returns its key."""
    return put_content(home.files, path, folder="data", suffix=suffix)


def advanced(dataset: Dataset, draft: Draft, snapshot: Snapshot | None) -> Dataset:
    """Returns the dataset as it is with the snapshot: its schema is frozen by the first."""
    return Dataset(
        name=dataset.name,
        revision=dataset.revision,
        sequence=dataset.sequence + (snapshot is not None),
        options=dataset.options,
        declared=dataset.declared,
        schema=draft.schema if snapshot else dataset.schema,
    )
