"""Clipper's experiment on ours, in open loop, and what batching gains.

    python -m bench.openloop [--smoke | --quick | --brief]

Offered load is swept from 10% to 200% of the capacity under an SLO of 20 ms, by a generator that
does not wait for answers and has a processor of its own; the same rates are offered to the floor
beside it. Of two models the capacity is the model's own, as it was in Clipper's experiment; of the
others it is the edge's, where refusing costs a good part of answering. Then, in closed loop: models
whose every call takes milliseconds with learned batches against batches of one, and every model
against what the edge alone (the same question, and an answer of the same form, of a model that
computes nothing) and the model alone can do.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench.effort import Effort, parse_effort
from bench.measure import Target, check
from bench.openloop.cores import apart
from bench.openloop.gains import gain_claims, model_alone
from bench.openloop.sweep import (
    EDGE,
    MODEL,
    SLO_MS,
    Subject,
    generator_capacity,
    sweep,
    sweep_claims,
    sweep_table,
)
from bench.ours import Installation, infer_url
from bench.peers.catalog import PEERS, Launch
from bench.results import Record, claims_table, say
from bench.servers import BenchmarkFailed, Server, free_port
from bench.serving.work import Work, edge_graph, make_work
from bench.turns import take_turns

from tidemill.serving.plan import ServingPlan

LOADS = {
    "smoke": (0.5, 1.5),
    "quick": (0.5, 0.9, 1.5, 2.0),
    "brief": (0.1, 0.5, 0.9, 1.2, 1.6, 2.0),
    "full": (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0),
}
SWEPT = {"smoke": 1, "quick": 1, "brief": 3, "full": 5}
"""How often each load is offered: one pause of the machine is all of a short run's p99."""
WORKLOADS = ("sum", "lr", "rf", "own", "bags", "mlp", "knn", "crowd")
UNHURRIED_MS = 60_000.0
LEARNED = 256
"""No batch is larger; how large each is, is learned."""
COMPILED, ORIGINAL = "rf", "rf not compiled"
NEIGHBOURS = {"crowd": "nearest of 14,376", "knn": "nearest of 1,797"}
"""Clipper's model took much longer than all that surrounds it, as the first of these does.
Twice the second's capacity is enough to fill the processor that gateway and generator share."""
OWN = "rf by scikit-learn's own method"
WORKS = {OWN: "own", ORIGINAL: "rf", "bagged trees": "bags"}
BATCHING = {name: (f"{work}-batches-of-one", f"{work}-learned") for name, work in WORKS.items()}
"""Clipper measured a forest by scikit-learn's own method, each call of which costs milliseconds, as
a call of bagged trees does. Ours is asked tree by tree: a call of one row is cheap, so that batches
gain less of it."""
EDGES = {"edge-64": "rf", "edge-784": "mlp"}
"""What the edge can do alone: by name, whose questions and answers it has, of no model."""
GAIN_CONNECTIONS, GAIN_REPEATS = (256,), 3


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The one server of ours, with every application, and the floor."""

    folder: Path
    installation: Installation
    works: dict[str, Work]
    server: Server
    floor: Target

    def target(
        self, application: str, work: str, *, form: str = "v2", checked: bool = True
    ) -> Target:
        """Returns how an application is asked; the edge alone knows no right answers."""
        found = self.works[work]
        return Target(
            name=application if form == "v2" else f"{application} binary",
            server=self.server,
            url=infer_url(self.server, application),
            format="v2",
            bodies=found.bodies[form],
            expected=found.expected if checked else None,
            connections=GAIN_CONNECTIONS,
        )


def run(effort: Effort) -> Record:
    """Runs the benchmark; what is found is on disk as it comes, and a part that fails is named."""
    record = Record(
        "openloop",
        effort=effort.name,
        seconds=effort.seconds,
        repeats=effort.repeats,
        claims=[],
        sweeps=[],
        runs=[],
        failed={},
        finished=False,
    )
    with ExitStack() as stack:
        bench = _start(stack)
        for model, applications in BATCHING.items():
            for name in applications:
                check(bench.target(name, WORKS[model]))
        for name in ("rf", "lr", "mlp", *NEIGHBOURS):
            check(bench.target(name, name))
        with apart((bench.server, bench.floor.server)) as cores:
            record.write(server_cores=cores)
            generator = generator_capacity(bench.floor, seconds=min(1.0, effort.seconds))
            record.write(generator=generator)
        for subject in _subjects(bench):
            _attempt(record, subject.name, partial(_sweep, subject, bench, effort, record))
        _attempt(record, "gains of batching", partial(_gains, bench, effort, record))
    record.write(finished=not record.values["failed"])
    return record


def main() -> None:
    """Runs the benchmark, prints tables and claims, and says where the figures are."""
    effort, _ = parse_effort("bench.openloop", __doc__)
    try:
        record = run(effort)
    except BenchmarkFailed as error:
        sys.exit(f"bench.openloop: {error}")
    for found in record.values["sweeps"]:
        print(f"### {found['subject']}\n\n{sweep_table(found)}\n")
    print(claims_table(record.values["claims"]))
    say(f"written to {record.path}")
    if record.values["failed"]:
        sys.exit(f"bench.openloop: failed: {', '.join(record.values['failed'])}")


def _attempt(record: Record, what: str, act: Callable[[], None]) -> None:
    try:
        act()
    except BenchmarkFailed as error:
        say(f"{what} FAILED: {error}")
        record.write(failed={**record.values["failed"], what: str(error)})


def _sweep(subject: Subject, bench: Bench, effort: Effort, record: Record) -> None:
    with apart((bench.server, bench.floor.server), model=subject.limit == MODEL):
        found = sweep(
            subject,
            bench.floor,
            loads=LOADS[effort.name],
            seconds=effort.seconds,
            repeats=SWEPT[effort.name],
        )
    record.write(
        sweeps=[*record.values["sweeps"], found],
        claims=[*record.values["claims"], *sweep_claims(found)],
    )


def _start(stack: ExitStack) -> Bench:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    say("making the models, starting the servers")
    works = {name: make_work(name, folder / name) for name in WORKLOADS}
    installation = Installation(home=folder / "home")
    _deploy(installation, works, folder)
    key = installation.make_key()
    server = installation.server("rf-hurried", log=folder / "ours.log", key=key)
    port = free_port()
    place = folder / "floor"
    place.mkdir()
    launch = Launch(workload="sum", columns=10, model=None, folder=place)
    floor = PEERS[0].server(launch, port)
    for each in (server, floor):
        stack.callback(each.stop)
        each.start()
    for each in (server, floor):
        each.wait()
    return Bench(
        folder=folder,
        installation=installation,
        works=works,
        server=server,
        floor=Target(
            name="the floor",
            server=floor,
            url=f"http://127.0.0.1:{port}/",
            format="plain",
            bodies=works["sum"].bodies["plain"],
            expected=works["sum"].expected,
        ),
    )


def _deploy(installation: Installation, works: dict[str, Work], folder: Path) -> None:
    for name in ("lr", "rf", "mlp"):
        installation.push(works[name].model, name, sample=works[name].sample)
        installation.deploy(
            name, name, ServingPlan(cache_bytes=0, coalesce=False, max_batch=LEARNED)
        )
    for name in (*WORKS.values(), *NEIGHBOURS):
        original = f"{name}-original"
        installation.push_original(works[name].model, original, folder / original)
    for name, like in EDGES.items():
        installation.push(edge_graph(folder / f"{name}.onnx", like), name)
        plan = ServingPlan(cache_bytes=0, coalesce=False, placement="gateway", max_batch=LEARNED)
        installation.deploy(name, name, plan)
    learned = ServingPlan(cache_bytes=0, coalesce=False, placement="worker", max_batch=LEARNED)
    one = ServingPlan(cache_bytes=0, coalesce=False, placement="worker", max_batch=1)
    for model, (single, batched) in BATCHING.items():
        original = f"{WORKS[model]}-original"
        installation.deploy(single, original, one, slo_ms=UNHURRIED_MS)
        installation.deploy(batched, original, learned, slo_ms=UNHURRIED_MS)
    for name in NEIGHBOURS:
        installation.deploy(name, f"{name}-original", learned, slo_ms=UNHURRIED_MS)
    for name in ("rf", *NEIGHBOURS):
        installation.deploy(f"{name}-original-hurried", f"{name}-original", learned, slo_ms=SLO_MS)
    plan = ServingPlan(cache_bytes=0, coalesce=False, max_batch=LEARNED)
    installation.deploy("rf-hurried", "rf", plan, slo_ms=SLO_MS)


def _subjects(bench: Bench) -> list[Subject]:
    neighbours = NEIGHBOURS.items()
    return [
        Subject(
            name=name,
            limit=limit,
            target=bench.target(hurried, work),
            unhurried=bench.target(unhurried, work),
        )
        for name, limit, work, hurried, unhurried in (
            *((each, MODEL, work, f"{work}-original-hurried", work) for work, each in neighbours),
            (ORIGINAL, EDGE, "rf", "rf-original-hurried", BATCHING[ORIGINAL][1]),
            (COMPILED, EDGE, "rf", "rf-hurried", "rf"),
        )
    ]


def _gains(bench: Bench, effort: Effort, record: Record) -> None:
    targets = [
        bench.target(name, WORKS[model]) for model, both in BATCHING.items() for name in both
    ]
    targets += [bench.target(name, name) for name in ("lr", "rf", "mlp")]
    targets += [bench.target("mlp", "mlp", form="v2-binary")]
    targets += [bench.target(name, work, checked=False) for name, work in EDGES.items()]
    targets += [bench.target("edge-784", "mlp", form="v2-binary", checked=False)]
    runs: list[dict[str, Any]] = record.values["runs"]
    for found in take_turns(
        targets, repeats=min(GAIN_REPEATS, effort.repeats), seconds=effort.seconds
    ):
        runs.append(found)
        record.write()
    rps = {
        target.name: statistics.median(
            each["rps"] for each in runs if each["target"] == target.name
        )
        for target in targets
    }
    home, alone = bench.installation.home, {}
    for model, work in (("lr", "lr"), ("rf", "rf"), ("mlp", "mlp")):
        rows = np.load(bench.works[work].sample)
        alone[model] = model_alone(home, model, rows, seconds=min(1.0, effort.seconds))
    pairs = {
        "lr": ("edge-64", alone["lr"]),
        "rf": ("edge-64", alone["rf"]),
        "mlp": ("edge-784", alone["mlp"]),
        "mlp binary": ("edge-784 binary", alone["mlp"]),
    }
    gains = gain_claims(rps, BATCHING, pairs)
    record.write(alone_rps=alone, claims=[*record.values["claims"], *gains])


if __name__ == "__main__":
    main()
