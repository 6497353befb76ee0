"""Planning: chooses where each prediction is computed, from traffic, costs and prices."""

from __future__ import annotations

from tidemill.planning.alternatives import Alternative, Promise
from tidemill.planning.choose import Plan
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import Prices
from tidemill.planning.traffic import Traffic

__all__ = ["Alternative", "Costs", "LatencyLaw", "Plan", "Prices", "Promise", "Traffic"]
