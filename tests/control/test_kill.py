"""Killed with -9 at any point, the same command goes on: no row is lost or counted twice.

Each test kills one command again and again, each time at a later point of its way, then lets it
end, and compares with a command that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tidemill.control.deployments import get_deployment
from tidemill.control.launches import list_launches
from tidemill.data.held_rows import show_held
from tidemill.data.snapshots import list_snapshots, read_snapshot
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.models.registry import Registry
from tidemill.pipeline.explain import explain
from tidemill.pipeline.lineage import list_runs
from tidemill.recipes.intake import take
from tidemill.tables.catalog import get_table

LIMIT_S = 60.0
SETTINGS = """
[recipes.trips]
dataset = "trips"
features = ["carrier", "origin", "hour"]
label = "late"
slices = ["carrier"]
params = { n_estimators = 5 }
ingest = { key = ["id"] }
table = { key = ["carrier", "origin", "hour"] }
"""


class Command:
    """A command in a process group of its own, with its home in the folder where it runs."""

    def __init__(self, folder: Path, *argv: str) -> None:
        self.home = folder / ".tidemill"
        self.said = folder / "said"
        self.began = time.time()
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tidemill", *argv, "--json"],
                cwd=folder,
                stdout=out,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def reach(self, point: Point) -> bool:
        """Waits until the home shows that the point is reached; False if it ended before."""
        deadline = time.monotonic() + LIMIT_S
        while not point(self):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return True

    def kill(self, *, group: bool) -> None:
        """Kills it, or its whole process group, and waits until all that it started is gone.

        It is stopped first: what it started is looked up while it does nothing more.
        """
        if group:
            os.killpg(self.process.pid, signal.SIGSTOP)
        else:
            self.process.send_signal(signal.SIGSTOP)
        family = self.family()
        if group:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait(LIMIT_S)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, [process.cmdline() for process in alive]

    def family(self) -> list[psutil.Process]:
        """Returns the processes that it started, and those that they started."""
        try:
            found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    def result(self) -> dict[str, Any]:
        """Waits until it ends well and returns the one JSON object that it printed."""
        assert self.process.wait(LIMIT_S) == 0, self.said.read_text()
        answer: dict[str, Any] = json.loads(self.said.read_bytes())
        return answer


@contextmanager
def held(store: Path) -> Iterator[None]:
    """Lets no other process write to a store while the block runs."""
    connection = sqlite3.connect(store, timeout=30, isolation_level=None)
    try:
        connection.execute("begin immediate")
        yield
    finally:
        connection.close()


Point = Callable[[Command], bool]


def there(pattern: str) -> Point:
    """A point: something of that name is in the home, not from before the command."""

    def reached(command: Command) -> bool:
        for path in command.home.glob(pattern):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= command.began:
                    return True
        return False

    return reached


def rows(query: str) -> Point:
    """A point: the store gives rows to the query."""

    def reached(command: Command) -> bool:
        store = command.home / "store.db"
        if not store.exists():
            return False
        connection = sqlite3.connect(store, timeout=30)
        try:
            return connection.execute(query).fetchone() is not None
        except sqlite3.OperationalError:  # the table is not made yet
            return False
        finally:
            connection.close()

    return reached


@pytest.mark.alone
def test_a_killed_ingest_resumes(trips_csv: Callable[..., Path], tmp_path: Path) -> None:
    """From its first breath to just before its commit and after it: each row is counted once."""
    source = trips_csv(tmp_path / "1.csv", rows=20_000)
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines, *lines[1:101], "bad,row", "x-1,AA,JFK,noon,1", ""]))
    (tmp_path / "tidemill.toml").write_text(SETTINGS)
    points = [
        there("format"),
        there("store.db*"),
        there("cache/ingest/trips"),
        there("cache/ingest/trips/part-*.parquet"),
        rows("select 1 from dataset_snapshot"),
    ]
    kills = 0
    for n, point in enumerate(points):
        command = Command(tmp_path, "ingest", "trips", "1.csv")
        kills += command.reach(point)
        command.kill(group=n % 2 == 0)
        if n == 3:  # all is written, and the commit waits for the store: nothing counts yet
            command = Command(tmp_path, "ingest", "trips", "1.csv")
            assert command.reach(there("cache/ingest/trips/part-*.parquet"))
            with held(command.home / "store.db"):
                assert command.reach(there("files/data/*/*.keys*"))
                time.sleep(0.05)
                kills += 1
                command.kill(group=False)
    assert kills >= 6
    result = Command(tmp_path, "ingest", "trips", "1.csv").result()
    settings = Settings(home=tmp_path / "undisturbed", recipes={"trips": _recipe()})
    with open_home(settings) as other:
        expected = take(other, "trips", [source])
        (same,) = list_snapshots(other, "trips")
        wanted = read_snapshot(other, same)
    names = ("received", "accepted", "quarantined", "duplicate", "late", "snapshot", "reasons")
    assert {name: result[name] for name in names} == {
        name: getattr(expected, name) for name in names
    }
    assert (result["received"], result["accepted"]) == (20_102, 20_000)
    with open_home(Settings(home=tmp_path / ".tidemill")) as home:
        (snapshot,) = list_snapshots(home, "trips")
        assert read_snapshot(home, snapshot).equals(wanted)
        assert show_held(home, "trips", limit=1000).num_rows == 102


def _recipe() -> dict[str, Any]:
    import tomllib

    recipe: dict[str, Any] = tomllib.loads(SETTINGS)["recipes"]["trips"]
    return recipe


def running(step: str) -> Point:
    """A point: the step runs."""
    return there(f"work/*/{step}-1")


def finished(step: str) -> Point:
    """A point: the step's result is committed."""
    return rows(f"select 1 from pipeline_step_run where step = '{step}' and status = 'finished'")


