"""The store's rows about datasets: options, schemas, ingests, files seen, snapshots."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tidemill.data.records import (
    Anomaly,
    Counts,
    DatasetOptions,
    HeldGroup,
    Review,
    Snapshot,
    SourceRecord,
)
from tidemill.data.schema import Schema, amend
from tidemill.foundation.errors import Conflict, NotFound
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name

TABLES = sa.MetaData()

_datasets = sa.Table(
    "dataset",
    TABLES,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("declared", sa.Text),
    sa.Column("schema", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
)
_ingests = sa.Table(
    "dataset_ingest",
    TABLES,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("dataset", sa.String(100), nullable=False, index=True),
    sa.Column("snapshot", sa.String(16)),
    sa.Column("refused", sa.Text),
    sa.Column("held_key", sa.Text),
    sa.Column("anomalies", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
_sources = sa.Table(
    "dataset_source",
    TABLES,
    sa.Column("dataset", sa.String(100), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("ingest", sa.String(32), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("groups", sa.Text, nullable=False),
    sa.Column("basis", sa.String(64)),
)
_snapshots = sa.Table(
    "dataset_snapshot",
    TABLES,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("dataset", sa.String(100), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.UniqueConstraint("dataset", "sequence"),
)
_reviews = sa.Table(
    "dataset_review",
    TABLES,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("dataset", sa.String(100), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)


class MovedError(Exception):
    """Somebody else changed the dataset since it was read; never leaves this room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSource:
    """A file that was ingested, and what became of its rows.

    Attributes:
        basis: if it was refused, the hash of the rules and of the files it was judged with.
    """

    record: SourceRecord
    ingest: str
    counts: Counts
    reasons: dict[str, int]
    groups: tuple[HeldGroup, ...]
    basis: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset at a moment; revision 0 means that it isn't there yet.

    Attributes:
        declared: what a person wrote before there was a snapshot.
        schema: frozen by the first snapshot; edits change rules, not columns.
    """

    name: str
    revision: int = 0
    sequence: int = 0
    options: DatasetOptions = field(default_factory=DatasetOptions)
    declared: Schema | None = None
    schema: Schema | None = None

    @property
    def basis(self) -> str:
        """The hash of the rules that its rows are judged by."""
        rules = (self.options, self.schema or self.declared)
        return hashlib.sha256(msgspec.json.encode(rules)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRow:
    """One ingest as it is recorded."""

    id: str
    dataset: str
    snapshot: str | None
    refused: str | None
    held_key: str | None
    anomalies: tuple[Anomaly, ...]
    created_at: float


def list_datasets(home: Home) -> list[Dataset]:
    """Returns every dataset, by name."""
    with home.store.read(TABLES) as conn:
        rows = conn.execute(sa.select(_datasets).order_by(_datasets.c.name)).all()
    return [_dataset(row) for row in rows]


def get_dataset(home: Home, name: str) -> Dataset:
    """Returns a dataset.

    Raises:
        NotFound: there is none of that name.
    """
    found = find_dataset(home, check_name("dataset", name))
    if not found.revision:
        known = ", ".join(one.name for one in list_datasets(home)[:20]) or "none"
        raise NotFound(f"dataset {name!r} does not exist", remedy=f"Known datasets: {known}.")
    return found


def find_dataset(home: Home, name: str) -> Dataset:
    """Returns a dataset, at revision 0 if it isn't there yet."""
    with home.store.read(TABLES) as conn:
        row = conn.execute(sa.select(_datasets).where(_datasets.c.name == name)).one_or_none()
    return _dataset(row) if row else Dataset(name=name)


def get_schema(home: Home, name: str) -> Schema:
    """Returns the schema of a dataset: frozen, or as declared while there is no snapshot.

    Raises:
        NotFound: there is no such dataset, or it has no schema yet.
    """
    dataset = get_dataset(home, name)
    schema = dataset.schema or dataset.declared
    if schema is None:
        raise NotFound(f"dataset {name!r} has no schema yet", remedy="Ingest a first file.")
    return schema


