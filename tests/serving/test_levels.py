"""Levels show the present, and what was retired long ago is dropped."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidemill.foundation.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    NotReady,
    Overloaded,
    TidemillError,
    WorkerLost,
)
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.processes import usage
from tidemill.serving.flight import NotedBatches
from tidemill.serving.levels import REMEMBERED, Levels
from tidemill.serving.measures import VersionMeasures, outcome_of
from tidemill.serving.process_measures import show_processes
from tidemill.serving.version import LiveVersion


def version(instruments: Instruments, number: int, waiting: int = 0) -> LiveVersion:
    """A live version with so many rows in its queue and one of two replicas alive."""
    made: Any = SimpleNamespace(
        version=number,
        table_age_s=None,
        lookups=None,
        measures=VersionMeasures(instruments, "app", number),
        batcher=SimpleNamespace(
            queued_rows=waiting,
            queued_bytes=8 * waiting,
            batches_out=1,
            replicas=[SimpleNamespace(alive=True), SimpleNamespace(alive=False)],
        ),
    )
    return cast("LiveVersion", made)


def rows(instruments: Instruments, name: str) -> list[Any]:
    """What a family shows."""
    shown: list[Any] = instruments.snapshot()[name]["rows"]
    return shown


def test_batches_that_are_asked_twice_are_counted() -> None:
    """Whoever else watches: a batch that another replica gets, too, is one of its version's."""
    instruments = Instruments()
    noted = NotedBatches(VersionMeasures(instruments, "app", 2))
    assert rows(instruments, "tidemill_hedged_batches") == [[["app", "2"], 0]]
    for _ in range(3):
        noted.hedged(cast("Any", SimpleNamespace(queries=())))
    assert rows(instruments, "tidemill_hedged_batches") == [[["app", "2"], 3]]


def test_levels_are_of_now() -> None:
    """Only live versions are shown, as they are at that moment."""
    instruments = Instruments()
    levels = Levels(instruments)
    levels.show([version(instruments, 1, waiting=5), version(instruments, 2)])
    assert rows(instruments, "tidemill_queue_rows") == [[["app", "1"], 5], [["app", "2"], 0]]
    assert rows(instruments, "tidemill_queue_bytes")[0] == [["app", "1"], 40]
    assert rows(instruments, "tidemill_replicas_alive")[0] == [["app", "1"], 1]
    assert rows(instruments, "tidemill_batches_in_flight")[0] == [["app", "1"], 1]
    levels.show([version(instruments, 2, waiting=1)])
    assert rows(instruments, "tidemill_queue_rows") == [[["app", "2"], 1]]


def test_labels_of_old_versions_do_not_pile_up() -> None:
    """A gateway that lives through a thousand versions shows the newest and what is live."""
    instruments = Instruments()
    levels = Levels(instruments)
    live = version(instruments, 0)
    levels.retired([live], [])
    for number in range(1, 1001):
        levels.retired([version(instruments, number)], [live])
    shown = {int(values[1]) for values, _ in rows(instruments, "tidemill_query_seconds")}
    assert shown == {0, *range(1001 - REMEMBERED, 1001)}


@pytest.mark.parametrize(
    ("error", "on_arrival", "afterwards"),
    [
        (DeadlineExceeded("late"), "refused", "missed"),
        (Overloaded("full"), "refused", "missed"),
        (NotReady("nobody"), "refused", "missed"),
        (WorkerLost("gone"), "refused", "missed"),
        (ModelFailed("broken"), "failed", "failed"),
        (InvalidInput("wrong"), "failed", "failed"),
    ],
)
def test_every_end_is_one_outcome(error: TidemillError, on_arrival: str, afterwards: str) -> None:
    """What broke a promise is told from what never was one."""
    assert outcome_of(error, refused=True) == on_arrival
    assert outcome_of(error, refused=False) == afterwards


def test_each_process_shows_what_it_uses() -> None:
    """Processor time, memory and files by process; one that has ended is left out."""
    assert usage(2**22 + 1) is None
    instruments = Instruments()
    me = {"name": "gateway-0", "pid": os.getpid()}
    gone = {"name": "gateway-1", "pid": None}
    worker = {"application": "app", "version": 2, "pid": os.getpid()}
    show_processes(instruments, [me, gone], [worker, worker], {("app", "2"): 3})
    memory = {
        values[0]: n for values, n in rows(instruments, "tidemill_process_resident_memory_bytes")
    }
    assert set(memory) == {"supervisor", "gateway-0", "worker/app/2/0", "worker/app/2/1"}
    assert 1 << 20 < memory["supervisor"] < 1 << 40
    assert rows(instruments, "tidemill_process_cpu_seconds")[0][1] > 0
    assert rows(instruments, "tidemill_process_open_fds")[0][1] > 2
    assert rows(instruments, "tidemill_worker_restarts") == [[["app", "2"], 3]]
