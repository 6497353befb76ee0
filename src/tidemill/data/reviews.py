"""What a person decides about held rows: they go through the gate again, or are discarded.

A release replays rows under the rules of today, each on its own: whatever still breaks a rule, has
a known key or is late stays held, with the reason of today. Rules must hold; a person changes the
rules. Each row moves once: in one transaction with the snapshot and the review, so that a release
that is killed or that meets another one neither loses nor doubles a row.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy.engine import Connection

from tidemill.data.batches import Batch, Progress, SourceFile
from tidemill.data.catalog import (
    TABLES,
    Dataset,
    IngestRow,
    MovedError,
    SeenSource,
    find_sources,
    get_dataset,
    save_dataset,
    save_ingest,
    save_review,
    save_snapshot,
    save_sources,
    with_rules,
)
from tidemill.data.drafts import advanced, earlier, keep, keep_snapshot, my_turn
from tidemill.data.gate import Draft, Gate, Tally
from tidemill.data.held_rows import PLACES, Piece, select
from tidemill.data.held_texts import read_again, whole
from tidemill.data.records import Counts, DatasetOptions, HeldGroup, Review, Selection
from tidemill.data.schema import Schema
from tidemill.data.schema_files import read_schema
from tidemill.data.validation import merge_anomalies
from tidemill.foundation.errors import Conflict, Corrupted, InvalidInput
from tidemill.foundation.home import Home

ATTEMPTS = 5

GroupKey = tuple[str, str, str, str, str | None]
"""Of a ``HeldGroup``: ingest, kind, reason, rule, column."""


def release(
    home: Home,
    name: str,
    selection: Selection,
    *,
    by: str,
    why: str = "",
    schema: Schema | Path | None = None,
    lateness_s: float | None = None,
    progress: Progress | None = None,
) -> Review | None:
    """Replays held rows through the gate, under the rules of today, into a new snapshot.

    Args:
        home: the installation.
        name: the dataset.
        selection: which of the held rows that nobody discarded.
        by: who decides.
        why: in their words.
        schema: rules that hold from now on; as for an ingest, columns and types stay.
        lateness_s: how many seconds a row may be late from now on; None leaves it as it is.
        progress: told how many rows were read again, and how many are held in all.

    Returns:
        What became of the rows; None if no row is meant, or if each stays as it is: then nothing
        is recorded, and no rule changes.

    Raises:
        NotFound: there is no such dataset.
        InvalidInput: nobody decides, or the condition or the schema is wrong.
        Conflict: the schema would change columns or types, or others change the dataset so often
            that this release finds no moment.
    """
    _check_by(by)
    rules = read_schema(schema) if isinstance(schema, Path) else schema
    with my_turn(home, name) as folder:
        for _ in range(ATTEMPTS):
            dataset = get_dataset(home, name)
            options = _later(dataset.options, lateness_s)
            dataset = with_rules(dataset, options=options, schema=rules)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with _Replay(home, dataset, folder, selection) as replay:
                replay.read(progress or _silent)
            try:
                return _commit_release(home, dataset, replay, selection, by=by, why=why)
            except MovedError:
                continue  # judged against rows that are not those of now any more
    raise _too_often(name)


def discard(
    home: Home,
    name: str,
    selection: Selection,
    *,
    by: str,
    why: str,
    progress: Progress | None = None,
) -> Review | None:
    """Marks held rows as looked at and not wanted; they stay held and are counted so.

    Args:
        home: the installation.
        name: the dataset.
        selection: which of the held rows that nobody discarded.
        by: who decides.
        why: in their words.
        progress: told how many rows were marked, and how many are held in all.

    Returns:
        The review; None if no row is meant.

    Raises:
        NotFound: there is no such dataset.
        InvalidInput: nobody decides, nothing is given as the reason, or the condition is wrong.
    """
    _check_by(by)
    if not why.strip():
        raise InvalidInput("no reason is given", remedy="Say why these rows are discarded.")
    with my_turn(home, name) as folder:
        for _ in range(ATTEMPTS):
            dataset = get_dataset(home, name)
            held = _held_rows(find_sources(home, name))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with _Moved(folder / "places.parquet") as moved:
                for piece in select(home, name, selection):
                    moved.add(piece)
                    (progress or _silent)(moved.rows, held)
            try:
                return _commit_discard(home, dataset, moved, selection, by=by, why=why)
            except MovedError:
                continue
    raise _too_often(name)


def _later(options: DatasetOptions, lateness_s: float | None) -> DatasetOptions:
    if lateness_s is None:
        return options
    if not lateness_s >= 0:
        raise InvalidInput(f"a lateness of {lateness_s} s is none", remedy="Give 0 or more.")
    return msgspec.structs.replace(options, lateness_s=lateness_s)


def _check_by(by: str) -> None:
    if not by.strip():
        raise InvalidInput("nobody is named who decides", remedy="Say who reviewed the rows.")


def _held_rows(sources: list[SeenSource]) -> int:
    return sum(source.counts.received - source.counts.accepted for source in sources)


def _silent(_done: int, _total: int) -> None: ...


def _too_often(name: str) -> Conflict:
    return Conflict(
        f"dataset {name!r} changed {ATTEMPTS} times while its rows were reviewed",
        remedy="Try again.",
    )


# --- which rows ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Moved:
    """The rows of a review: their places in a file, and their numbers by source and group."""

    path: Path
    rows: int = 0
    groups: dict[str, Counter[GroupKey]] = field(default_factory=dict)
    _writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self.path, PLACES, compression="zstd")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.close()

    def add(self, piece: Piece) -> None:
        assert self._writer is not None
        self._writer.write_table(piece.places())
        self.rows += len(piece.positions)
        names = ("source", "kind", "reason", "rule", "column")
        found = zip(*(piece.rows.column(name).to_pylist() for name in names), strict=True)
        for source, kind, reason, rule, column in found:
            key = (piece.ingest, kind, reason, rule, column)
            self.groups.setdefault(source, Counter())[key] += 1

    def of(self, source: SeenSource) -> Counter[GroupKey]:
        """Returns how many rows of a source are among them, by group.

        Within one ingest a path names one content, and a group names its ingest.
        """
        mine = {_key(group) for group in source.groups}
        found = self.groups.get(source.record.path, Counter())
        return Counter({key: rows for key, rows in found.items() if key in mine})


class _Replay:
    """Held rows on their way through the gate."""

    def __init__(self, home: Home, dataset: Dataset, folder: Path, selection: Selection) -> None:
        self._home = home
        self._dataset = dataset
        self._selection = selection
        what = ("release", dataset.name, dataset.revision, dataset.basis, selection)
        self.id = hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:32]
        self.moved = _Moved(folder / "places.parquet")
        self._known = find_sources(home, dataset.name)
        self.sources = {one.record.sha256: one for one in self._known}
        self.unreadable = 0
        self.draft: Draft | None = None
        schema = dataset.schema or dataset.declared
        self._names = frozenset(schema.names if schema else ())
        self._gate = Gate(dataset, folder, self.id, earlier(home, dataset))

    def __enter__(self) -> Self:
        self.moved.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.moved.__exit__()
        if kind is not None:
            self._gate.abandon()

    def read(self, progress: Progress) -> None:
        held = _held_rows(self._known)
        for piece in select(self._home, self._dataset.name, self._selection):
            as_it_was = whole(piece.rows, self._names)
            self.unreadable += int((~as_it_was).sum())
            meant = piece.where(as_it_was)
            if not len(meant.positions):
                continue
            self.moved.add(meant)
            progress(self.moved.rows, held)
            for sha256, batch in _batches(meant.rows):
                record = self.sources[sha256].record
                self._gate.admit(
                    SourceFile(path=Path(record.path), record=record, stamp=(0, 0, 0)), batch
                )
        self.draft = self._gate.close()


def _batches(rows: pa.Table) -> Iterator[tuple[str, Batch]]:
    """Yields rows as they came: one file, one form, their own line numbers."""
    for sha256 in pc.unique(rows.column("sha256")).to_pylist():
        mine = rows.filter(pc.equal(rows.column("sha256"), sha256))
        for batch in read_again(mine, mine.column("line").to_numpy()):
            yield sha256, batch


# --- commit ----------------------------------------------------------------------------------


def _commit_release(
    home: Home, dataset: Dataset, replay: _Replay, selection: Selection, *, by: str, why: str
) -> Review | None:
    """Makes the draft durable, then visible, unless every row stays as it is.

    Raises:
        MovedError: the dataset changed since it was read; nothing became visible.
    """
    draft = replay.draft
    assert draft is not None
    at = home.clock.now()
    if not replay.moved.rows or (not draft.parts and _as_they_were(replay, draft)):
        return None
    touched = [(replay.sources[sha256], tally) for sha256, tally in draft.tallies.items()]
    schema = draft.schema if draft.parts else None
    records = tuple(source.record for source, _ in touched)
    snapshot = keep_snapshot(home, dataset, records, draft, schema) if schema else None
    row = IngestRow(
        id=replay.id,
        dataset=dataset.name,
        snapshot=snapshot.id if snapshot else None,
        refused=None,
        held_key=keep(home, draft.held, "parquet") if draft.held else None,
        anomalies=tuple(merge_anomalies(draft.anomalies)),
        created_at=at,
    )
    review = Review(
        id=replay.id,
        dataset=dataset.name,
        act="release",
        by=by,
        why=why,
        at=at,
        selection=selection,
        rows=replay.moved.rows + replay.unreadable,
        accepted=draft.counts.accepted,
        held=draft.counts.received - draft.counts.accepted,
        unreadable=replay.unreadable,
        snapshot=row.snapshot,
        since=_since(touched),
        positions_key=keep(home, replay.moved.path, "parquet"),
    )
    sources = [_moved_source(one, replay.moved.of(one), tally, row) for one, tally in touched]
    with home.store.write(TABLES) as conn:
        save_dataset(conn, advanced(dataset, draft, snapshot), at=at)
        save_ingest(conn, row, sources)
        if snapshot:
            save_snapshot(conn, snapshot)
        save_review(conn, review)
    return review


def _commit_discard(
    home: Home, dataset: Dataset, moved: _Moved, selection: Selection, *, by: str, why: str
) -> Review | None:
    if not moved.rows:
        return None
    at = home.clock.now()
    what = ("discard", dataset.name, dataset.revision, selection)
    review = Review(
        id=hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:32],
        dataset=dataset.name,
        act="discard",
        by=by,
        why=why,
        at=at,
        selection=selection,
        rows=moved.rows,
        held=moved.rows,
        positions_key=keep(home, moved.path, "parquet"),
    )
    touched = [
        _discarded_source(source, rows)
        for source in find_sources(home, dataset.name)
        if (rows := moved.of(source))
    ]
    with home.store.write(TABLES) as conn:
        save_dataset(conn, dataset, at=at)
        _save(conn, dataset, touched, review)
    return review


def _save(conn: Connection, dataset: Dataset, sources: list[SeenSource], review: Review) -> None:
    save_sources(conn, dataset.name, sources)
    save_review(conn, review)


def _as_they_were(replay: _Replay, draft: Draft) -> bool:
    """Tells whether each row would be held again for what it is held for."""
    before: Counter[tuple[str, GroupKey]] = Counter()
    after: Counter[tuple[str, GroupKey]] = Counter()
    for sha256, tally in draft.tallies.items():
        for key, rows in replay.moved.of(replay.sources[sha256]).items():
            before[sha256, ("", *key[1:])] += rows
        for group in tally.groups("", held_at=0.0):
            after[sha256, _key(group)] += group.rows
    return before == after


def _key(group: HeldGroup) -> GroupKey:
    return (group.ingest, group.kind, group.reason, group.rule, group.column)


def _held_at(source: SeenSource) -> float:
    """Returns when the rows of a source were first held: all at once, by the ingest that read it.

    Rows that are held again keep it, so that it is known which models never saw them.
    """
    return min(group.held_at for group in source.groups)


def _since(touched: list[tuple[SeenSource, Tally]]) -> tuple[tuple[float, int], ...]:
    found: Counter[float] = Counter()
    for source, tally in touched:
        if tally.counts.accepted:
            found[_held_at(source)] += tally.counts.accepted
    return tuple(sorted(found.items()))


def _moved_source(
    source: SeenSource, moved: Counter[GroupKey], tally: Tally, row: IngestRow
) -> SeenSource:
    """Returns a source whose moved rows are counted where they are now.

    A file that was refused is known from now on: what is left of it is reviewed here, and it is
    not read again.
    """
    left = [
        replace(group, rows=group.rows - moved[_key(group)])
        for group in source.groups
        if group.rows > moved[_key(group)]
    ]
    groups = (*left, *tally.groups(row.id, held_at=_held_at(source)))
    held: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for group in groups:
        held[group.kind] += group.rows
        reasons[group.reason] += group.rows
    counts = Counts(
        received=source.counts.received,
        accepted=source.counts.accepted + tally.counts.accepted,
        quarantined=held["quarantined"],
        duplicate=held["duplicate"],
        late=held["late"],
    )
    if counts.received != counts.accepted + held.total():
        raise Corrupted(
            f"held rows of {source.record.path} are not those that were counted",
            remedy="Restore the files and the store from one backup.",
        )
    return SeenSource(
        record=source.record,
        ingest=row.id if source.basis else source.ingest,
        counts=counts,
        reasons=dict(reasons),
        groups=groups,
        basis=None,
    )


def _discarded_source(source: SeenSource, rows: Counter[GroupKey]) -> SeenSource:
    groups = tuple(
        replace(group, discarded=group.discarded + rows[_key(group)]) for group in source.groups
    )
    return replace(source, groups=groups, basis=None)
