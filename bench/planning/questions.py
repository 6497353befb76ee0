"""What is asked: a model each, and a minute of traffic."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.recipes.demo.flights import flights, prepare

TRACE_S = 60.0
EXAMPLES = 3000
_COMPILED, _AS_IT_IS = True, False
_DAYS = range(1, 29)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A model and its traffic: keys by Zipf's law, and as many new ones as said; or flights.

    ``keys`` is 0 for flights: whoever is about to leave New York, by route and hour.
    """

    name: str
    keys: int
    exponent: float = 0.0
    new: float = 0.0
    rate_rps: float
    trees: int
    compiles: bool


QUESTIONS = (
    Asked(
        name="peaked, quick model", keys=2000, exponent=1.1, rate_rps=300.0, trees=100,
        compiles=_COMPILED,
    ),
    Asked(
        name="flat, new keys, quick model", keys=5000, exponent=0.5, new=0.1, rate_rps=300.0,
        trees=300, compiles=_COMPILED,
    ),
    Asked(
        name="peaked, new keys, slow model", keys=1000, exponent=1.0, new=0.05, rate_rps=40.0,
        trees=10, compiles=_AS_IT_IS,
    ),
    Asked(name="flights, quick model", keys=0, rate_rps=150.0, trees=100, compiles=_COMPILED),
)  # fmt: skip


def trace_of(asked: Asked, rng: np.random.Generator, folder: Path) -> pa.Table:
    """Returns a minute of traffic: the time of each query, and its three inputs."""
    count = int(TRACE_S * asked.rate_rps)
    if asked.keys:
        shares = np.arange(1, asked.keys + 1) ** -asked.exponent
        ids = rng.choice(asked.keys, count, p=shares / shares.sum())
        new = rng.random(count) < asked.new
        ids[new] = 1_000_000 + np.arange(int(new.sum()))
        rows = _rows(ids)
    else:
        rows = _flights(folder, count)
    times = np.cumsum(rng.exponential(1.0 / asked.rate_rps, len(rows)))
    return rows.append_column("time", pa.array(times))


def examples_of(asked: Asked, rng: np.random.Generator, folder: Path) -> pa.Table:
    """Returns rows to train on."""
    if asked.keys:
        return _rows(rng.integers(0, asked.keys, EXAMPLES))
    return _flights(folder, EXAMPLES)


def _rows(ids: np.ndarray[Any, Any]) -> pa.Table:
    return pa.table({"one": ids, "two": ids % 13, "three": ids % 101})


def _flights(folder: Path, count: int) -> pa.Table:
    """Returns flights in the order in which they left: a number for the route, hour, distance."""
    months = prepare(folder / "flights")
    some = [each.inputs for each in islice(flights(months.february, _DAYS), count)]
    routes: dict[tuple[Any, ...], int] = {}
    for each in some:
        routes.setdefault((each["carrier"], each["origin"], each["dest"]), len(routes))
    return pa.table(
        {
            "one": [routes[each["carrier"], each["origin"], each["dest"]] for each in some],
            "two": [each["hour"] for each in some],
            "three": [each["distance"] for each in some],
        }
    )
