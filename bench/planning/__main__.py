"""Measures whether ``tidemill plan`` is true: what it predicts beside what a running server does.

    python -m bench.planning [--smoke | --quick | --brief] [--repeats N]

Three questions, each a model and a minute of traffic made from a seed. For each, this machine is
measured as ``plan --calibrate`` does, everything is planned, and five alternatives are served side
by side: no table with and without a cache, tables of a few, of many and of all keys. Each is asked
the same queries at the same moments, in an open loop, in every repeat.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench.cases.tables import rehearsed_table
from bench.effort import parse_effort
from bench.results import Record, claim, claims_table, say
from sklearn.ensemble import RandomForestRegressor

from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.models.registry import Registry
from tidemill.planning.alternatives import Alternative, Promise
from tidemill.planning.choose import Plan, choose
from tidemill.planning.workload.sources import read_trace
from tidemill.recipes.push import push_model
from tidemill.recipes.rehearsal.calibration import calibrate
from tidemill.recipes.rehearsal.comparison import Rehearsed, rehearse
from tidemill.recipes.rehearsal.questions import questions_of_trace
from tidemill.recipes.rehearsal.stage import Subject

SECONDS = {"smoke": 0.5, "quick": 3.0, "brief": 5.0, "full": 10.0}
REPEATS = {"smoke": 1, "quick": 3, "brief": 5, "full": 5}
TRACE_S = 60.0
NEAR, ENOUGH = 0.15, 0.10
_COMPILED, _AS_IT_IS = True, False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A model and its traffic: keys by Zipf's law, and as many new ones as said."""

    name: str
    keys: int
    exponent: float
    new: float
    rate_rps: float
    trees: int
    compiles: bool