def set_schema(
    home: Home, name: str, schema: Schema, *, whole: bool = False, expected: Schema | None = None
) -> Schema:
    """Replaces the rules of the columns that a schema names, and returns the whole schema.

    Args:
        home: the installation.
        name: the dataset.
        schema: the edited rules.
        whole: what it doesn't say about rows as a whole is no longer said.
        expected: the schema that was edited; None if that doesn't matter.

    Raises:
        NotFound: there is no such dataset.
        Conflict: a column or a type would change, or somebody changed the dataset meanwhile.
    """
    dataset = get_dataset(home, name)
    if expected is not None and (dataset.schema or dataset.declared) != expected:
        raise Conflict(f"the schema of {name!r} was edited meanwhile", remedy="Try again.")
    edited = with_rules(dataset, options=None, schema=schema, whole=whole)
    try:
        with home.store.write(TABLES) as conn:
            save_dataset(conn, edited, at=home.clock.now())
    except MovedError as error:
        raise Conflict(f"dataset {name!r} changed meanwhile", remedy="Try again.") from error
    found = edited.schema or edited.declared
    assert found is not None
    return found


def with_rules(
    dataset: Dataset,
    *,
    options: DatasetOptions | None,
    schema: Schema | None,
    whole: bool = False,
) -> Dataset:
    """Returns the dataset under newly given options and schema.

    Raises:
        Conflict: the key, the event time, a column or a type would change under snapshots.
    """
    if options is not None and dataset.sequence:
        for what in ("key", "time"):
            old, new = getattr(dataset.options, what), getattr(options, what)
            if old != new:
                raise Conflict(
                    f"dataset {dataset.name!r} has {what} {old!r} since its first snapshot, "
                    f"not {new!r}",
                    remedy="Give the same, or use a new dataset.",
                )
    frozen = dataset.schema
    named = (*dataset.options.key, *filter(None, [dataset.options.time]))
    return Dataset(
        name=dataset.name,
        revision=dataset.revision,
        sequence=dataset.sequence,
        options=options or dataset.options,
        declared=dataset.declared if frozen or schema is None else schema,
        schema=(amend(frozen, schema, always=named, whole=whole) if frozen and schema else frozen),
    )


def save_dataset(conn: Connection, dataset: Dataset, *, at: float) -> None:
    """Writes a dataset over the revision it was read at.

    Raises:
        MovedError: somebody wrote another revision meanwhile.
    """
    values = {
        "revision": dataset.revision + 1,
        "sequence": dataset.sequence,
        "options": _json(dataset.options),
        "declared": _json(dataset.declared) if dataset.declared else None,
        "schema": _json(dataset.schema) if dataset.schema else None,
    }
    if not dataset.revision:
        try:
            conn.execute(_datasets.insert().values(name=dataset.name, created_at=at, **values))
        except sa.exc.IntegrityError as error:
            raise MovedError from error
        return
    mine = (_datasets.c.name == dataset.name) & (_datasets.c.revision == dataset.revision)
    if conn.execute(_datasets.update().where(mine).values(**values)).rowcount != 1:
        raise MovedError


def save_ingest(conn: Connection, row: IngestRow, sources: list[SeenSource]) -> None:
    """Writes an ingest and its files; files of an earlier, refused ingest move to this one."""
    conn.execute(
        _ingests.insert().values(
            id=row.id,
            dataset=row.dataset,
            snapshot=row.snapshot,
            refused=row.refused,
            held_key=row.held_key,
            anomalies=_json(row.anomalies),
            created_at=row.created_at,
        )
    )
    save_sources(conn, row.dataset, sources)


def save_review(conn: Connection, review: Review) -> None:
    """Writes what a person decided about held rows."""
    conn.execute(
        _reviews.insert().values(
            id=review.id, dataset=review.dataset, at=review.at, record=_json(review)
        )
    )


def find_reviews(home: Home, dataset: str) -> list[Review]:
    """Returns what was decided about a dataset's held rows, oldest first."""
    query = sa.select(_reviews.c.record).where(_reviews.c.dataset == dataset)
    with home.store.read(TABLES) as conn:
        rows = conn.execute(query.order_by(_reviews.c.at, _reviews.c.id)).scalars().all()
    return [msgspec.json.decode(row, type=Review) for row in rows]


