"""The records of this room: what an ingest was told, what it found, what it kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from tidemill.data.anomaly_kinds import FORMER, kind_of
from tidemill.data.schema_edits import SchemaEdit

Severity = Literal["info", "warning", "error"]
Kind = Literal["quarantined", "duplicate", "late"]


class DatasetOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a dataset's files are read and judged; stored at the first ingest.

    ``key`` and ``time`` can't change once there is a snapshot; the others can, from the next
    ingest on.

    Attributes:
        key: columns that together name a row; a second row of the same key is a duplicate.
            Empty: rows may repeat. A row without a value in a key column is quarantined.
        time: the column of the event time: a timestamp, or a number of seconds since the epoch.
            A row without one is quarantined.
        lateness_s: how many seconds a row may be older than the newest accepted row of earlier
            snapshots; older rows are held as late. None: no row is late.
        null_values: texts that mean "no value" in CSV. ``NaN`` isn't among them: a NaN in a
            numeric column is held as ``not_finite`` unless it is added here.
        max_bad_fraction: the batch is refused whole when more than this part is quarantined.
        max_drift: the batch is refused whole when a column has moved further than that since the
            newest snapshot, and by more than chance: a part of the rows, as ``tidemill drift`` has
            it. None: however far it has moved.
        environment: of the schema, for the dataset's rows: the columns that it does not have may be
            absent. None: each column of the schema is there.
        delimiter: one character between CSV fields.
        encoding: of CSV text.

    Example:
        >>> DatasetOptions(key=("flight",), lateness_s=3600.0).null_values
        ('', 'NA', 'N/A', 'null', 'NULL')
    """

    key: tuple[str, ...] = ()
    time: str | None = None
    lateness_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    null_values: tuple[str, ...] = ("", "NA", "N/A", "null", "NULL")
    max_bad_fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    max_drift: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    environment: str | None = None
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """Something about rows that their reader should know; a value, never an error.

    Attributes:
        kind: by TFX's name, one of ``anomaly_kinds.DETECTED`` or ``OWN``; of files, of ``NOTES``.
        column: the column meant, if one is.
        severity: ``error`` refuses the batch; ``warning`` asks for a look; ``info`` does not.
        message: a sentence.
        rows: how many rows it concerns.
        id: names it among those of one validation, for ``tidemill schema update --accept``.
        query: finds its rows in a table ``rows``; None if it concerns none, or all.
        fix: the edit of the schema that would make it none; None if there is none.
    """

    kind: str
    column: str | None = None
    severity: Severity = "warning"
    message: str
    rows: int = 0
    id: str | None = None
    query: str | None = None
    fix: SchemaEdit | None = None

    def __post_init__(self) -> None:
        if self.kind in FORMER:  # as a record of an earlier ingest has it
            msgspec.structs.force_setattr(self, "kind", kind_of(self.kind))


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the received rows went; ``received`` is the sum of the other four.

    Example:
        >>> (Counts(received=2, accepted=2) + Counts(received=1, late=1)).received
        3
    """

    received: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicate: int = 0
    late: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            received=self.received + other.received,
            accepted=self.accepted + other.accepted,
            quarantined=self.quarantined + other.quarantined,
            duplicate=self.duplicate + other.duplicate,
            late=self.late + other.late,
        )


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file, an object of a bucket or a query's result that was ingested, by its content.

    Attributes:
        path: where it was when it was read; of a URL without a password.
        sha256: of its bytes as they lay there (compressed, if so); of a query's result, of its
            rows in Arrow's format, with their types and in their order.
        bytes: its size.
        version: what names it where it was: an object's ETag, ``etag:…``, or the hash of a query's
            text, ``query:…``; None for a file.
    """

    path: str
    sha256: str
    bytes: int
    version: str | None = None


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file of a snapshot: its key in ``files``, its content's hash, its size."""

    key: str
    sha256: str
    rows: int
    bytes: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Rows accepted by one ingest; immutable.

    Attributes:
        id: first 16 hexadecimal digits of the sha256 of the rest, without paths and times.
        dataset: its dataset.
        sequence: 1 for the dataset's first snapshot, then without gaps.
        schema_sha256: of the schema that the rows passed.
        files: the rows, in order.
        sources: the files they came from.
        counts: of the ingest.
        statistics_key: key in ``files`` of the statistics (JSON) of the rows.
        sketches_key: key in ``files`` of the same statistics in a form that can be merged; None for
            snapshots of earlier versions.
        keys_key: key in ``files`` of the hashed row keys, if the dataset declares a key.
        time_min: earliest event time, seconds since the epoch, if the dataset declares a time.
        time_max: latest event time.
        created_at: seconds since the epoch.
    """

    id: str
    dataset: str
    sequence: int
    schema_sha256: str
    files: tuple[SnapshotFile, ...]
    sources: tuple[SourceRecord, ...]
    counts: Counts
    statistics_key: str
    sketches_key: str | None = None
    keys_key: str | None = None
    time_min: float | None = None
    time_max: float | None = None
    created_at: float

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """What became of every row of one ingest.

    Attributes:
        dataset: its name.
        received: rows read; always ``accepted + quarantined + duplicate + late``.
        accepted: rows in the snapshot.
        quarantined: rows held because a rule says so, with reasons.
        duplicate: rows held because a row of the same key was there first.
        late: rows held because they are older than the allowed lateness.
        snapshot: id of the new snapshot; None if no row was accepted.
        repeated: these same files were ingested before: nothing was done now, and the counts,
            reasons and anomalies are those of the first time.
        refused: why the whole batch was held, and what to do; None if it was not.
        sources: the files.
        reasons: held rows by reason; sums to ``quarantined + duplicate + late``.
        anomalies: what a reader should know.
        ingest: id of the ingest, under which its rows are held.
    """

    dataset: str
    received: int
    accepted: int
    quarantined: int
    duplicate: int
    late: int
    snapshot: str | None
    repeated: bool
    refused: str | None
    sources: tuple[SourceRecord, ...]
    reasons: dict[str, int]
    anomalies: tuple[Anomaly, ...]
    ingest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldGroup:
    """Held rows of one ingest that share kind, reason, rule and column.

    Attributes:
        ingest: id of the ingest.
        kind: ``quarantined``, ``duplicate`` or ``late``.
        reason: the short word, as in ``IngestResult.reasons``.
        rule: the rule that was broken, in words.
        column: the column that broke it, if one did.
        rows: how many.
        example: one offending value, if a column broke the rule.
        held_at: seconds since the epoch.
        discarded: how many of them a person discarded; they stay held, and are not released.
    """

    ingest: str
    kind: str
    reason: str
    rule: str
    column: str | None
    rows: int
    example: str | None
    held_at: float
    discarded: int = 0


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which held rows are meant: those that meet all that is said; nothing said means all.

    Attributes:
        reason: held for it.
        kind: ``quarantined``, ``duplicate`` or ``late``.
        ingest: held by this ingest.
        where: a condition in DuckDB's SQL over one held row: over its columns (``HELD_SCHEMA``),
            and over the texts of its own columns as ``data.COLUMN``, which are null where a row
            can't be read. It reads nothing else; ``try_cast(data.fare AS DOUBLE) > 0`` makes
            numbers of texts.
    """

    reason: str | None = None
    kind: Kind | None = None
    ingest: str | None = None
    where: str | None = None


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided about held rows; never changed, never removed.

    Attributes:
        id: of the review; still held rows of a release are held by the ingest of this id.
        dataset: its dataset.
        act: ``release`` or ``discard``.
        by: who decided.
        why: in their words.
        at: seconds since the epoch.
        selection: which rows were meant.
        rows: how many were: ``accepted + held + unreadable``.
        accepted: how many are in the new snapshot.
        held: how many are held still: by their rules of today, or as discarded.
        unreadable: how many stayed as they were, because their text was not kept whole.
        snapshot: id of the new snapshot; None if no row was accepted.
        since: when accepted rows were first held, in seconds since the epoch, and how many then.
        positions_key: key in ``files`` of the places of the rows that the review moved or marked.
    """

    id: str
    dataset: str
    act: Literal["release", "discard"]
    by: str
    why: str = ""
    at: float
    selection: Selection
    rows: int
    accepted: int = 0
    held: int = 0
    unreadable: int = 0
    snapshot: str | None = None
    since: tuple[tuple[float, int], ...] = ()
    positions_key: str
