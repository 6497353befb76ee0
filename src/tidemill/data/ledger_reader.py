"""Reads the ledger, while it is written and while it is compacted, every record exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.data.ledger_manifest import Manifest, read_manifest
from tidemill.data.ledger_records import Problem
from tidemill.data.ledger_segments import list_segments, read_segment, segments_folder
from tidemill.data.ledger_tables import (
    Rows,
    in_order,
    label_schema,
    prediction_schema,
    with_sequence,
)
from tidemill.data.ledger_withdrawals import Withdrawal, read_withdrawals
from tidemill.foundation.durable import replacing
from tidemill.foundation.errors import NotReady

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ATTEMPTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Everything that was recorded, at one moment.

    ``predictions`` are in order of time and numbered by ``sequence``; ``labels`` in order of
    ``received_at``; the columns are those of ``prediction_schema`` and ``label_schema``.
    ``problems`` are the places whose bytes are damaged. ``torn_bytes`` at the end of open segments
    were not read: they are being written, or a crash cut them short. ``withdrawn_labels`` is how
    many labels were left out because their key's labels were withdrawn.
    """

    predictions: pa.Table
    labels: pa.Table
    problems: tuple[Problem, ...] = ()
    torn_bytes: int = 0
    withdrawn_labels: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerExport:
    """Two Parquet files for whoever asks questions in SQL."""

    predictions: Path
    labels: Path
    prediction_rows: int
    label_rows: int
    withdrawn_labels: int
    problems: tuple[Problem, ...]


def read_ledger(path: Path, application: str | None = None, *, with_inputs: bool = True) -> Ledger:
    """Returns the ledger's predictions and labels; an empty ledger where there is none.

    Labels of keys whose labels were withdrawn are left out, and counted.
    Damage is told in ``problems``, and everything around it is read.

    Args:
        path: the ledger's folder.
        application: only what belongs to it; None for everything.
        with_inputs: False leaves ``inputs`` null, which is much faster where they are large.

    Raises:
        InvalidSettings: a newer Tidemill wrote a part of it.
        Corrupted: the manifest cannot be read.
        NotReady: segments kept moving; try again.
    """
    for _ in range(_ATTEMPTS):
        manifest, segments = _consistent_list(path)
        rows = Rows(application, with_inputs)
        try:
            torn_bytes = _read_segments(manifest, segments, rows)
        except FileNotFoundError:
            continue  # it was sealed or compacted meanwhile: look again
        found = _ledger(rows, _read_parts(path, manifest, rows), manifest, torn_bytes)
        return _without(found, read_withdrawals(path))
    raise _keeps_moving(path)


def each_part(
    path: Path,
    application: str | None,
    *,
    since: float | None = None,
    problems: list[Problem] | None = None,
) -> Iterator[pa.Table]:
    """Yields predictions, part by part, each in the order of time.

    What is not compacted yet comes last, as one part; memory holds one part at a time. Everything
    around what is damaged is read. What is all from before ``since`` is not: of a file that says
    so of itself, no more than its end is looked at.

    Args:
        path: the ledger's folder.
        application: whose predictions; None for everybody's.
        since: what was predicted before that moment is left out; None for nothing.
        problems: the places that are damaged are put here, all of them by the end; None: who asks
            can do without those rows, and ``read_ledger`` tells of them.

    Raises:
        InvalidSettings, Corrupted, NotReady: as ``read_ledger``.
    """
    for _ in range(_ATTEMPTS):
        manifest, segments = _consistent_list(path)
        rows = Rows(application, since=since)
        try:
            _read_segments(manifest, segments, rows)
        except FileNotFoundError:
            continue  # it was sealed or compacted meanwhile: look again
        schema = prediction_schema(sequence=False)
        for part in manifest.parts:
            if part.predictions:
                yield from map(
                    in_order,
                    _read_part(part_file(path, "predictions", part.name), schema, rows),
                )
        yield in_order(rows.tables()[0])
        if problems is not None:
            problems += (*manifest.problems, *rows.problems)
        return
    raise _keeps_moving(path)


def _consistent_list(path: Path) -> tuple[Manifest, dict[str, Path]]:
    # A folder that is listed while a file in it is renamed may show that file twice or not at all:
    # two equal lists show everything. An unchanged manifest says that nothing was compacted since.
    folder = segments_folder(path)
    for _ in range(_ATTEMPTS):
        manifest, first = read_manifest(path), list_segments(folder)
        segments = list_segments(folder)
        if first == segments and read_manifest(path) == manifest:
            return manifest, segments
    raise _keeps_moving(path)


def _keeps_moving(path: Path) -> NotReady:
    return NotReady(
        f"the ledger in {path} changed during each of {_ATTEMPTS} attempts to read it",
        remedy="Try again in a moment.",
    )


