"""The data gate: takes batches, judges each row, and stages accepted and held rows on disk.

A row is quarantined if it breaks a rule; else a duplicate if its key was there before; else late
if it is older than allowed; else accepted. Memory does not grow with the rows, except by 32 bytes
a row for their keys where the dataset declares one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.batches import Batch, SourceFile, plain_values
from tidemill.data.casting import ARROW, Mask
from tidemill.data.catalog import Dataset
from tidemill.data.csv_records import Ints
from tidemill.data.keys import Hashes, KeySet, hash_rows, save_keys
from tidemill.data.quarantine import Held, HeldWriter, Origin
from tidemill.data.queries import check_apart
from tidemill.data.records import Anomaly, Counts, HeldGroup, Kind
from tidemill.data.schema import Schema, complete, infer, require
from tidemill.data.statistics import Statistics
from tidemill.data.summaries import TableStatistics
from tidemill.data.validation import (
    Judgement,
    Rule,
    compare,
    infer_types,
    merge_anomalies,
    validate,
)
from tidemill.foundation.errors import InvalidInput

ROWS_PER_FILE = 1 << 20

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What earlier snapshots say about new rows: their keys, and their newest event time."""

    keys: Sequence[Path] = ()
    newest: float | None = None


@dataclass(slots=True)
class _Group:
    rows: int = 0
    example: str | None = None


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the rows of one file."""

    counts: Counts = field(default_factory=Counts)
    _groups: dict[tuple[Kind, str, str, str | None], _Group] = field(default_factory=dict)

    def accept(self, rows: int) -> None:
        """Counts accepted rows."""
        self.counts += Counts(received=rows, accepted=rows)

    def hold(self, kind: Kind, held: Held) -> None:
        """Counts held rows of one kind, by reason and rule."""
        rows = len(held.lines)
        self.counts += Counts(**{"received": rows, kind: rows})
        rules = zip(held.reasons, held.rules, held.columns, held.values, strict=True)
        for reason, rule, column, value in rules:
            group = self._groups.setdefault((kind, reason, rule, column), _Group())
            group.rows += 1
            group.example = value if group.example is None else group.example

    @property
    def reasons(self) -> dict[str, int]:
        """Held rows by reason."""
        found: dict[str, int] = {}
        for (_, reason, _, _), group in self._groups.items():
            found[reason] = found.get(reason, 0) + group.rows
        return found

    def groups(self, ingest: str, *, held_at: float) -> tuple[HeldGroup, ...]:
        """Returns the held rows in groups, the largest first."""
        ordered = sorted(self._groups.items(), key=lambda pair: -pair[1].rows)
        return tuple(
            HeldGroup(
                ingest=ingest,
                kind=kind,
                reason=reason,
                rule=rule,
                column=column,
                rows=group.rows,
                example=group.example,
                held_at=held_at,
            )
            for (kind, reason, rule, column), group in ordered
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivery:
    """A batch, where it came from, and the tally of its file."""

    batch: Batch
    origin: Origin
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An ingest on disk, not yet seen by anybody.

    Attributes:
        schema: with what was learnt, if it is the first; None if no row could be read.
        parts: Parquet files of accepted rows, with their row numbers.
        held: Parquet file of held rows; None if there are none.
        keys: file of hashed keys; None without a declared key.
        statistics: of the accepted rows.
        sketches: the same, to be merged with those of other snapshots.
        refused: why the whole batch is held; None if it is not.
    """

    schema: Schema | None
    parts: tuple[tuple[Path, int], ...]
    held: Path | None
    keys: Path | None
    tallies: dict[str, Tally]
    statistics: TableStatistics
    sketches: bytes
    anomalies: tuple[Anomaly, ...]
    time_min: float | None
    time_max: float | None
    refused: str | None = None

    @property
    def counts(self) -> Counts:
        """Of all files together."""
        return sum((tally.counts for tally in self.tallies.values()), Counts())


