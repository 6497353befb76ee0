"""What the open loop is measured with: processors of its own, and models that are as they say."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from bench.openloop.cores import WORKER, apart
from bench.openloop.sweep import medians, sweep_claims
from bench.servers import Server
from bench.serving.work import make_work

from tidemill_worker.estimators import load_pickled, with_threads

TWO_THREADS = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor only")
@pytest.mark.parametrize("model", [False, True])
def test_the_generator_takes_nothing_from_what_is_the_limit(tmp_path: Path, *, model: bool) -> None:
    """All threads of it keep off the generator's processor, and all are free again later."""
    commands = {name: (sys.executable, "-c", TWO_THREADS, name) for name in ("gateway", WORKER)}
    servers = {
        name: Server(command=command, log=tmp_path / name, ready_url="http://none/")
        for name, command in commands.items()
    }
    with ExitStack() as stack:
        for server in servers.values():
            stack.callback(server.stop)
            server.start()
            while server.process.num_threads() < 2:
                time.sleep(0.01)
        before = os.sched_getaffinity(0)
        with apart(list(servers.values()), model=model) as cores:
            ours = os.sched_getaffinity(0)
            kept = {name: _kept(server) for name, server in servers.items()}
        rest = before - ours
        assert len(ours) == 1
        assert cores == len(rest)
        assert kept == {"gateway": [ours if model else rest] * 2, WORKER: [rest] * 2}
        assert [_kept(server) for server in servers.values()] == [[before] * 2] * 2
        assert os.sched_getaffinity(0) == before


def _kept(server: Server) -> list[set[int]]:
    return [os.sched_getaffinity(thread.id) for thread in server.process.threads()]


def test_the_forest_by_its_own_method_is_not_asked_tree_by_tree(tmp_path: Path) -> None:
    """Clipper's subject stays what it was: the worker takes over no forest that another asks."""
    answers = {}
    for name, taken_over in (("rf", True), ("own", False)):
        work = make_work(name, tmp_path / name)
        estimator = with_threads(load_pickled(work.model.read_bytes()), 1)
        forest = estimator if name == "rf" else estimator.estimators_[0]
        assert ("predict_proba" in vars(forest)) == taken_over
        answers[name] = work.expected.read_bytes()
    assert answers["own"] == answers["rf"]


def test_flat_goodput_is_judged_beyond_saturation_alone() -> None:
    """A server that falls to half beyond its capacity is not flat; one that holds 0.9 of it is."""
    rows = [
        {"load": load, "goodput_rps": goodput, "all_p99_ms": 21.0, "floor_p99_ms": 1.5}
        for load, goodput in ((0.5, 50.0), (0.9, 90.0), (1.2, 100.0), (2.0, 91.0))
    ]
    found = {"subject": "it", "capacity_rps": 100.0, "rows": rows}
    latency, flat = sweep_claims(found)
    assert (latency["met"], flat["met"]) == (True, True)
    rows[-1]["goodput_rps"] = 50.0
    assert not sweep_claims(found)[1]["met"]


def test_one_turn_that_the_machine_paused_in_does_not_count() -> None:
    """Each number is the median of the turns that had one, but what was lost or stalled is told."""
    names = ("all_p99_ms", "p50_ms", "lost", "silent_ms")
    turns = [
        {**dict(zip(names, found, strict=True)), "statuses": {"200": 1}, "example": ""}
        for found in ((12.0, 1.0, 0, 3.0), (126.0, None, 7, 120.0), (11.0, 3.0, 0, 2.0))
    ]
    assert medians(turns) == {"all_p99_ms": 12.0, "p50_ms": 2.0, "lost": 7, "silent_ms": 120.0}
    assert medians([{"p99_ms": None}]) == {"p99_ms": None}