QUESTIONS = (
    Asked(
        name="peaked, quick model", keys=2000, exponent=1.1, new=0.0, rate_rps=300.0, trees=100,
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
)  # fmt: skip


def main() -> None:
    """Runs the benchmark, prints tables and claims, and says where the figures are."""
    effort, _ = parse_effort("bench.planning", __doc__)
    repeats = max(effort.repeats, REPEATS[effort.name])
    record = Record(
        "planning", effort=effort.name, repeats=repeats, questions=[], claims=[], finished=False
    )
    for number, asked in enumerate(QUESTIONS):
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            plan, found = _measured(asked, Path(made), number, SECONDS[effort.name], repeats)
        record.values["questions"].append(
            {
                "question": asked.name,
                "costs": msgspec.to_builtins(plan.costs),
                "costs_month": [each.cost_month for each in _some(plan)],
                "found": msgspec.to_builtins(found),
            }
        )
        record.write()
        print(f"\n{asked.name}\n\n{rehearsed_table(found)}")
    claims = _claims(record.values["questions"])
    record.write(claims=claims, finished=True)
    print(f"\n{claims_table(claims)}")
    say(f"written to {record.path}")


def _measured(
    asked: Asked, folder: Path, seed: int, seconds: float, repeats: int
) -> tuple[Plan, tuple[Rehearsed, ...]]:
    rng = np.random.default_rng(seed)
    trace = folder / "trace.parquet"
    pq.write_table(_trace(asked, rng), trace)
    model = RandomForestRegressor(asked.trees, max_depth=8, random_state=0, n_jobs=1)
    rows = _rows(rng.integers(0, asked.keys, 3000)).to_pandas()
    joblib.dump(model.fit(rows, rows.one % 7 + rows.two), folder / "m.joblib")
    with open_home(Settings(home=folder / "home")) as home:
        pushed = push_model(
            home, folder / "m.joblib", "m", trust_code=True, compiles=asked.compiles
        )
        path = Registry(home).fetch("m", pushed.version)
    signature = Subject(folder=path, rows={}, key=()).manifest.signature
    subject = Subject(
        folder=path, rows=questions_of_trace(trace, signature), key=("one", "two", "three")
    )
    say(f"{asked.name}: measuring this machine")
    costs = calibrate(subject, seconds=min(3.0, seconds))
    traffic = read_trace(trace, subject.key).result().traffic()
    plan = choose(traffic, costs, promise=Promise(slo_ms=500.0))
    say(f"{asked.name}: measuring alternatives")
    found = rehearse(
        subject,
        _some(plan),
        traffic=traffic,
        costs=costs,
        slo_ms=500.0,
        seconds=seconds,
        repeats=repeats,
        told=lambda done, of: say(f"  {done} of {of}"),
    )
    return plan, found


def _some(plan: Plan) -> list[Alternative]:
    """Returns five alternatives: no table, without and with a cache, and three sizes of table."""
    every = plan.traffic.cardinality
    wanted = [(0, False), (0, True), (every // 100, False), (every // 10, False), (every, False)]
    return [
        min(
            (each for each in plan.alternatives if bool(each.cache_entries) == cached),
            key=lambda each, keys=keys: abs(each.head_keys - keys),  # type: ignore[misc]
            default=plan.chosen,
        )
        for keys, cached in wanted
    ]


def _trace(asked: Asked, rng: np.random.Generator) -> pa.Table:
    count = int(TRACE_S * asked.rate_rps)
    shares = np.arange(1, asked.keys + 1) ** -asked.exponent
    ids = rng.choice(asked.keys, count, p=shares / shares.sum())
    new = rng.random(count) < asked.new
    ids[new] = 1_000_000 + np.arange(int(new.sum()))
    times = np.cumsum(rng.exponential(1.0 / asked.rate_rps, count))
    return _rows(ids).append_column("time", pa.array(times))


def _rows(ids: np.ndarray[Any, Any]) -> pa.Table:
    return pa.table({"one": ids, "two": ids % 13, "three": ids % 101})


def _claims(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [
        msgspec.convert(each, Rehearsed) for question in questions for each in question["found"]
    ]
    near = {
        name: sum(abs(each.off(name)) <= NEAR for each in found) / len(found)
        for name in ("cpu_us", "table_bytes")
    }
    inside = {
        name: sum(_inside(each, name) for each in found) / len(found)
        for name in ("p50_ms", "p99_ms")
    }
    pairs = [_pairs(question) for question in questions]
    return [
        claim("configurations", len(found), ">=", 12, ""),
        claim("CPU within 15%, share of them", near["cpu_us"], ">=", 1.0, ""),
        claim("bytes within 15%, share of them", near["table_bytes"], ">=", 1.0, ""),
        claim("p50 inside the repeats' spread, share", inside["p50_ms"], ">=", 1.0, ""),
        claim("p99 inside the repeats' spread, share", inside["p99_ms"], ">=", 1.0, ""),
        claim("pairs ranked by CPU as measured, share", float(np.mean(pairs)), ">=", 1.0, ""),
        claim("worst chosen over cheapest measured", max(map(_chosen, questions)), "<=", 1.1),
        claim("queries that failed", sum(r.failed for e in found for r in e.measured), "<=", 0, ""),
    ]


def _inside(each: Rehearsed, name: str) -> bool:
    low, high = each.spread(name)
    return low <= getattr(each.predicted, name) <= high


def _pairs(question: dict[str, Any]) -> float:
    """Returns the share of pairs that differ by over 10% as measured and are ranked so, too."""
    found = [msgspec.convert(each, Rehearsed) for each in question["found"]]
    right = [
        (one.predicted.cpu_us < other.predicted.cpu_us)
        == (one.median("cpu_us") < other.median("cpu_us"))
        for at, one in enumerate(found)
        for other in found[:at]
        if abs(one.median("cpu_us") / other.median("cpu_us") - 1.0) > ENOUGH
    ]
    return float(np.mean(right)) if right else 1.0


def _chosen(question: dict[str, Any]) -> float:
    """Returns what the cheapest as predicted takes, over what the cheapest as measured takes."""
    found = [msgspec.convert(each, Rehearsed) for each in question["found"]]
    best = min(zip(question["costs_month"], found, strict=True), key=lambda each: each[0])[1]
    return best.median("cpu_us") / min(each.median("cpu_us") for each in found)


if __name__ == "__main__":
    main()
