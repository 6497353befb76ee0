"""Turns sealed segments into Parquet, every record exactly once, however often it is killed.

    1. under a lock, finish what a killed compaction left: remove segments that the manifest names,
       and Parquet files that it does not name
    2. seal what dead writers left open
    3. for each group of sealed segments: write predictions/NAME.parquet and labels/NAME.parquet,
       where NAME is the hash of the segments' names and bytes; then replace the manifest, which
       now names the part and its segments (this is the commit); then remove the segments

Killed before the commit, the segments count and the files do not, so the next compaction writes
them again. Killed after it, the files count and the segments do not, so the next one removes them.
Damaged segments are compacted for what can be read, and moved to ``damaged/`` instead of removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidemill.data.ledger_manifest import Manifest, Part, read_manifest, write_manifest
from tidemill.data.ledger_reader import part_file, write_parquet
from tidemill.data.ledger_records import Problem
from tidemill.data.ledger_segments import (
    SEALED,
    list_segments,
    read_segment,
    seal_abandoned,
    segments_folder,
)
from tidemill.data.ledger_tables import Rows, in_order
from tidemill.foundation.durable import make_folder, sync_folder
from tidemill.foundation.errors import Conflict
from tidemill.foundation.logs import log

PART_BYTES = 64 << 20
"""Segments are grouped up to this size: it bounds the memory of a compaction, and the files."""

_log = log("tidemill.data.ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactResult:
    """What a compaction did; all zeros if there was nothing to do."""

    segments: int
    parts: int
    predictions: int
    labels: int
    torn_bytes: int
    problems: tuple[Problem, ...]


def compact(path: Path) -> CompactResult:
    """Turns every sealed segment into Parquet; may be called at any time, by anybody.

    Args:
        path: the ledger's folder.

    Raises:
        Conflict: another process is compacting this ledger.
        InvalidSettings: a newer Tidemill wrote a part of it; nothing of that part was touched.
        Corrupted: the manifest cannot be read.
        OSError: the disk is full or broken; call again when it is not.
    """
    folder = segments_folder(path)
    make_folder(folder)
    with _alone(path):
        manifest = read_manifest(path)
        _finish(path, manifest)
        torn_bytes = seal_abandoned(folder).torn_bytes
        before = len(manifest.parts)
        found: list[Problem] = []
        for group in _groups(folder):
            manifest, problems = _compact_group(path, manifest, group)
            found += problems
    made = manifest.parts[before:]
    return CompactResult(
        segments=sum(len(part.segments) for part in made),
        parts=len(made),
        predictions=sum(part.predictions for part in made),
        labels=sum(part.labels for part in made),
        torn_bytes=torn_bytes,
        problems=tuple(found),
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    fd = os.open(path / "compaction.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"another process is compacting the ledger in {path}", remedy="Let it finish."
            ) from error
        yield
    finally:
        os.close(fd)


def _finish(path: Path, manifest: Manifest) -> None:
    segments = list_segments(segments_folder(path))
    damaged = {problem.segment for problem in manifest.problems}
    _put_away(path, [segments[name] for name in manifest.segments & segments.keys()], damaged)
    named = {part.name for part in manifest.parts}
    for kind in ("predictions", "labels"):
        for file in (path / kind).glob("*.parquet"):
            if file.stem not in named:
                file.unlink()
    for unfinished in (*path.glob(".*.tmp"), *path.glob("*/.*.tmp")):
        unfinished.unlink()


def _groups(folder: Path) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for segment in list_segments(folder).values():
        if segment.suffix != SEALED:
            continue
        more = segment.stat().st_size
        if group and size + more > PART_BYTES:
            yield group
            group, size = [], 0
        group.append(segment)
        size += more
    if group:
        yield group


def _compact_group(
    path: Path, manifest: Manifest, group: Sequence[Path]
) -> tuple[Manifest, list[Problem]]:
    rows, digest = Rows(), hashlib.sha256()
    for segment in group:
        data, found = read_segment(segment)
        digest.update(f"{segment.stem} {len(data)}\n".encode())
        digest.update(data)
        rows.problems += found.problems
        rows.add(segment.stem, found.frames)
    predictions, labels = rows.tables()
    part = Part(
        name=digest.hexdigest()[:32],
        segments=tuple(segment.stem for segment in group),
        predictions=predictions.num_rows,
        labels=labels.num_rows,
    )
    if predictions.num_rows:
        file = part_file(path, "predictions", part.name)
        write_parquet(in_order(predictions), file, file.parent)
    if labels.num_rows:
        file = part_file(path, "labels", part.name)
        write_parquet(labels.sort_by("received_at"), file, file.parent)
    following = msgspec.structs.replace(
        manifest,
        parts=(*manifest.parts, part),
        problems=(*manifest.problems, *rows.problems),
    )
    write_manifest(path, following)
    _put_away(path, group, {problem.segment for problem in rows.problems})
    _log.info(
        "ledger.compacted",
        part=part.name,
        segments=len(group),
        predictions=part.predictions,
        labels=part.labels,
        problems=len(rows.problems),
    )
    return following, rows.problems


def _put_away(path: Path, segments: Sequence[Path], damaged: set[str]) -> None:
    for segment in segments:
        if segment.stem in damaged:
            make_folder(path / "damaged")
            segment.rename(path / "damaged" / segment.name)
        else:
            segment.unlink()
    if segments:
        sync_folder(segments_folder(path))
