"""The keeper launches each file once, whatever the file, and goes on whatever happens."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.control import keeper as story
from tidemill.control.keeper import Keeper, Outcome
from tidemill.control.launches import Launch, list_launches
from tidemill.foundation.errors import (
    Conflict,
    InvalidInput,
    InvalidSettings,
    NotBlessed,
    NotFound,
    StepFailed,
    WorkerLost,
)
from tidemill.foundation.files import sha256_file
from tidemill.foundation.home import Home
from tidemill.models import packaging
from tidemill.models.registry import Registry
from tidemill.recipes.steps import infra

POLL_S = 0.02
Csv = Callable[..., Path]


def quick_validator(model: Path, examples: Path) -> infra.InfraReport:
    """Starts nothing; in this module, so that a child process finds it."""
    return infra.InfraReport(
        queries=0, rows=0, max_difference=0.0, started_in_s=0.0, p50_ms=0.0, p99_ms=0.0
    )


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """The folder that is watched."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Stands in for training: each run raises the next of these, or is not blessed."""
    planned: list[BaseException] = []

    def run_recipe(*args: Any, **more: Any) -> Any:
        raise planned.pop(0) if planned else NotBlessed("no better than a constant")

    monkeypatch.setattr(story, "run_recipe", run_recipe)
    return planned


def watch(home: Home, inbox: Path) -> list[Outcome]:
    """Watches until every file there has been taken; bounded in time."""
    outcomes: list[Outcome] = []
    stop = threading.Event()
    bound = threading.Timer(60, stop.set)
    bound.start()
    try:
        Keeper(home, "trips", inbox, poll_s=POLL_S).run(outcomes.append, stop, until_idle=True)
    finally:
        bound.cancel()
    assert not stop.is_set(), "the keeper did not end by itself"
    return outcomes


def ended(home: Home) -> dict[str, Launch]:
    """Returns the launches by file name."""
    return {Path(each.path).name: each for each in list_launches(home.store, "trips")}


