"""The statistics of a stored dataset: computed with each snapshot, merged over several."""

from __future__ import annotations

import msgspec

from tidemill.data.catalog import find_snapshots
from tidemill.data.records import Snapshot
from tidemill.data.snapshot_checks import pick_snapshot
from tidemill.data.snapshots import read_statistics, snapshot_paths
from tidemill.data.statistics import Statistics, associate, correlate, describe, describe_slices
from tidemill.data.statistics.scan import Progress
from tidemill.data.summaries import Association, Correlation, SliceStatistics, TableStatistics
from tidemill.foundation.home import Home


class DatasetStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of some snapshots' rows.

    Attributes:
        dataset: its name.
        snapshots: ids of the snapshots, oldest first.
        weight: the column that rows were counted by, if one was named.
        slice: the column that rows were sliced by, likewise.
        statistics: of all rows.
        slices: of the rows by their value in ``slice``, the largest first.
        label: the column that the others were held against, likewise.
        associations: what each other column tells of it, the one that tells most first.
        correlations: of each two columns of numbers, the strongest first, if asked for.
    """

    dataset: str
    snapshots: tuple[str, ...]
    weight: str | None = None
    slice: str | None = None
    statistics: TableStatistics
    slices: tuple[SliceStatistics, ...] = ()
    label: str | None = None
    associations: tuple[Association, ...] = ()
    correlations: tuple[Correlation, ...] = ()


def dataset_statistics(
    home: Home,
    name: str,
    *,
    snapshot: str | None = None,
    every: bool = False,
    by: str | None = None,
    weight: str | None = None,
    label: str | None = None,
    correlated: bool = False,
    progress: Progress | None = None,
) -> DatasetStatistics:
    """Returns a dataset's statistics, as they were kept wherever that is enough.

    Args:
        home: the installation.
        name: the dataset.
        snapshot: an id; None for the newest.
        every: of all snapshots together, up to that one; no row is read for it.
        by: also of slices by this column; the rows are read.
        weight: also by this weight; the rows are read.
        label: also what each column tells of this one; the rows are read.
        correlated: also how each two columns of numbers go together; the rows are read.
        progress: told the rows read so far and in all, if they are.

    Raises:
        NotFound: there is no such dataset or snapshot.
        InvalidInput: there is no such column, it has more than 100 different values to slice by,
            or a weight is missing, negative or not finite.
        Corrupted: a file's bytes are not what was written.
    """
    newest = pick_snapshot(home, name, snapshot)
    chosen = [newest]
    if every:
        known = find_snapshots(home, dataset=name)
        chosen = [one for one in known if one.sequence <= newest.sequence]
    slices: tuple[SliceStatistics, ...] = ()
    if by is not None:
        paths = snapshot_paths(home, chosen)
        slices = describe_slices(paths, by, weight=weight, progress=progress).result()
    if weight is not None:
        paths = snapshot_paths(home, chosen)
        statistics = describe(paths, weight=weight, progress=progress).result()
    elif every:
        statistics = merged_statistics(home, chosen).result()
    else:
        statistics = snapshot_statistics(home, newest)
    paths = snapshot_paths(home, chosen) if correlated or label is not None else []
    associations: tuple[Association, ...] = ()
    if label is not None:
        associations = associate(paths, label, statistics, progress=progress).result()
    correlations = correlate(paths, progress=progress).result() if correlated else ()
    return DatasetStatistics(
        dataset=name,
        snapshots=tuple(one.id for one in chosen),
        weight=weight,
        slice=by,
        statistics=statistics,
        slices=slices,
        label=label,
        associations=associations,
        correlations=correlations,
    )


def snapshot_statistics(home: Home, snapshot: Snapshot) -> TableStatistics:
    """Returns a snapshot's statistics as they were kept, or of its rows if an older version did.

    Raises:
        NotFound: a file is gone.
        Corrupted: a file's bytes are not what was written.
    """
    if snapshot.sketches_key is not None:
        return read_statistics(home, snapshot)
    return describe(snapshot_paths(home, [snapshot])).result()


def merged_statistics(home: Home, snapshots: list[Snapshot]) -> Statistics:
    """Returns the statistics of several snapshots' rows, which are read only if none were kept.

    Raises:
        NotFound: a file is gone.
        Corrupted: a file's bytes are not what was written.
    """
    found = Statistics()
    for one in snapshots:
        if one.sketches_key is None:
            found.merge(describe(snapshot_paths(home, [one])))
        else:
            found.merge(Statistics.from_bytes(home.files.get_bytes(one.sketches_key)))
    return found
