"""How far two sets of rows are apart, and whether that is more than chance; measures are pure."""

from tidemill.data.drift.measures import Bins
from tidemill.data.drift.reference import Reference
from tidemill.data.drift.verdict import ColumnDrift, DriftCheck, DriftReport, DriftRules

__all__ = ["Bins", "ColumnDrift", "DriftCheck", "DriftReport", "DriftRules", "Reference"]
