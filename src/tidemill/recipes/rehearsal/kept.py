"""Costs that were measured on this machine, kept for the next plan of the same model version."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.foundation.clock import iso
from tidemill.foundation.durable import make_folder
from tidemill.foundation.files import write_atomic
from tidemill.foundation.home import Home
from tidemill.planning.costs import Costs
from tidemill.planning.simulate import LAW


class KeptCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Args:
        costs: of serving, as they were fitted.
        measured_at: when, in ISO 8601.
        law: the number of the simulation that they were fitted to; 0 before there were numbers.
    """

    costs: Costs
    measured_at: str
    law: int = 0


def keep_costs(home: Home, model: str, version: int, costs: Costs) -> KeptCosts:
    """Keeps costs; those of an earlier measurement are forgotten."""
    kept = KeptCosts(costs=costs, measured_at=iso(home.clock.now()), law=LAW)
    path = _path(home, model, version)
    make_folder(path.parent)
    write_atomic(path, msgspec.json.encode(kept))
    return kept


def kept_costs(home: Home, model: str, version: int) -> KeptCosts | None:
    """Returns what was measured of a version; None if nothing was that counts now.

    Costs that were fitted to another law of the simulation do not, nor what nobody can read.
    """
    try:
        kept = msgspec.json.decode(_path(home, model, version).read_bytes(), type=KeptCosts)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept if kept.law == LAW else None


def was_measured(home: Home, model: str, version: int) -> bool:
    """Says whether anything was measured of a version, whether it counts now or not."""
    return _path(home, model, version).exists()


def _path(home: Home, model: str, version: int) -> Path:
    return home.cache_path / "costs" / f"{model}-{version}.json"
