"""Rows from outside, and what became of them; nothing here knows a model."""

from tidemill.data.records import (
    Anomaly,
    Counts,
    DatasetOptions,
    HeldGroup,
    IngestResult,
    Review,
    Selection,
    Snapshot,
    SnapshotFile,
    SourceRecord,
)
from tidemill.data.schema import Column, Schema

# Each module's own records join here, one group per line.
__all__ = [
    "Anomaly",
    "Column",
    "Counts",
    "DatasetOptions",
    "HeldGroup",
    "IngestResult",
    "Review",
    "Schema",
    "Selection",
    "Snapshot",
    "SnapshotFile",
    "SourceRecord",
]