class Gate:
    """Judges the batches of one ingest.

    Args:
        dataset: with the options and the schema in force.
        folder: an empty folder to write into.
        ingest: the id under which rows are held.
        earlier: what earlier snapshots say.
        hold_all: hold every row, those that break no rule under this one.
    """

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        ingest: str,
        earlier: Earlier,
        *,
        hold_all: Rule | None = None,
    ) -> None:
        self._dataset = dataset
        self._options = dataset.options
        self._schema = dataset.schema
        self._folder = folder
        self._earlier = earlier
        self._hold_all = hold_all
        self._seen = KeySet(earlier.keys)
        self._keys: list[Hashes] = []
        self._held = HeldWriter(folder / "held.parquet", dataset.name, ingest)
        self._accepted = _PartWriter(folder)
        self._statistics = Statistics()
        self._anomalies: list[Anomaly] = []
        self._tallies: dict[str, Tally] = {}
        self._times: list[float] = []

    def admit(self, file: SourceFile, batch: Batch) -> None:
        """Judges a batch and writes every row of it where it belongs."""
        tally = self._tallies.setdefault(file.record.sha256, Tally())
        delivery = _Delivery(batch=batch, origin=Origin.of(file.record, batch), tally=tally)
        self._hold_unreadable(delivery)
        self._anomalies += batch.notes
        if self._schema is None and not batch.table.num_rows:
            return  # nothing to infer a schema from yet
        schema = self._schema = self._schema or self._first_schema(batch)
        judged = validate(batch.table, schema.within(self._options.environment), self._options)
        self._anomalies = merge_anomalies((*self._anomalies, *judged.anomalies))
        self._hold_broken(delivery, judged)
        good = np.flatnonzero(judged.good)
        if self._hold_all is not None:
            self._hold(delivery, good, "quarantined", self._hold_all)
            return
        good = self._without_duplicates(delivery, judged.table, good)
        good = self._without_late(delivery, judged.table, good)
        self._accept(judged.table.take(pa.array(good)), tally)

    def close(self) -> Draft:
        """Finishes the files and returns what became of everything."""
        self._held.close()
        statistics = self._statistics.result()
        schema = self._schema
        anomalies = [*self._anomalies]
        if self._dataset.schema is not None:
            within = self._dataset.schema.within(self._options.environment)
            anomalies += compare(within, statistics)
        elif schema is not None:
            schema = self._taught(schema, statistics)
            anomalies += _without_values(schema, statistics, self._options.environment)
        keys = None
        if self._options.key:
            keys = self._folder / "keys"
            save_keys(keys, self._keys)
        return Draft(
            schema=schema,
            parts=self._accepted.close(),
            held=self._held.path if self._held.path.exists() else None,
            keys=keys,
            tallies=self._tallies,
            statistics=statistics,
            sketches=self._statistics.to_bytes(),
            anomalies=tuple(anomalies),
            time_min=min(self._times, default=None),
            time_max=max(self._times, default=None),
        )

    def _taught(self, schema: Schema, statistics: TableStatistics) -> Schema:
        """Returns what rows teach of the columns that their environment has."""
        here = self._options.environment
        pairs = zip(schema.columns, infer(schema, statistics).columns, strict=True)
        columns = tuple(
            after if schema.in_force(before, here) else before for before, after in pairs
        )
        return msgspec.structs.replace(schema, columns=columns)

    def abandon(self) -> None:
        """Closes the files; they are of no use."""
        self._held.close()
        self._accepted.close()

    def _first_schema(self, batch: Batch) -> Schema:
        """Returns the types of the first batch under what a person declared."""
        options = self._options
        schema = complete(self._dataset.declared, infer_types(batch.table, options))
        check_apart(schema.names)
        named = (*options.key, options.time) if options.time else options.key
        schema = require(schema, named)
        column = schema.column(options.time) if options.time else None
        if column is not None and column.type not in ("timestamp", "int64", "float64"):
            raise InvalidInput(
                f"time column {column.name!r} is {column.type}",
                remedy="Name a column of timestamps or of seconds since the epoch.",
            )
        return schema

    # --- where rows go -----------------------------------------------------------------------

    def _hold_unreadable(self, delivery: _Delivery) -> None:
        rows = delivery.batch.unreadable
        held = Held(
            reasons=[row.reason for row in rows],
            rules=[row.rule for row in rows],
            columns=[None] * len(rows),
            values=[row.value for row in rows],
            lines=[row.line for row in rows],
            rows=[row.text for row in rows],
        )
        self._put(delivery, "quarantined", held)

    def _hold_broken(self, delivery: _Delivery, judged: Judgement) -> None:
        batch = delivery.batch
        broken = np.flatnonzero(judged.broken >= 0)
        if not len(broken):
            return
        rules = [judged.rules[index] for index in judged.broken[broken].tolist()]
        held = Held(
            reasons=[rule.reason for rule in rules],
            rules=[rule.text for rule in rules],
            columns=[rule.column for rule in rules],
            values=_values(batch.table, judged, broken),
            lines=batch.lines[broken].tolist(),
            rows=batch.texts(broken),
        )
        self._put(delivery, "quarantined", held)

    def _hold(self, delivery: _Delivery, rows: Ints, kind: Kind, rule: Rule) -> None:
        batch = delivery.batch
        count = len(rows)
        if not count:
            return
        held = Held(
            reasons=[rule.reason] * count,
            rules=[rule.text] * count,
            columns=[rule.column] * count,
            values=_texts(batch.table, rule.column, rows),
            lines=batch.lines[rows].tolist(),
            rows=batch.texts(rows),
        )
        self._put(delivery, kind, held)

    def _put(self, delivery: _Delivery, kind: Kind, held: Held) -> None:
        self._held.put(kind, delivery.origin, held)
        delivery.tally.hold(kind, held)

    def _without_duplicates(self, delivery: _Delivery, table: pa.Table, good: Ints) -> Ints:
        key = self._options.key
        if not key:
            return good
        repeated = self._seen.repeats(hash_rows(table.select(key).take(pa.array(good)), key))
        rule = Rule(reason="duplicate", text=f"({', '.join(key)}) names one row")
        self._hold(delivery, good[repeated], "duplicate", rule)
        return good[~repeated]

    def _without_late(self, delivery: _Delivery, table: pa.Table, good: Ints) -> Ints:
        options = self._options
        if options.time is None:
            return good
        times = _seconds(table.column(options.time).take(pa.array(good)))
        late: Mask = np.zeros(len(good), np.bool_)
        newest = self._earlier.newest
        if options.lateness_s is not None and newest is not None:
            late = times < newest - options.lateness_s
            text = f"{options.time} is at most {options.lateness_s:g} s older than earlier rows"
            rule = Rule(reason="late", text=text, column=options.time)
            self._hold(delivery, good[late], "late", rule)
        times = times[~late]
        if len(times):
            self._times += [float(times.min()), float(times.max())]
        return good[~late]

    def _accept(self, rows: pa.Table, tally: Tally) -> None:
        if self._options.key:
            self._keys.append(hash_rows(rows, self._options.key))
        self._statistics.update(rows)
        self._accepted.put(rows)
        tally.accept(rows.num_rows)


