"""What the components that describe examples report."""

from __future__ import annotations

import msgspec

from tidemill.data.records import Anomaly
from tidemill.data.summaries import TableStatistics


class SplitStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of both splits."""

    train: TableStatistics
    evaluation: TableStatistics


class ExampleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found strange about the evaluation split, seen from the training split."""

    rows: int
    anomalies: tuple[Anomaly, ...]
