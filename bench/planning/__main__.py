"""Measures whether ``tidemill plan`` is true: what it predicts beside what a running server does.

    python -m bench.planning [--smoke | --quick | --brief] [--repeats N] [QUESTION …]

Four questions, each a model and a minute of traffic: three made from a seed, and New York's
flights in the order in which they left. For each, this machine is
measured as ``plan --calibrate`` does, everything is planned, and five alternatives are served side
by side: no table with and without a cache, tables of a few, of many and of all keys. Each is asked
the same queries at the same moments, in an open loop, in every repeat. How fast a machine is that
others share changes within seconds, so that costs are measured once for each repeat: before the
first one, and within each other, a part of it before each alternative.

A question is named by a part of its name; in a run of its own it takes three to four minutes. What
came of it is written when it ends; the report puts together each one's newest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pyarrow.parquet as pq
from bench.cases.tables import rehearsed_table
from bench.effort import chosen_effort, effort_parser
from bench.planning.claims import planning_claims
from bench.planning.questions import QUESTIONS, Asked, examples_of, trace_of
from bench.results import Record, claims_table, say
from sklearn.ensemble import RandomForestRegressor

from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.models.registry import Registry
from tidemill.planning.alternatives import Alternative, Promise, Study
from tidemill.planning.choose import Plan, choose
from tidemill.planning.costs import Costs
from tidemill.planning.prices import Prices
from tidemill.planning.workload.sources import read_trace
from tidemill.recipes.push import push_model
from tidemill.recipes.rehearsal.calibration import PASSES, calibrating
from tidemill.recipes.rehearsal.comparison import Rehearsed, predicted, rehearse
from tidemill.recipes.rehearsal.questions import questions_of_trace
from tidemill.recipes.rehearsal.stage import Subject

SECONDS = {"smoke": 0.5, "quick": 3.0, "brief": 5.0, "full": 10.0}
REPEATS = {"smoke": 1, "quick": 3, "brief": 5, "full": 5}
SLO_MS = 500.0
PASS_S = 0.7
"""In each pass, each source is asked so long at each pace."""


def main() -> None:
    """Runs the benchmark, prints tables and claims, and says where the figures are."""
    parser = effort_parser("bench.planning", __doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="only these")
    options = parser.parse_args()
    known = [asked.name for asked in QUESTIONS]
    for part in options.questions:
        if not any(part in name for name in known):
            parser.error(f"there is no question {part!r}: {'; '.join(known)}")
    effort = chosen_effort(options)
    repeats = max(effort.repeats, REPEATS[effort.name])
    record = Record(
        "planning", effort=effort.name, repeats=repeats, questions=[], claims=[], finished=False
    )
    for number, asked in enumerate(QUESTIONS):
        if options.questions and not any(part in asked.name for part in options.questions):
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            costs, months, found = _measured(
                asked, Path(made), number, SECONDS[effort.name], repeats
            )
        record.values["questions"].append(
            {
                "question": asked.name,
                "costs": msgspec.to_builtins(costs),
                "costs_month": months,
                "found": msgspec.to_builtins(found),
            }
        )
        record.write(claims=planning_claims(record.values["questions"]))
        print(f"\n{asked.name}\n\n{rehearsed_table(found)}", flush=True)
    record.write(finished=len(record.values["questions"]) == len(QUESTIONS))
    print(f"\n{claims_table(record.values['claims'])}")
    say(f"written to {record.path}")


def _measured(
    asked: Asked, folder: Path, seed: int, seconds: float, repeats: int
) -> tuple[Costs, list[float], tuple[Rehearsed, ...]]:
    subject, trace = _subject(asked, folder, seed)
    say(f"{asked.name}: measuring this machine")
    with calibrating(subject, seconds=PASSES * min(PASS_S, seconds)) as calibration:
        calibration.measure()
        traffic = read_trace(trace, subject.key).result().traffic()
        plan = choose(traffic, calibration.costs(), promise=Promise(slo_ms=SLO_MS))
        some = _some(plan)

        def measure_again(done: int) -> None:
            repeat, number = divmod(done, len(some))
            if repeat:  # each time another part: an alternative follows no runs more than others do
                calibration.measure(part=(number + repeat) % len(some), parts=len(some))

        say(f"{asked.name}: measuring alternatives")
        found = rehearse(
            subject,
            some,
            traffic=traffic,
            costs=plan.costs,
            slo_ms=SLO_MS,
            seconds=seconds,
            repeats=repeats,
            told=lambda done, of: say(f"  {done} of {of}"),
            before=measure_again,
        )
        costs = calibration.costs()
    study = Study(traffic, costs, Prices(), Promise(slo_ms=SLO_MS))
    planned = [  # with the table that was served: the past may have had fewer keys
        study.alternative(
            each.table_rows,
            each.cache_entries,
            replicas=each.replicas,
            batch_limit=each.batch_limit,
        )
        for each in found
    ]
    again = tuple(
        msgspec.structs.replace(
            each,
            predicted=predicted(
                alternative, study, each.table_rows, queries=each.measured[0].queries
            ),
        )
        for each, alternative in zip(found, planned, strict=True)
    )
    return costs, [each.cost_month for each in planned], again


def _subject(asked: Asked, folder: Path, seed: int) -> tuple[Subject, Path]:
    """Makes model and trace; returns what is asked, and where the trace is."""
    rng = np.random.default_rng(seed)
    trace = folder / "trace.parquet"
    pq.write_table(trace_of(asked, rng, folder), trace)
    model = RandomForestRegressor(asked.trees, max_depth=8, random_state=0, n_jobs=1)
    rows = examples_of(asked, rng, folder).to_pandas()
    joblib.dump(model.fit(rows, rows.one % 7 + rows.two), folder / "m.joblib")
    with open_home(Settings(home=folder / "home")) as home:
        pushed = push_model(
            home, folder / "m.joblib", "m", trust_code=True, compiles=asked.compiles
        )
        path = Registry(home).fetch("m", pushed.version)
    signature = Subject(folder=path, rows={}, key=()).manifest.signature
    rows_asked = questions_of_trace(trace, signature)
    return Subject(folder=path, rows=rows_asked, key=("one", "two", "three")), trace


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


if __name__ == "__main__":
    main()
