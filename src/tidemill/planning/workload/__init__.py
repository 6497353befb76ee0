"""The workload: how queries arrive and how they share their keys, measured on real traffic."""

from __future__ import annotations

from tidemill.planning.workload.profile import WorkloadProfile

__all__ = ["WorkloadProfile"]
