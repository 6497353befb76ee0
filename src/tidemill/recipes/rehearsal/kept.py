"""Costs that were measured on this machine, kept for the next plan of the same model version."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.foundation.clock import iso
from tidemill.foundation.durable import make_folder
from tidemill.foundation.files import write_atomic
from tidemill.foundation.home import Home
from tidemill.planning.costs import Costs


class KeptCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and when, in ISO 8601."""

    costs: Costs
    measured_at: str


def keep_costs(home: Home, model: str, version: int, costs: Costs) -> KeptCosts:
    """Keeps costs; those of an earlier measurement are forgotten."""
    kept = KeptCosts(costs=costs, measured_at=iso(home.clock.now()))
    path = _path(home, model, version)
    make_folder(path.parent)
    write_atomic(path, msgspec.json.encode(kept))
    return kept


def kept_costs(home: Home, model: str, version: int) -> KeptCosts | None:
    """Returns what was measured of a version; None if nothing was, or nobody can read it now."""
    try:
        return msgspec.json.decode(_path(home, model, version).read_bytes(), type=KeptCosts)
    except (OSError, msgspec.MsgspecError):
        return None


def _path(home: Home, model: str, version: int) -> Path:
    return home.cache_path / "costs" / f"{model}-{version}.json"