def save_sources(conn: Connection, dataset: str, sources: list[SeenSource]) -> None:
    """Writes files with what became of their rows, over what was said of them before."""
    hashes = [source.record.sha256 for source in sources]
    mine = _sources.c.dataset == dataset
    for start in range(0, len(hashes), 500):
        some = hashes[start : start + 500]
        conn.execute(_sources.delete().where(mine & _sources.c.sha256.in_(some)))
    conn.execute(
        _sources.insert(),
        [
            {
                "dataset": dataset,
                "sha256": source.record.sha256,
                "ingest": source.ingest,
                "path": source.record.path,
                "bytes": source.record.bytes,
                "counts": _json(source.counts),
                "reasons": _json(source.reasons),
                "groups": _json(source.groups),
                "basis": source.basis,
            }
            for source in sources
        ],
    )


def save_snapshot(conn: Connection, snapshot: Snapshot) -> None:
    """Writes a snapshot's manifest."""
    conn.execute(
        _snapshots.insert().values(
            id=snapshot.id,
            dataset=snapshot.dataset,
            sequence=snapshot.sequence,
            manifest=_json(snapshot),
        )
    )


def find_snapshots(
    home: Home, *, dataset: str | None = None, snapshot: str | None = None
) -> list[Snapshot]:
    """Returns snapshots in the order they were made."""
    query = sa.select(_snapshots.c.manifest).order_by(_snapshots.c.dataset, _snapshots.c.sequence)
    if dataset is not None:
        query = query.where(_snapshots.c.dataset == dataset)
    if snapshot is not None:
        query = query.where(_snapshots.c.id == snapshot)
    with home.store.read(TABLES) as conn:
        manifests = conn.execute(query).scalars().all()
    return [msgspec.json.decode(manifest, type=Snapshot) for manifest in manifests]


def find_sources(home: Home, dataset: str, hashes: list[str] | None = None) -> list[SeenSource]:
    """Returns the files that were ingested, all or those among some."""
    mine = _sources.c.dataset == dataset
    if hashes is not None:
        mine &= _sources.c.sha256.in_(hashes)
    with home.store.read(TABLES) as conn:
        rows = conn.execute(sa.select(_sources).where(mine)).all()
    return [
        SeenSource(
            record=SourceRecord(path=row.path, sha256=row.sha256, bytes=row.bytes),
            ingest=row.ingest,
            counts=msgspec.json.decode(row.counts, type=Counts),
            reasons=msgspec.json.decode(row.reasons, type=dict[str, int]),
            groups=msgspec.json.decode(row.groups, type=tuple[HeldGroup, ...]),
            basis=row.basis,
        )
        for row in rows
    ]


def find_ingests(home: Home, dataset: str, *, ids: list[str] | None = None) -> list[IngestRow]:
    """Returns a dataset's ingests, oldest first."""
    query = sa.select(_ingests).where(_ingests.c.dataset == dataset)
    if ids is not None:
        query = query.where(_ingests.c.id.in_(ids))
    with home.store.read(TABLES) as conn:
        rows = conn.execute(query.order_by(_ingests.c.created_at, _ingests.c.id)).all()
    return [
        IngestRow(
            id=row.id,
            dataset=row.dataset,
            snapshot=row.snapshot,
            refused=row.refused,
            held_key=row.held_key,
            anomalies=msgspec.json.decode(row.anomalies, type=tuple[Anomaly, ...]),
            created_at=row.created_at,
        )
        for row in rows
    ]


def _dataset(row: sa.Row[tuple[object, ...]]) -> Dataset:
    def schema(text: str | None) -> Schema | None:
        return msgspec.json.decode(text, type=Schema) if text else None

    return Dataset(
        name=row.name,
        revision=row.revision,
        sequence=row.sequence,
        options=msgspec.json.decode(row.options, type=DatasetOptions),
        declared=schema(row.declared),
        schema=schema(row.schema),
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
