"""Statistics of columns, as an algebra: ``update`` with rows, ``merge`` with others, ``result``."""

from tidemill.data.statistics.scan import associate, correlate, describe, describe_slices
from tidemill.data.statistics.slices import Slices
from tidemill.data.statistics.table import Statistics

__all__ = ["Slices", "Statistics", "associate", "correlate", "describe", "describe_slices"]
