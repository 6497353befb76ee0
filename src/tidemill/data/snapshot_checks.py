"""The anomalies of a stored dataset: what its snapshots show, and what is accepted of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from tidemill.data.catalog import find_dataset, find_snapshots, get_schema, set_schema
from tidemill.data.conformance import ValidationReport, check
from tidemill.data.queries import Queries
from tidemill.data.records import Anomaly, Snapshot
from tidemill.data.schema import Column, Schema, infer
from tidemill.data.schema_edits import apply_edits
from tidemill.data.snapshots import batches_of, get_snapshot, read_statistics, snapshot_paths
from tidemill.data.summaries import TableStatistics
from tidemill.foundation.errors import Corrupted, InvalidInput, NotFound
from tidemill.foundation.home import Home


class SnapshotValidation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the validation of a snapshot.

    Attributes:
        dataset: its dataset.
        snapshot: its id.
        previous: id of the snapshot that an ingest made before it; None if it is the first.
        serving: id of the snapshot that it was compared with for skew.
        report: what was found.
    """

    dataset: str
    snapshot: str
    previous: str | None = None
    serving: str | None = None
    report: ValidationReport


def pick_snapshot(home: Home, name: str, snapshot: str | None) -> Snapshot:
    """Returns a dataset's snapshot: one by its id, or the newest.

    Raises:
        NotFound: there is no such dataset or snapshot, or the snapshot is another dataset's.
    """
    get_schema(home, name)
    if snapshot is not None:
        found = get_snapshot(home, snapshot)
        if found.dataset != name:
            raise NotFound(
                f"snapshot {snapshot} is of dataset {found.dataset!r}, not {name!r}",
                remedy="List the snapshots.",
            )
        return found
    snapshots = find_snapshots(home, dataset=name)
    if not snapshots:
        raise NotFound(f"dataset {name!r} has no snapshot yet", remedy="Ingest a first file.")
    return snapshots[-1]


def validate_snapshot(
    home: Home,
    name: str,
    *,
    snapshot: str | None = None,
    environment: str | None = None,
    serving: str | None = None,
) -> SnapshotValidation:
    """Judges a snapshot's rows by its dataset's schema, and by the one ingested before it.

    Args:
        home: the installation.
        name: the dataset.
        snapshot: an id; None for the newest.
        environment: where the rows stand, such as ``serving``; None for every rule.
        serving: id of a snapshot of rows that were served, for the limits in ``skew``; None: they
            are not checked.

    Raises:
        NotFound: there is no such dataset or snapshot.
        InvalidInput: the schema names no such environment.
        Corrupted: a file's bytes are not what was written.
    """
    chosen = pick_snapshot(home, name, snapshot)
    before = [one for one in batches_of(home, name) if one.sequence < chosen.sequence][-1:]
    report = check(
        snapshot_paths(home, [chosen]),
        get_schema(home, name),
        environment=environment,
        statistics=_kept_statistics(home, chosen),
        previous=snapshot_paths(home, before) if before else None,
        serving=snapshot_paths(home, [serving]) if serving else None,
    )
    return SnapshotValidation(
        dataset=name,
        snapshot=chosen.id,
        previous=before[0].id if before else None,
        serving=serving,
        report=report,
    )


def _kept_statistics(home: Home, snapshot: Snapshot) -> TableStatistics | None:
    """Returns statistics that spare asking the rows; None where they are old or damaged."""
    if snapshot.sketches_key is None:  # an older version left out what isn't finite
        return None
    try:
        return read_statistics(home, snapshot)
    except (Corrupted, NotFound):
        return None


def infer_snapshot(
    home: Home, name: str, *, snapshot: str | None = None, ranges: bool = False
) -> Schema:
    """Returns the schema that a snapshot alone would teach; the one in force stays as it is.

    Args:
        home: the installation.
        name: the dataset.
        snapshot: an id; None for the newest.
        ranges: numbers and timestamps get the range that they are in.

    Raises:
        NotFound: there is no such dataset or snapshot.
    """
    chosen = pick_snapshot(home, name, snapshot)
    dataset = find_dataset(home, name)
    named = {*dataset.options.key, dataset.options.time}
    bare = Schema(
        columns=tuple(
            Column(name=column.name, type=column.type, required=column.name in named)
            for column in get_schema(home, name).columns
        )
    )
    return infer(bare, read_statistics(home, chosen), ranges=ranges)


def accept(
    home: Home,
    name: str,
    wanted: Sequence[str],
    *,
    snapshot: str | None = None,
    environment: str | None = None,
    serving: str | None = None,
) -> tuple[Schema, list[Anomaly]]:
    """Edits a dataset's schema so that some anomalies of a snapshot are none any more.

    Args:
        home: the installation.
        name: the dataset.
        wanted: ids of anomalies as ``validate_snapshot`` gives them; ``all`` for each that has
            a mend.
        snapshot: an id; None for the newest.
        environment: as for ``validate_snapshot``.
        serving: likewise.

    Returns:
        The whole schema, and the anomalies that were accepted.

    Raises:
        NotFound: there is no such dataset or snapshot, or it has no such anomaly.
        InvalidInput: an anomaly has no mend.
        Conflict: a column or a type would change, or somebody changed the dataset meanwhile.
    """
    before = get_schema(home, name)
    report = validate_snapshot(
        home, name, snapshot=snapshot, environment=environment, serving=serving
    ).report
    chosen = _chosen(report.anomalies, wanted)
    edits = [one.fix for one in chosen if one.fix is not None]
    edited = apply_edits(before, edits)
    return set_schema(home, name, edited, whole=True, expected=before), chosen


def _chosen(anomalies: Sequence[Anomaly], wanted: Sequence[str]) -> list[Anomaly]:
    known = {one.id: one for one in anomalies}
    for each in wanted:
        if each != "all" and each not in known:
            raise NotFound(
                f"the snapshot has no anomaly {each!r}",
                remedy="tidemill validate shows those that it has.",
            )
        if each != "all" and known[each].fix is None:
            raise InvalidInput(
                f"no edit of the schema mends anomaly {each}: {known[each].message}",
                remedy="Correct the rows, or edit the schema yourself.",
            )
    return [
        one for one in anomalies if one.fix is not None and ("all" in wanted or one.id in wanted)
    ]


def find_rows(data: Any, anomaly: Anomaly, *, limit: int = 20) -> pa.Table:
    """Returns some of the rows that an anomaly is about.

    Args:
        data: what was validated.
        anomaly: one that has a query.
        limit: at most so many.

    Raises:
        InvalidInput: the anomaly is about no rows of its own.
    """
    if anomaly.query is None:
        raise InvalidInput(
            f"{anomaly.kind} is about no rows of its own", remedy="Read its message."
        )
    with Queries(data) as queries:
        return queries.select(f"SELECT * FROM (\n{anomaly.query}\n) LIMIT {int(limit)}")
