"""Rehearsals: what is offered and counted, what costs are found, plans beside measurements."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import RandomForestClassifier

from tidemill.foundation.errors import InvalidInput, WorkerLost
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.processes import command, cpu_seconds, family
from tidemill.foundation.settings import Settings
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.planning.alternatives import Promise, Study
from tidemill.planning.choose import choose
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import Prices
from tidemill.planning.simulate import LAW
from tidemill.planning.traffic import zipf_traffic
from tidemill.recipes.push import push_model
from tidemill.recipes.rehearsal.calibration import (
    PACES_RPS,
    PASSES,
    SECONDS,
    Calibration,
    calibrate,
    paces_up_to,
    queries_at,
)
from tidemill.recipes.rehearsal.comparison import begins, rehearse
from tidemill.recipes.rehearsal.kept import keep_costs, kept_costs, was_measured
from tidemill.recipes.rehearsal.offering import Offered, offer
from tidemill.recipes.rehearsal.questions import questions_of_trace
from tidemill.recipes.rehearsal.stage import Arrangement, Subject, Used, set_up

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n{"parameters":{"source":"ok"}}'
REFUSAL = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"


@contextmanager
def listen(answers: list[bytes]) -> Iterator[socket.socket]:
    """Answers each request on each connection with the next of some answers, then closes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                while answers and client.recv(1000):
                    client.sendall(answers.pop(0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with server:
        yield server
        server.shutdown(socket.SHUT_RDWR)  # closing alone leaves the thread in accept
    thread.join(10.0)
    assert not thread.is_alive()


def test_every_query_is_counted_once() -> None:
    """As an answer by its source, as a refusal, or as a connection that was closed."""
    with listen([ANSWER, REFUSAL, ANSWER]) as server:
        due = np.array([0.0, 0.05, 0.1, 0.15])
        found = offer(server.getsockname()[1], [b"GET / HTTP/1.1\r\n\r\n"] * 4, due)
    assert found.sources == {"ok": 2}
    assert found.failed == 2
    assert found.failures["503: no"] == 1
    assert np.isfinite(found.taken_s).tolist() == [True, False, True, False]
    assert found.seconds >= 0.15


def test_nobody_to_ask_is_an_error() -> None:
    """And nothing to ask is none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(WorkerLost):
        offer(port, [b"x"], np.array([0.0]))
    assert offer(port, [], np.array([])).failed == 0


def test_processes_are_told_by_their_words_and_work() -> None:
    """A process is in its own family, and uses what it uses."""
    assert os.getpid() in family(os.getpid())
    assert command(os.getpid())
    before = cpu_seconds(os.getpid())
    sum(range(2_000_000))
    assert before < cpu_seconds(os.getpid()) < before + 10.0
    assert cpu_seconds(2**22 + 1) == 0.0


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A compiled forest, and questions about a hundred keys."""
    folder = tmp_path_factory.mktemp("rehearsal")
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.5, 4000), 100)
    table = pa.table({"one": ids, "two": ids * 7 % 13})
    forest = RandomForestClassifier(5, max_depth=4, random_state=0)
    joblib.dump(forest.fit(table.to_pandas(), ids % 2), folder / "m.joblib")
    pq.write_table(
        table.append_column("time", pa.array(np.arange(4000) / 100)), folder / "t.parquet"
    )
    with open_home(Settings(home=folder / "home")) as home:
        pushed = push_model(home, folder / "m.joblib", "m", trust_code=True)
        path = Registry(home).fetch("m", pushed.version)
    rows = questions_of_trace(folder / "t.parquet", read_manifest(path).signature)
    return Subject(folder=path, rows=rows, key=("one", "two"))


