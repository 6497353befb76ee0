"""How far two sets of rows are apart, and whether that is more than chance; measures are pure."""

from tidemill.data.drift.measures import Bins

__all__ = ["Bins"]