def test_a_killed_run_resumes(
    trips_csv: Callable[..., Path], trained: Home, tmp_path: Path
) -> None:
    """Killed in its steps, before it deploys, and after: one version, each step done once."""
    (tmp_path / "tidemill.toml").write_text(SETTINGS)
    with open_home(Settings(home=tmp_path / ".tidemill", recipes={"trips": _recipe()})) as home:
        assert take(home, "trips", [trips_csv(tmp_path / "1.csv")]).accepted == 1500
    for n, point in enumerate([running("ExampleGen"), running("Trainer"), running("Compiler")]):
        command = Command(tmp_path, "run", "trips")
        assert command.reach(point)
        command.kill(group=n % 2 == 0)
    _kill_in_infra_validator(tmp_path)
    _kill_before_it_deploys(tmp_path)
    command = Command(tmp_path, "run", "trips")
    command.reach(rows("select 1 from deployment"))
    command.kill(group=False)
    result = Command(tmp_path, "run", "trips").result()
    assert (result["trained"]["version"], result["trained"]["blessed"]) == (1, True)
    with open_home(Settings(home=tmp_path / ".tidemill")) as home:
        _compare(home, trained)
        done = Counter(
            each.step
            for run in list_runs(home.store)
            for each in explain(home.store, run.id)
            if each.status == "finished"
        )
        for step in ("Evaluator", "Pusher"):  # these look at what is live, and at the registry
            done.pop(step)
        assert set(done.values()) == {1}, done
        assert len(done) == 8
    assert [path.name for path in (tmp_path / ".tidemill" / "work").iterdir()] == [".lock"]


def _kill_in_infra_validator(folder: Path) -> None:
    """Its server alone is killed: it is tried again; then the runner: the server goes with it."""
    command = Command(folder, "run", "trips")
    assert command.reach(running("InfraValidator"))
    server = _server(command)
    server.kill()
    assert command.reach(there("work/*/InfraValidator-2"))
    assert _server(command).pid != server.pid
    command.kill(group=False)


def _server(command: Command) -> psutil.Process:
    """Waits for the candidate's server and returns it."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for process in command.family():
            try:
                if "tidemill.recipes.candidate" in process.cmdline():
                    return process
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.005)
    pytest.fail("no server was started on the candidate")


def _kill_before_it_deploys(folder: Path) -> None:
    """The version is registered and its table waits for the store: nothing is live yet."""
    command = Command(folder, "run", "trips")
    assert command.reach(finished("Pusher"))
    with held(command.home / "store.db"):
        assert not rows("select 1 from deployment")(command)
        command.kill(group=True)


def _compare(home: Home, other: Home) -> None:
    """Checks that two homes answer alike: the same model, the same table, one of each."""
    (one,), (two,) = Registry(home).list("trips"), Registry(other).list("trips")
    assert one.files["model.onnx"] == two.files["model.onnx"]
    live, same = (get_deployment(each, "trips").versions[0] for each in (home, other))
    assert live.table is not None
    assert same.table is not None
    tables = get_table(home.store, live.table), get_table(other.store, same.table)
    assert tables[0].sha256 == tables[1].sha256
    assert [snapshot.rows for snapshot in list_snapshots(home, "trips")] == [1500]


def test_a_killed_keeper_goes_on(
    trips_csv: Callable[..., Path], trained: Home, tmp_path: Path
) -> None:
    """Killed when a launch has begun, while it trains, and once it is live: one launch."""
    (tmp_path / "tidemill.toml").write_text(SETTINGS)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    trips_csv(inbox / "1.csv")
    arguments = ("watch", "trips", "inbox", "--once", "--poll-s", "0.05")
    points = [rows("select 1 from launch"), running("Trainer"), rows("select 1 from deployment")]
    for n, point in enumerate(points):
        command = Command(tmp_path, *arguments)
        assert command.reach(point)
        command.kill(group=n % 2 == 0)
    Command(tmp_path, *arguments).result()
    assert Command(tmp_path, *arguments).result() == {"launches": []}
    with open_home(Settings(home=tmp_path / ".tidemill")) as home:
        (launch,) = list_launches(home.store)
        assert (launch.status, Path(launch.path).name) == ("live", "1.csv")
        assert launch.attempts in (3, 4)  # the last kill may have come after all was done
        assert [run.id for run in list_runs(home.store)] == [launch.run]
        _compare(home, trained)