def test_a_plan_is_measured(subject: Subject, home: Home) -> None:
    """Costs come out as what can be; alternatives answer from where the plan says."""
    costs = calibrate(subject, seconds=0.3)
    assert costs.on_loop
    assert 0.0 < costs.turn_s + costs.table_s < 0.05
    assert len(costs.transport_s) > 10
    assert sorted(costs.transport_s) == list(costs.transport_s)
    keep_costs(home, "m", 1, costs)
    kept = kept_costs(home, "m", 1)
    assert kept is not None
    assert msgspec.to_builtins(kept.costs) == msgspec.to_builtins(costs)
    assert kept_costs(home, "m", 2) is None
    assert not was_measured(home, "m", 2)
    traffic = zipf_traffic(200.0, len(subject.ranked), 1.5)
    plan = choose(traffic, costs, queries=300)
    some = [
        min(plan.alternatives, key=lambda each: abs(each.head_keys - keys) + each.cache_entries)
        for keys in (0, 5, len(subject.ranked))
    ]
    found = rehearse(
        subject, some, traffic=traffic, costs=costs, slo_ms=5000.0, seconds=0.3, repeats=2
    )
    assert [len(each.measured) for each in found] == [2, 2, 2]
    assert [each.measured[0].table_bytes for each in found] == [
        each.predicted.table_bytes for each in found
    ]
    model, head, whole = (each.measured[0] for each in found)
    assert model.covered == 0.0 < head.covered < whole.covered
    assert whole.covered > 0.9
    assert {each.failed for each in (model, head, whole)} == {0}
    assert found[0].spread("cpu_us")[0] <= found[0].median("cpu_us") <= found[0].spread("cpu_us")[1]


def test_a_cache_has_heard_what_lies_between_the_repeats(subject: Subject) -> None:
    """It hits as one that was asked all along; one that nobody asked before does not."""
    at = np.arange(2000)
    heard = at >= 1000 + begins(1000, 200, 2)[1]  # the second repeat asks what came 300 before
    ids = np.where(heard, at - 300, at)
    rows = {"one": ids, "two": np.zeros_like(ids)}
    rows = {name: each.astype(subject.rows[name].dtype) for name, each in rows.items()}
    traffic, costs = zipf_traffic(400.0, 1000, 0.0), Costs(law=LatencyLaw(a_s=1e-4, b_s=0.0))
    study = Study(traffic, costs, Prices(), Promise())
    found = rehearse(
        replace(subject, rows=rows),
        [study.alternative(0, 3000)],
        traffic=traffic, costs=costs, slo_ms=5000.0, seconds=0.5, repeats=2,
    )[0]  # fmt: skip
    assert [each.queries for each in found.measured] == [200, 200]
    assert [each.cached for each in found.measured] == [0.0, 1.0]


@pytest.mark.parametrize(("repeats", "count"), [(3, 450), (4, 300), (5, 450), (5, 100)])
def test_repeats_meet_more_than_one_hour(repeats: int, count: int) -> None:
    """Where there are as many days as repeats, too: none asks what was asked a day before, or
    twice, and all of them ask within what there is.
    """
    day = 900
    starts = begins(repeats * day, count, repeats)
    asked = np.concatenate([start + np.arange(count) for start in starts])
    assert (np.diff(asked) > 0).all()
    assert asked[-1] < repeats * day
    assert len(np.unique(asked % day)) > 1.5 * count


class Asked:
    """A stage that answers everything at once, and keeps who was asked how many."""

    key_bytes = value_bytes = 8.0

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []
        self.rests = 0

    def rest(self, _seconds: float) -> float:
        """Uses nothing."""
        self.rests += 1
        return 0.0

    def ask(self, arrangement: int, at: np.ndarray, due_s: np.ndarray) -> tuple[Offered, Used]:
        """Answers, and takes some CPU."""
        self.runs.append((arrangement, len(at)))
        offered = Offered(np.full(len(at), 5e-4), seconds=float(due_s[-1]))
        return offered, Used(3e-4 * len(at), 0.0)


def test_a_pass_in_parts_is_a_whole_one() -> None:
    """Between parts something else may be measured; each source is asked at each pace, once, and
    each part asks several.
    """
    costs = Costs(law=LatencyLaw(a_s=1e-5, b_s=1e-6), on_loop=True)
    found = []
    for parts in (1, 5):
        stage = Asked()
        calibration = Calibration(stage, costs, np.arange(9), seconds=0.1, seed=0)  # type: ignore[arg-type]
        for part in range(parts):
            before = len(stage.runs)
            calibration.measure(part=part, parts=parts)
            assert len({source for source, _ in stage.runs[before:]}) > 1
        assert (len(stage.runs), stage.rests) == (calibration.runs_each, 1)
        assert calibration.costs().on_loop
        found.append(sorted(stage.runs))
    assert found[0] == found[1]