def export_parquet(path: Path, target: Path, application: str | None = None) -> LedgerExport:
    """Writes ``predictions.parquet`` and ``labels.parquet`` into the target folder, each whole.

    Raises:
        InvalidSettings, Corrupted, NotReady: as ``read_ledger``.
        OSError: the target cannot be written.
    """
    ledger = read_ledger(path, application)
    files = target / "predictions.parquet", target / "labels.parquet"
    for file, table in zip(files, (ledger.predictions, ledger.labels), strict=True):
        write_parquet(table, file, target)
    return LedgerExport(
        predictions=files[0],
        labels=files[1],
        prediction_rows=ledger.predictions.num_rows,
        label_rows=ledger.labels.num_rows,
        withdrawn_labels=ledger.withdrawn_labels,
        problems=ledger.problems,
    )


def write_parquet(table: pa.Table, file: Path, temporary: Path) -> None:
    """Writes a Parquet file with page checksums, whole and durable, or not at all.

    Args:
        table: what to write.
        file: where; replaced if it is there.
        temporary: a folder on the same disk for the file until it is whole.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415

    with replacing(file, temporary) as unfinished:
        pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)


def _read_segments(manifest: Manifest, segments: dict[str, Path], rows: Rows) -> int:
    torn_bytes = 0
    compacted = manifest.segments
    for name, segment in segments.items():
        if name not in compacted:
            _, found = read_segment(segment)
            rows.problems += found.problems
            rows.add(name, found.frames)
            torn_bytes += found.torn_bytes
    return torn_bytes


def _read_parts(
    path: Path, manifest: Manifest, rows: Rows
) -> tuple[list[pa.Table], list[pa.Table]]:
    predictions: list[pa.Table] = []
    labels: list[pa.Table] = []
    for part in manifest.parts:
        if part.predictions:
            schema = prediction_schema(sequence=False)
            predictions += _read_part(part_file(path, "predictions", part.name), schema, rows)
        if part.labels:
            labels += _read_part(part_file(path, "labels", part.name), label_schema(), rows)
    return predictions, labels


def _read_part(file: Path, schema: pa.Schema, rows: Rows) -> list[pa.Table]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    chosen: list[tuple[str, str, Any]] = []
    chosen += [] if rows.application is None else [("application", "=", rows.application)]
    chosen += [] if rows.since is None else [("time", ">=", rows.since)]
    columns = [name for name in schema.names if rows.with_inputs or name != "inputs"]
    try:
        told = pq.read_metadata(file)
        if rows.since is not None and _ends_before(told, rows.since):
            return []
        known = set(told.schema.to_arrow_schema().names)
        table = pq.read_table(
            file,
            columns=[name for name in columns if name in known],
            filters=chosen or None,  # groups of rows that cannot hold any are not read
            page_checksum_verification=True,
        )
    except (OSError, pa.ArrowException) as error:
        size = file.stat().st_size if file.exists() else 0
        name = f"{file.parent.name}/{file.name}"
        what = f"the compacted file cannot be read: {error}"
        rows.problems.append(Problem(segment=name, offset=0, size_bytes=size, what=what))
        return []
    for at, column in enumerate(schema):  # not asked for, or from before there was such a column
        if column.name not in table.column_names:
            table = table.add_column(at, column, pa.nulls(table.num_rows, column.type))
    return [table.cast(schema)]


def _ends_before(told: pq.FileMetaData, since: float) -> bool:
    """Says whether a file's own statistics say that all of its times are before a moment."""
    at = told.schema.names.index("time")
    groups = [told.row_group(group).column(at).statistics for group in range(told.num_row_groups)]
    return all(
        found is not None and found.has_min_max and bool(found.max < since) for found in groups
    )


def part_file(path: Path, kind: str, name: str) -> Path:
    """Returns where a part's predictions or labels are."""
    return path / kind / f"{name}.parquet"


def _ledger(
    rows: Rows,
    parts: tuple[list[pa.Table], list[pa.Table]],
    manifest: Manifest,
    torn_bytes: int,
) -> Ledger:
    import pyarrow as pa  # noqa: PLC0415

    predictions, labels = rows.tables()
    return Ledger(
        predictions=with_sequence(in_order(pa.concat_tables([*parts[0], predictions]))),
        labels=pa.concat_tables([*parts[1], labels]).sort_by(
            [("received_at", "ascending"), ("prediction_id", "ascending")]
        ),
        problems=(*manifest.problems, *rows.problems),
        torn_bytes=torn_bytes,
    )


def _without(ledger: Ledger, withdrawn: Mapping[str, Withdrawal]) -> Ledger:
    """Returns the ledger without the labels of those keys."""
    if not withdrawn:
        return ledger
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    keys = pa.array(list(withdrawn), pa.string())
    kept = ledger.labels.filter(pc.invert(pc.is_in(ledger.labels["key"], value_set=keys)))
    left_out = ledger.labels.num_rows - kept.num_rows
    return replace(ledger, labels=kept, withdrawn_labels=left_out)