class _PartWriter:
    """Writes rows into Parquet files of about a million rows each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[tuple[Path, int]] = []
        self._writer: pq.ParquetWriter | None = None

    def put(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        if self._writer is None:
            path = self._folder / f"part-{len(self._parts):05}.parquet"
            self._writer = pq.ParquetWriter(path, rows.schema, compression="zstd")
            self._parts.append((path, 0))
        self._writer.write_table(rows)
        path, before = self._parts[-1]
        self._parts[-1] = (path, before + rows.num_rows)
        if before + rows.num_rows >= ROWS_PER_FILE:
            self._finish()

    def close(self) -> tuple[tuple[Path, int], ...]:
        self._finish()
        return tuple(self._parts)

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _seconds(times: pa.ChunkedArray) -> Seconds:
    if times.type == ARROW["timestamp"]:
        return np.asarray(times.cast(pa.int64()).to_numpy(), np.float64) / 1e6
    return np.asarray(times.to_numpy(), np.float64)


def _values(table: pa.Table, judged: Judgement, rows: Ints) -> list[str | None]:
    """Returns, for each broken row, the value that broke its rule."""
    values: list[str | None] = [None] * len(rows)
    which = judged.broken[rows]
    for index, rule in enumerate(judged.rules):
        places = np.flatnonzero(which == index)
        found = _texts(table, rule.column, rows[places])
        for place, value in zip(places.tolist(), found, strict=True):
            values[place] = value
    return values


def _texts(table: pa.Table, column: str | None, rows: Ints) -> list[str | None]:
    if column is None or column not in table.column_names:
        return [None] * len(rows)
    found = plain_values(table.column(column).take(pa.array(rows)))
    return [None if value is None else str(value)[:1000] for value in found]


def _without_values(
    schema: Schema, statistics: TableStatistics, environment: str | None
) -> list[Anomaly]:
    here = {one.name for one in schema.columns if schema.in_force(one, environment)}
    return [
        Anomaly(
            kind="FEATURE_TYPE_NOT_PRESENT",
            column=seen.name,
            message=f"{seen.name} has no value yet: it is frozen as {seen.type}; "
            "declare its type in a schema before the first ingest if that is wrong",
            rows=seen.missing,
        )
        for seen in statistics.columns
        if seen.count and seen.missing == seen.count and seen.name in here
    ]