@pytest.mark.parametrize("law", [None, LAW - 1, LAW + 1])
def test_costs_that_another_simulation_was_fitted_to_do_not_count(
    home: Home, law: int | None
) -> None:
    """Nor those of before laws had numbers; that there were some is known."""
    keep_costs(home, "m", 1, Costs(law=LatencyLaw(a_s=1e-5, b_s=1e-6)))
    assert kept_costs(home, "m", 1) is not None
    (path,) = home.cache_path.rglob("m-1.json")
    kept = json.loads(path.read_bytes())
    assert kept.pop("law") == LAW
    path.chmod(0o600)
    path.write_text(json.dumps(kept if law is None else {**kept, "law": law}))
    assert kept_costs(home, "m", 1) is None
    assert was_measured(home, "m", 1)


@pytest.mark.parametrize("row_s", [1e-5, 0.004, 0.021, 0.12])
def test_a_slow_model_is_asked_at_slower_paces(row_s: float) -> None:
    """Five that differ, none faster than it bears, and all of them in two minutes."""
    most_rps = 0.4 / row_s
    paces = paces_up_to(most_rps)
    assert len(paces) == len(PACES_RPS)
    assert (np.diff(paces) > 0.1 * paces[0]).all()
    assert paces[-1] == pytest.approx(min(most_rps, PACES_RPS[-1]))
    assert paces[0] <= PACES_RPS[0]
    seconds = sum(queries_at(pace, SECONDS / PASSES) / pace for pace in paces)
    assert PASSES * seconds < 90.0


def test_represented_inputs_are_represented_in_what_is_measured(subject: Subject) -> None:
    """Few keys answer all that is represented by them, in the table and in the cache."""
    folded = replace(subject, represent={"one": "bucket(50)", "two": "bucket(6)"})
    keys = len(folded.ranked)
    assert keys <= 4 < len(subject.ranked)
    costs = calibrate(folded, seconds=0.2)
    later = np.arange(folded.past, folded.past + 200)
    due_s = np.arange(200) / 400
    arrangements = [
        Arrangement(head_keys=keys, slo_ms=5000.0),
        Arrangement(cache_entries=100, slo_ms=5000.0),
    ]
    with set_up(folded, arrangements, entry_bytes=costs.entry_bytes) as stage:
        static, cached = (stage.ask(number, later, due_s)[0] for number in (0, 1))
        assert [each and each.rows for each in stage.tables] == [keys, None]
    assert static.sources == {"table": 200}
    assert cached.sources["model"] <= keys
    assert cached.sources["cache"] == 200 - cached.sources["model"]
    with pytest.raises(InvalidInput, match="is represented, which is no input"):
        _ = replace(subject, represent={"three": "text"}).ranked


def test_what_cannot_be_rehearsed_is_told(subject: Subject, tmp_path: Path) -> None:
    """A key that is no input, a trace without one, a rate for several gateways."""
    with pytest.raises(InvalidInput, match="'three' is no input"):
        _ = Subject(folder=subject.folder, rows=subject.rows, key=("three",)).ranked
    pq.write_table(pa.table({"time": [1.0], "one": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match="no column 'two'"):
        questions_of_trace(tmp_path / "t.parquet", subject.manifest.signature)
    pq.write_table(
        pa.table(
            {
                "time": pa.array([], "double"),
                "one": pa.array([], "int64"),
                "two": pa.array([], "int64"),
            }
        ),
        tmp_path / "e.parquet",
    )
    with pytest.raises(InvalidInput, match="no questions"):
        questions_of_trace(tmp_path / "e.parquet", subject.manifest.signature)
    costs = Costs(law=LatencyLaw(a_s=1e-4, b_s=1e-4), on_loop=True)
    traffic = zipf_traffic(50_000.0, 100, 1.0)
    plan = choose(traffic, costs, queries=200, caches=False)
    with pytest.raises(InvalidInput, match="gateways"):
        rehearse(subject, [plan.chosen], traffic=traffic, costs=costs, slo_ms=100.0)
