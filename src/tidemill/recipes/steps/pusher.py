"""Pusher: a version in the registry, blessed or not, with the reasons."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.foundation.home import Home
from tidemill.models.registry import Registry
from tidemill.recipes.steps.evaluation import Verdict
from tidemill.recipes.steps.infra import InfraReport


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """The version that the registry gave, and whether it may go live."""

    name: str
    version: int
    blessed: bool
    reasons: tuple[str, ...]


def pusher(
    home: Home, model: Path, name: str, verdict: Verdict, infra: InfraReport, run: str
) -> Pushed:
    """Registers the candidate; one that is not blessed is kept too, and can't become champion."""
    blessing = verdict.blessing
    version = Registry(home).register(
        model,
        name,
        blessed=blessing.blessed,
        blessing={
            "reasons": list(blessing.reasons),
            "evaluation": msgspec.to_builtins(verdict.candidate),
            "infra": msgspec.to_builtins(infra),
        },
        run=run,
    )
    return Pushed(
        name=name,
        version=version.version,
        blessed=blessing.blessed,
        reasons=tuple(blessing.reasons),
    )
