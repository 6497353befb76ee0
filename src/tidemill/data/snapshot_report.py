"""The report of a stored snapshot: gathers what it tells."""

from __future__ import annotations

from tidemill.data.catalog import find_ingests
from tidemill.data.held_rows import list_held
from tidemill.data.report_page import Report
from tidemill.data.snapshot_checks import pick_snapshot, validate_snapshot
from tidemill.data.snapshot_drift import drift_between
from tidemill.data.snapshot_statistics import snapshot_statistics
from tidemill.foundation.home import Home


def snapshot_report(
    home: Home, name: str, *, snapshot: str | None = None, against: str | None = None
) -> Report:
    """Returns what is to be told of a snapshot; ``report_page`` tells it.

    Args:
        home: the installation.
        name: the dataset.
        snapshot: an id; None for the newest.
        against: id of another snapshot to put beside it; None for none.

    Raises:
        NotFound: there is no such dataset or snapshot.
        InvalidInput: a snapshot was to be put beside itself.
        Corrupted: a file's bytes are not what was written.
    """
    chosen = pick_snapshot(home, name, snapshot)
    other = None if against is None else pick_snapshot(home, name, against)
    drift = None
    if other is not None:
        drift = drift_between(home, name, snapshot=chosen.id, against=other.id).report
    ingests = {one.id for one in find_ingests(home, name) if one.snapshot == chosen.id}
    return Report(
        snapshot=chosen,
        statistics=snapshot_statistics(home, chosen),
        anomalies=validate_snapshot(home, name, snapshot=chosen.id).report.anomalies,
        held=tuple(one for one in list_held(home, name) if one.ingest in ingests),
        against=other,
        before=None if other is None else snapshot_statistics(home, other),
        drift=drift,
    )
