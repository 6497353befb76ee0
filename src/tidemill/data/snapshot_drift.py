"""Drift of a stored dataset: a snapshot's rows against those of an earlier one, frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tidemill.data.catalog import Dataset, find_dataset, get_schema
from tidemill.data.drift.reference import LAYOUT, Reference, count, freeze
from tidemill.data.drift.verdict import DriftReport, DriftRules, judge
from tidemill.data.records import DatasetOptions, Snapshot
from tidemill.data.schema import Schema
from tidemill.data.snapshot_checks import pick_snapshot
from tidemill.data.snapshots import batches_of, snapshot_paths
from tidemill.foundation.errors import Corrupted, InvalidInput, NotFound
from tidemill.foundation.home import Home


class SpanDrift(msgspec.Struct, frozen=True, kw_only=True):
    """How a snapshot differs from an earlier one.

    Attributes:
        dataset: its dataset.
        snapshot: its id.
        against: id of the snapshot that is the reference.
        report: what was found.
    """

    dataset: str
    snapshot: str
    against: str
    report: DriftReport


def drift_between(
    home: Home,
    name: str,
    *,
    snapshot: str | None = None,
    against: str | None = None,
    rules: DriftRules | None = None,
) -> SpanDrift:
    """Compares a snapshot of a dataset with an earlier one.

    The dataset's key and time, timestamps and columns whose values never repeat are left out: they
    differ from day to day as they should. A column with a limit in ``drift`` is judged by it.

    Args:
        home: the installation.
        name: the dataset.
        snapshot: an id; None for the newest.
        against: id of the reference; None for the newest snapshot before that an ingest made.
        rules: what counts as drift; limits of the schema join those of its columns.

    Raises:
        NotFound: there is no such dataset or snapshot, or none before it.
        InvalidInput: a snapshot was to be compared with itself.
        Corrupted: a file's bytes are not what was written.
    """
    rules = rules or DriftRules()
    chosen = pick_snapshot(home, name, snapshot)
    other = _reference_snapshot(home, chosen, against)
    options = find_dataset(home, name).options
    paths = snapshot_paths(home, [chosen])
    report = _judged(home, get_schema(home, name), options, other, paths, rules=rules)
    return SpanDrift(dataset=name, snapshot=chosen.id, against=other.id, report=report)


def drift_refusal(home: Home, dataset: Dataset, paths: Sequence[Path]) -> str | None:
    """Returns why rows that passed the gate must not become a snapshot, and what to do.

    Args:
        home: the installation.
        dataset: theirs; without ``max_drift``, or without a snapshot that an ingest made, nothing
            is compared.
        paths: their Parquet files.
    """
    most, schema = dataset.options.max_drift, dataset.schema
    if most is None or schema is None or not dataset.sequence or not paths:
        return None
    batches = batches_of(home, dataset.name)
    if not batches:
        return None
    newest = batches[-1]
    rules = DriftRules(limit=most, grave=max(most, DriftRules().grave))
    report = _judged(home, schema, dataset.options, newest, paths, rules=rules)
    if report.ok:
        return None
    moved = [
        f"{column.name}: {check.measure} {check.distance:.3g}, over {check.limit:g}"
        for column in report.columns
        for check in column.checks
        if check.alarm
    ]
    failed = [f"{name}: {why}" for name, why in report.errors.items()]
    told = [*moved, *failed]
    listed = "; ".join(told[:3]) + (f"; {len(told) - 3} more" if len(told) > 3 else "")
    return (
        f"columns have drifted since snapshot {newest.id}, or could not be compared ({listed}). "
        "Correct the file; or, if that is how rows are now, raise max_drift or the column's drift, "
        "and ingest it again."
    )


def _judged(
    home: Home,
    schema: Schema,
    options: DatasetOptions,
    other: Snapshot,
    paths: Sequence[Path],
    *,
    rules: DriftRules,
) -> DriftReport:
    """Compares rows of a dataset with one of its snapshots."""
    skipped = not_compared(schema, options, "drift")
    limits = {one.name: one.drift for one in schema.columns if one.drift is not None}
    reference = frozen_reference(home, [other])
    return judge(
        without(reference, skipped),
        count(reference, paths, leave_out=skipped),
        msgspec.structs.replace(rules, columns={**limits, **rules.columns}),
    )


def _reference_snapshot(home: Home, chosen: Snapshot, against: str | None) -> Snapshot:
    if against is not None:
        other = pick_snapshot(home, chosen.dataset, against)
        if other.id == chosen.id:
            raise InvalidInput(
                f"snapshot {chosen.id} was to be compared with itself",
                remedy="Name another snapshot.",
            )
        return other
    before = [one for one in batches_of(home, chosen.dataset) if one.sequence < chosen.sequence]
    if not before:
        raise NotFound(
            f"dataset {chosen.dataset!r} has no ingested snapshot before {chosen.id}",
            remedy="Ingest a second file, or name one with --against.",
        )
    return before[-1]


def not_compared(schema: Schema, options: DatasetOptions, rule: str) -> dict[str, str]:
    """Returns the columns that differ from day to day as they should, and why.

    Args:
        schema: of the dataset.
        options: likewise.
        rule: ``drift`` or ``skew``: a column with such a limit is compared whatever it holds.
    """
    found = {}
    for column in schema.columns:
        if getattr(column, rule) is not None:
            continue
        if column.name in options.key:
            found[column.name] = "it is of the dataset's key"
        elif column.name == options.time:
            found[column.name] = "it is the dataset's time"
        elif column.type == "timestamp":
            found[column.name] = "it holds times, which move on"
        elif column.unique:
            found[column.name] = "its values never repeat"
        elif column.deprecated:
            found[column.name] = "it is deprecated"
    return found


def without(reference: Reference, skipped: dict[str, str]) -> Reference:
    """Returns a reference without some columns, which are told as left out."""
    known = {column.name for column in reference.columns}
    return msgspec.structs.replace(
        reference,
        columns=tuple(one for one in reference.columns if one.name not in skipped),
        left_out={
            **reference.left_out,
            **{name: why for name, why in skipped.items() if name in known},
        },
    )


def frozen_reference(home: Home, snapshots: Sequence[Snapshot]) -> Reference:
    """Returns the reference that some snapshots' rows make together, frozen the first time.

    Args:
        home: the installation.
        snapshots: of one dataset, in the order in which their rows count.

    Raises:
        Corrupted: a snapshot file's bytes are not what was written.
        InvalidInput: they have no row.
    """
    ids = "\n".join(snapshot.id for snapshot in snapshots)
    return kept_reference(home, ids, lambda: snapshot_paths(home, snapshots))


def kept_reference(home: Home, identity: str, paths: Callable[[], Sequence[Path]]) -> Reference:
    """Returns the reference of rows that never change, frozen the first time.

    It is kept among the files under a key that the rows' identity and the layout give. The same
    rows give the same bytes: whoever asks first, and however many at once, the reference is the
    same. One that is damaged is made again.

    Args:
        home: the installation.
        identity: tells these rows from all others.
        paths: gives their Parquet files, verified, if they are needed.

    Raises:
        InvalidInput: there is no row, or they cannot be read.
    """
    digest = hashlib.sha256(identity.encode()).hexdigest()
    key = f"data/references/{digest[:2]}/{digest}.{LAYOUT}"
    if home.files.exists(key):
        try:
            return Reference.from_bytes(home.files.get_bytes(key))
        except (Corrupted, NotFound):
            home.files.delete(key)
    reference = freeze(paths())
    home.files.put_bytes(key, reference.to_bytes())
    return reference
