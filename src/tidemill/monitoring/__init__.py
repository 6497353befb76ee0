"""Measures of what was served, and decisions about it; pure: nothing here acts or reads a clock."""

from tidemill.monitoring.progressive import ProgressiveReport
from tidemill.monitoring.served_score import CoverageBucket, CurvePoint, ServedScore

__all__ = ["CoverageBucket", "CurvePoint", "ProgressiveReport", "ServedScore"]
