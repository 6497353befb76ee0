"""What batching gains, and how near serving comes to what edge and model can do alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from bench.results import claim

from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.models.registry import Registry
from tidemill.models.runtime import open_runtime

BATCH = 64
_WARM_CALLS = 20


def model_alone(home: Path, name: str, rows: np.ndarray, *, seconds: float) -> float:
    """Returns how many rows a second the model answers in this process, a batch at a time."""
    with open_home(Settings(home=home)) as opened:
        registry = Registry(opened)
        folder = registry.fetch(name, registry.get(name).version)
    runtime = open_runtime(folder, trust_code=True, threads=1)
    try:
        batch = {"x": rows[:BATCH]}
        for _ in range(_WARM_CALLS):
            runtime.predict(batch)
        calls, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            runtime.predict(batch)
            calls += 1
    finally:
        runtime.close()
    return BATCH * calls / took


def gain_claims(
    rps: dict[str, float],
    batching: dict[str, tuple[str, str]],
    pairs: dict[str, tuple[str, float]],
) -> list[dict[str, Any]]:
    """Judges the gain of batching, and the share of what edge and model can do alone.

    ``batching`` names, for each model, the application with batches of one and that with learned
    ones. ``pairs`` names, for each application, the one that shows the edge alone, and the rows a
    second of the model alone.
    """
    found = [
        claim(f"{model}: batching / batches of one", rps[many] / rps[one], ">=", 25)
        for model, (one, many) in batching.items()
    ]
    for name, (edge, alone) in pairs.items():
        lesser = min(rps[edge], alone)
        which = "edge" if rps[edge] < alone else "model"
        what = f"{name} / the lesser of edge and model alone ({which}: {lesser:,.0f}/s)"
        found.append(claim(what, rps[name] / lesser, ">=", 0.8))
    return found
