"""What is received is accepted, quarantined, duplicate or late, before a release and after."""

from __future__ import annotations

from tidemill.data.catalog import find_sources
from tidemill.data.held_rows import list_held, show_held
from tidemill.data.records import Counts, Selection
from tidemill.data.reviews import release
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshots import list_snapshots
from tidemill.foundation.home import Home


def check_conserved(home: Home, name: str, received: int) -> None:
    """Counts a dataset's rows, releases what is held under a wider rule, and counts again."""
    for _ in range(2):
        counts = sum((one.counts for one in find_sources(home, name)), Counts())
        assert counts.received == received
        held = counts.quarantined + counts.duplicate + counts.late
        assert counts.received == counts.accepted + held
        assert sum(one.rows for one in list_held(home, name)) == held
        assert show_held(home, name, limit=10_000).num_rows == held
        assert sum(one.rows for one in list_snapshots(home, name)) == counts.accepted
        wide = Schema(columns=(Column(name="share", type="float64"),))
        schema = wide if list_snapshots(home, name) else None
        release(home, name, Selection(), by="ann", schema=schema)