def test_a_file_goes_live_once(
    trained: Home, inbox: Path, trips_csv: Csv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ingested, trained on and deployed under its launch's run; never a second time."""
    monkeypatch.setattr(infra, "infra_validator", quick_validator)
    monkeypatch.setattr(packaging, "_MEASURED_CALLS", 5)
    rules = {"max_loss_increase": 1.0, "max_slice_loss_increase": 1.0}
    trained.settings.recipes["trips"]["rules"] = rules
    trips_csv(inbox / "2.csv", seed=2)
    (outcome,) = watch(trained, inbox)
    assert outcome.launch.status == "live"
    assert outcome.ingest is not None
    assert (outcome.ingest.accepted, outcome.ingest.received) == (1500, 1500)
    assert outcome.rolled_out is not None
    assert outcome.rolled_out.trained.run == outcome.launch.run
    assert Registry(trained).aliases("trips") == {"champion": 2, "previous": 1}
    (inbox / "again.csv").write_bytes((inbox / "2.csv").read_bytes())
    assert watch(trained, inbox) == []  # not the same content under another name either
    assert list(ended(trained)) == ["2.csv"]
    assert ended(trained)["2.csv"].attempts == 1


def test_only_data_files_are_taken(
    trained: Home, inbox: Path, trips_csv: Csv, runs: list[BaseException]
) -> None:
    """Hidden files, other suffixes and folders are left alone, whatever their names."""
    trips_csv(inbox / ".hidden.csv", seed=3)
    trips_csv(inbox / "2.csv.part", seed=4)
    (inbox / "notes.txt").write_text("hello")
    (inbox / "folder.csv").mkdir()
    (inbox / "broken.csv").symlink_to(inbox / "nowhere")
    assert watch(trained, inbox) == []
    trips_csv(inbox / "2.CSV", rows=20, seed=2)
    assert [each.launch.status for each in watch(trained, inbox)] == ["not blessed"]


def test_a_growing_file_is_waited_for(
    trained: Home, inbox: Path, trips_csv: Csv, tmp_path: Path, runs: list[BaseException]
) -> None:
    """It is taken whole, once it has not changed between two looks."""
    lines = trips_csv(tmp_path / "whole.csv", rows=200, seed=2).read_text().splitlines()

    def write() -> None:
        with (inbox / "2.csv").open("a") as file:
            for line in lines:
                file.write(line + "\n")
                file.flush()
                time.sleep(POLL_S / 10)

    writer = threading.Thread(target=write)
    writer.start()
    while not (inbox / "2.csv").exists():
        time.sleep(0.001)
    (outcome,) = watch(trained, inbox)
    writer.join(30)
    assert outcome.ingest is not None
    assert outcome.ingest.received == 200


def test_bad_files_are_refused_and_recorded_once(
    trained: Home, inbox: Path, trips_csv: Csv, runs: list[BaseException]
) -> None:
    """Each with its reason, at the first try; the good file beside them is taken."""
    (inbox / "a-empty.csv").write_text("")
    (inbox / "b-columns.csv").write_text("id,carrier\n1,AA\n")
    (inbox / "c-junk.parquet").write_bytes(b"PAR1junk")
    (inbox / "d-cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    trips_csv(inbox / "e-good.csv", rows=20, seed=2)
    outcomes = watch(trained, inbox)
    status = {name: each.status for name, each in ended(trained).items()}
    good = status.pop("e-good.csv")
    assert good == "not blessed"
    assert len(outcomes) == 5
    assert len(status) == 4
    assert set(status.values()) == {"refused"}
    assert all(each.message and each.attempts == 1 for each in ended(trained).values())
    assert "is empty" in ended(trained)["a-empty.csv"].message
    assert "is missing" in ended(trained)["b-columns.csv"].message
    assert watch(trained, inbox) == []


def test_a_passing_failure_is_tried_three_times(
    trained: Home, inbox: Path, trips_csv: Csv, runs: list[BaseException]
) -> None:
    """Then the launch has failed, with the last reason; a new keeper does not take it up."""
    trips_csv(inbox / "2.csv", rows=20, seed=2)
    runs.extend(WorkerLost(f"lost {n}") for n in range(1, 9))
    outcomes = watch(trained, inbox)
    assert [each.launch.status for each in outcomes] == ["begun", "begun", "failed"]
    launch = ended(trained)["2.csv"]
    assert (launch.status, launch.attempts, launch.message) == ("failed", 3, "lost 3")
    assert len({each.launch.run for each in outcomes}) == 1  # one run, continued
    assert watch(trained, inbox) == []


def test_a_failure_that_passes_is_forgotten(
    trained: Home, inbox: Path, trips_csv: Csv, runs: list[BaseException]
) -> None:
    """The second try decides; the rows of the first are not counted twice."""
    trips_csv(inbox / "2.csv", rows=20, seed=2)
    runs.append(OSError("the disk is full"))  # not foreseen, and still only one file's trouble
    first, second = watch(trained, inbox)
    assert (first.launch.status, first.launch.message) == ("begun", "the disk is full")
    assert (second.launch.status, second.launch.attempts) == ("not blessed", 2)
    assert second.ingest is not None
    assert second.ingest.repeated
    assert second.ingest.accepted == 20


def test_a_failure_that_cannot_pass_is_tried_once(
    trained: Home, inbox: Path, trips_csv: Csv, runs: list[BaseException]
) -> None:
    """What a person must mend is not tried again, and is not the file's fault either."""
    trips_csv(inbox / "2.csv", rows=20, seed=2)
    failed = StepFailed("step 'Transform' failed: the recipe's select fails")
    failed.__cause__ = InvalidSettings("the recipe's select fails")
    runs.append(failed)
    (outcome,) = watch(trained, inbox)
    assert (outcome.launch.status, outcome.launch.attempts) == ("failed", 1)
    assert "select fails" in outcome.launch.message


def test_the_table_follows_a_version_that_went_live(
    trained: Home, inbox: Path, trips_csv: Csv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What became of it is in the launch; a table that cannot follow takes nothing back."""
    done = SimpleNamespace(trained=SimpleNamespace(reasons=["better"]), application="trips")
    done.revision, done.without_table = 7, None
    monkeypatch.setattr(story, "run_recipe", lambda *_, **__: done)
    table = SimpleNamespace(id="0" * 16, rows=1204)
    said = {
        "better; rescored 1,204 keys": SimpleNamespace(whole=SimpleNamespace(table=table)),
        "better": None,
        "better; the table was not rescored: no rows. name some": InvalidInput(
            "no rows", remedy="name some"
        ),
    }
    for number, (message, outcome) in enumerate(said.items()):

        def follow(*_: Any, outcome: Any = outcome, by: str) -> Any:
            assert by == "keeper"
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(story, "follow", follow)
        trips_csv(inbox / f"{number}.csv", 20, number + 50)
        (launched,) = watch(trained, inbox)
        assert (launched.launch.status, launched.launch.message) == ("live", message)


def test_a_file_that_vanishes_is_no_launch(
    trained: Home,
    inbox: Path,
    trips_csv: Csv,
    runs: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gone between two looks and the reading of it: it is logged, and the keeper goes on."""
    trips_csv(inbox / "1.csv", rows=20, seed=2)
    trips_csv(inbox / "2.csv", rows=20, seed=3)

    def vanished(path: Path) -> str:
        if path.name == "1.csv":
            path.unlink(missing_ok=True)
        return sha256_file(path)

    monkeypatch.setattr(story, "sha256_file", vanished)
    assert [Path(each.launch.path).name for each in watch(trained, inbox)] == ["2.csv"]
    assert list(ended(trained)) == ["2.csv"]


def test_files_are_taken_while_it_watches(
    trained: Home, inbox: Path, trips_csv: Csv, runs: list[BaseException]
) -> None:
    """Without an end it goes on until it is told to stop."""
    outcomes: list[Outcome] = []
    stop, seen = threading.Event(), threading.Semaphore(0)

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        seen.release()

    keeper = Keeper(trained, "trips", inbox, poll_s=POLL_S)
    watching = threading.Thread(target=keeper.run, args=(tell, stop), kwargs={"until_idle": False})
    watching.start()
    try:
        for seed in (2, 3):
            trips_csv(inbox / f"{seed}.csv", rows=20, seed=seed)
            assert seen.acquire(timeout=30)
    finally:
        stop.set()
        watching.join(30)
    assert [Path(each.launch.path).name for each in outcomes] == ["2.csv", "3.csv"]


def test_a_second_keeper_of_a_recipe_is_refused(trained: Home, inbox: Path) -> None:
    """Two would launch one file twice; the first one's end makes room for one that stands by."""
    stops = threading.Event(), threading.Event()
    keepers = [Keeper(trained, "trips", inbox, poll_s=POLL_S) for _ in stops]
    threads = [
        threading.Thread(
            target=keeper.run,
            args=(print, stop),
            kwargs={"until_idle": False, "stand_by": True},
        )
        for keeper, stop in zip(keepers, stops, strict=True)
    ]
    try:
        threads[0].start()
        deadline = time.monotonic() + 30
        while _free(trained):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with pytest.raises(Conflict, match="another keeper watches"):
            watch(trained, inbox)
        threads[1].start()
        stops[0].set()
        threads[0].join(30)
        while _free(trained):  # until the one that stood by has taken over
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        for stop in stops:
            stop.set()
        for thread in threads:
            thread.join(30)
    assert watch(trained, inbox) == []


def _free(home: Home) -> bool:
    """Says whether no keeper holds the recipe's lock."""
    try:
        descriptor = os.open(home.run_path / "keeper-trips.lock", os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def test_what_does_not_exist_is_told(trained: Home, tmp_path: Path) -> None:
    """A folder or recipe that is not there, before anything is watched."""
    with pytest.raises(NotFound, match=r"folder .* does not exist"):
        watch(trained, tmp_path / "nowhere")
    with pytest.raises(NotFound, match="recipe 'nope' is not declared"):
        Keeper(trained, "nope", tmp_path).run(print, threading.Event(), until_idle=True)
