from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.data.ledger import LabelRecord, LedgerWriter, PredictionRecord, read_ledger
from tidemill.data.ledger_frames import scan
from tidemill.data.ledger_manifest import Manifest, write_manifest
from tidemill.data.ledger_segments import OpenSegment
from tidemill.foundation.errors import (
    InvalidInput,
    InvalidSettings,
    NotReady,
    Overloaded,
    Unavailable,
)


def prediction(number: int, *, width: int = 1) -> PredictionRecord:
    return PredictionRecord(
        request_id=f"{number:032x}",
        time=float(number),
        application="flights",
        version=1,
        source="model",
        n=1,
        inputs={"x": np.full((1, width), float(number))},
        outputs={"probabilities": np.array([[0.25, 0.75]])},
    )


def label(number: int) -> LabelRecord:
    return LabelRecord(
        prediction_id=f"{number:032x}",
        application="flights",
        label=number % 2,
        observed_at=float(number),
        received_at=float(number),
    )


class Acknowledged:
    """Collects what ``done`` is told, and by which thread."""

    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []
        self.threads: list[str] = []
        self._event = threading.Event()

    def __call__(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self.threads.append(threading.current_thread().name)
        self._event.set()

    def wait(self) -> BaseException | None:
        assert self._event.wait(10)
        return self.errors[-1]


def segments(path: Path, suffix: str) -> list[Path]:
    return sorted((path / "segments").glob(f"*{suffix}"))


def ids(path: Path) -> list[int]:
    return [int(i, 16) for i in read_ledger(path).predictions["prediction_id"].to_pylist()]


def test_a_label_is_synced_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``done`` is called after the sync that covers the label, on the thread that synced."""
    order: list[str] = []
    original = OpenSegment.sync

    def sync(segment: OpenSegment) -> None:
        original(segment)
        order.append("synced")

    monkeypatch.setattr(OpenSegment, "sync", sync)
    with LedgerWriter(tmp_path, "gw", sync_interval_s=60) as writer:
        done = Acknowledged()
        started = time.perf_counter()

        def acknowledge(error: BaseException | None) -> None:
            order.append("done")
            done(error)

        writer.append_labels([label(1)], acknowledge)
        assert done.wait() is None
        assert time.perf_counter() - started < 5  # labels do not wait for the interval
        assert order == ["synced", "done"]
        assert done.threads == ["ledger-sync-gw"]
    assert read_ledger(tmp_path).labels["label"].to_pylist() == [1.0]


def test_labels_that_wait_together_are_synced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one sync runs, all that arrives is left for the next one: group commit."""
    gate, syncing = threading.Event(), threading.Event()
    original = OpenSegment.sync

    def sync(segment: OpenSegment) -> None:
        syncing.set()
        assert gate.wait(10)
        original(segment)

    monkeypatch.setattr(OpenSegment, "sync", sync)
    with LedgerWriter(tmp_path, "gw") as writer:
        done = [Acknowledged() for _ in range(50)]
        writer.append_labels([label(0)], done[0])
        assert syncing.wait(10)
        for number in range(1, 50):
            writer.append_labels([label(number)], done[number])
        assert not any(each.errors for each in done)
        gate.set()
        assert [each.wait() for each in done] == [None] * 50
        assert writer.counts.syncs == 2


def test_predictions_are_synced_within_the_interval(tmp_path: Path) -> None:
    """Without any label, what was appended is soon on the disk."""
    with LedgerWriter(tmp_path, "gw", sync_interval_s=0.02) as writer:
        writer.append_predictions([prediction(1)])
        assert writer.unsynced_bytes > 0
        deadline = time.monotonic() + 10
        while writer.unsynced_bytes and time.monotonic() < deadline:
            time.sleep(0.005)
        assert writer.unsynced_bytes == 0
        syncs = writer.counts.syncs
        time.sleep(0.1)
        assert writer.counts.syncs == syncs  # an idle writer does nothing


def test_segments_are_rolled_and_sealed(tmp_path: Path) -> None:
    """A segment keeps to its size; closing seals the last one and leaves nothing open."""
    with LedgerWriter(tmp_path, "gw", segment_bytes=2000) as writer:
        for number in range(100):
            writer.append_predictions([prediction(number)])
        assert len(segments(tmp_path, ".open")) >= 1
    assert segments(tmp_path, ".open") == []
    sealed = segments(tmp_path, ".seg")
    assert len(sealed) > 3
    assert all(path.stat().st_size <= 2000 for path in sealed)
    assert ids(tmp_path) == list(range(100))


def test_one_frame_may_be_larger_than_a_segment(tmp_path: Path) -> None:
    """A frame is never divided and never refused for being larger than ``segment_bytes``."""
    with LedgerWriter(tmp_path, "gw", segment_bytes=100) as writer:
        writer.append_predictions([prediction(number, width=500) for number in range(10)])
    assert ids(tmp_path) == list(range(10))


def test_nothing_appended_leaves_nothing(tmp_path: Path) -> None:
    """A writer that was never used leaves no segment; closing twice is closing once."""
    writer = LedgerWriter(tmp_path, "gw")
    writer.start()
    writer.start()
    writer.append_predictions([])
    asyncio.run(writer.aclose())
    writer.close()
    assert segments(tmp_path, "") == []


def test_a_writer_that_is_not_running_says_so(tmp_path: Path) -> None:
    """Before ``start`` and after ``close`` nothing is accepted, and nothing is lost in silence."""
    writer = LedgerWriter(tmp_path, "gw")
    for _ in range(2):
        with pytest.raises(NotReady):
            writer.append_predictions([prediction(1)])
        with pytest.raises(NotReady):
            writer.append_labels([label(1)], Acknowledged())
        with pytest.raises(NotReady):
            writer.append_labels([], Acknowledged())
        writer.start()
        writer.close()
    with pytest.raises(InvalidInput):
        LedgerWriter(tmp_path, "../gw").start()
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        LedgerWriter(tmp_path / "file", "gw").start()


def test_a_newer_ledger_is_not_written_to(tmp_path: Path) -> None:
    """A ledger that a newer Tidemill compacted is refused before anything is written."""
    write_manifest(tmp_path, Manifest(schema=2))
    with pytest.raises(InvalidSettings, match="schema 2, newer than 1"):
        LedgerWriter(tmp_path, "gw").start()


def test_too_much_that_is_unsynced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk slower than the writes ends in Overloaded, and in acceptance once it has caught up."""
    gate = threading.Event()
    original = OpenSegment.sync
    monkeypatch.setattr(OpenSegment, "sync", lambda s: (gate.wait(10), original(s))[-1])
    with LedgerWriter(tmp_path, "gw", max_unsynced_bytes=1000, sync_interval_s=0) as writer:
        accepted = 0
        with pytest.raises(Overloaded, match="over the limit of 1000"):
            for number in range(100):
                writer.append_predictions([prediction(number)])
                accepted += 1
        assert 0 < accepted < 20
        with pytest.raises(Overloaded):
            writer.append_labels([label(1)], Acknowledged())
        gate.set()
        deadline = time.monotonic() + 10
        while writer.unsynced_bytes and time.monotonic() < deadline:
            time.sleep(0.005)
        writer.append_predictions([prediction(accepted)])
    assert ids(tmp_path) == list(range(accepted + 1))


def test_a_full_disk_is_said_to_the_caller_and_leaves_no_part_of_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a frame and then ENOSPC: the caller is told, the half is cut, the next append works."""
    full, room = False, 0
    original = os.write

    def write(fd: int, data: bytes) -> int:
        nonlocal room
        if not full:
            return original(fd, data)
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = original(fd, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with LedgerWriter(tmp_path, "gw") as writer:
        writer.append_predictions([prediction(0)])
        full, room = True, 50
        with pytest.raises(Unavailable, match="No space left"):
            writer.append_predictions([prediction(1)])
        room = 20
        with pytest.raises(Unavailable, match="No space left"):
            writer.append_labels([label(number) for number in range(9)], Acknowledged())
        full = False
        open_segment = segments(tmp_path, ".open")[0]
        assert scan(open_segment.read_bytes(), "", sealed=False).torn_bytes == 0
        writer.append_predictions([prediction(2)])
        assert writer.counts.failures == 2
    assert ids(tmp_path) == [0, 2]


def test_a_part_that_cannot_be_cut_at_once_is_cut_before_the_next_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ever written behind half a frame."""
    broken = False
    originals = os.write, os.ftruncate

    def write(fd: int, data: bytes) -> int:
        if broken and len(data) < 60:
            raise OSError(errno.EIO, "broken")
        return originals[0](fd, data[:50] if broken else data)

    def ftruncate(fd: int, size: int) -> None:
        if broken:
            raise OSError(errno.EIO, "broken")
        originals[1](fd, size)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "ftruncate", ftruncate)
    with LedgerWriter(tmp_path, "gw") as writer:
        writer.append_predictions([prediction(0)])
        broken = True
        for _ in range(2):
            with pytest.raises(Unavailable, match="broken"):
                writer.append_predictions([prediction(1)])
        broken = False
        writer.append_predictions([prediction(2)])
    assert ids(tmp_path) == [0, 2]
    assert read_ledger(tmp_path).problems == ()


def test_a_failed_sync_is_said_to_every_label_that_shares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No label is acknowledged by a sync after a failed one: the kernel may have dropped it.

    Labels that were written during the failing sync, and into a segment begun during it, are told
    too; the next append says it once; after that the writer works in a new segment.
    """
    gate, syncing, broken = threading.Event(), threading.Event(), True
    original = OpenSegment.sync

    def sync(segment: OpenSegment) -> None:
        if broken:
            syncing.set()
            assert gate.wait(10)
            raise OSError(errno.EIO, "the disk is on fire")
        original(segment)

    monkeypatch.setattr(OpenSegment, "sync", sync)
    with LedgerWriter(tmp_path, "gw", segment_bytes=600) as writer:
        done = [Acknowledged() for _ in range(12)]
        writer.append_labels([label(0)], done[0])
        assert syncing.wait(10)
        for number in range(1, 12):
            writer.append_labels([label(number)], done[number])
        assert len(segments(tmp_path, ".open")) > 1
        gate.set()
        for each in done:
            error = each.wait()
            assert isinstance(error, Unavailable)
            assert "on fire" in str(error)
        broken = False
        with pytest.raises(Unavailable, match="on fire"):
            writer.append_predictions([prediction(0)])
        writer.append_predictions([prediction(1)])
        after = Acknowledged()
        writer.append_labels([label(20)], after)
        assert after.wait() is None
    assert ids(tmp_path) == [1]
    assert all(len(each.errors) == 1 for each in done)


def test_a_failed_last_sync_is_said_by_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no later append that could say it."""

    def sync(segment: OpenSegment) -> None:
        raise OSError(errno.EIO, "the disk is on fire")

    monkeypatch.setattr(OpenSegment, "sync", sync)
    writer = LedgerWriter(tmp_path, "gw", sync_interval_s=60)
    writer.start()
    writer.append_predictions([prediction(0)])
    with pytest.raises(Unavailable, match="on fire"):
        writer.close()


def test_one_callers_mistake_keeps_nobody_elses_labels_waiting(tmp_path: Path) -> None:
    """A ``done`` that raises is logged; the others are called."""

    def mistaken(error: BaseException | None) -> None:
        raise RuntimeError

    with LedgerWriter(tmp_path, "gw") as writer:
        done = Acknowledged()
        writer.append_labels([label(0)], mistaken)
        writer.append_labels([label(1)], done)
        assert done.wait() is None


def test_a_started_writer_seals_what_its_forerunner_left(tmp_path: Path) -> None:
    """The torn tail of a dead writer is cut and counted; a living writer's is not touched."""
    folder = tmp_path / "segments"
    with LedgerWriter(tmp_path, "gw") as writer:
        writer.append_predictions([prediction(0)])
    sealed = segments(tmp_path, ".seg")[0]
    sealed.write_bytes(sealed.read_bytes() + b"\x40\0\0\0torn")
    sealed.rename(sealed.with_suffix(".open"))
    (folder / "gw-0000000000000000-00000000.open").touch()
    with LedgerWriter(tmp_path, "gw-1") as other:
        other.append_predictions([prediction(1)])
        with LedgerWriter(tmp_path, "gw") as writer, LedgerWriter(tmp_path, "gw") as twin:
            assert (writer.counts.torn_bytes, twin.counts.torn_bytes) == (8, 0)
            assert segments(tmp_path, ".seg") == [sealed]
            twin.append_predictions([prediction(3)])
            writer.append_predictions([prediction(2)])
            other.append_predictions([prediction(4)])
            assert ids(tmp_path) == [0, 1, 2, 3, 4]
    found = read_ledger(tmp_path)
    assert (found.problems, found.torn_bytes) == ((), 0)


def test_threads_may_share_a_writer(tmp_path: Path) -> None:
    """Frames of different threads do not mix."""
    with LedgerWriter(tmp_path, "gw", segment_bytes=5000, sync_interval_s=0.001) as writer:

        def append(first: int) -> None:
            for number in range(first, first + 100):
                writer.append_predictions([prediction(number)])

        threads = [threading.Thread(target=append, args=(k * 100,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ids(tmp_path) == list(range(400))


_WRITER = """
import sys, threading, numpy as np
from pathlib import Path
from tidemill.data.ledger_records import LabelRecord, PredictionRecord
from tidemill.data.ledger_writer import LedgerWriter
writer = LedgerWriter(Path(sys.argv[1]), "gw", segment_bytes=20_000, sync_interval_s=0.001)
writer.start()
def acknowledge(number):
    def done(error):
        sys.stdout.write(f"{number} {error}\\n")
        sys.stdout.flush()
    return done
for number in range(10**9):
    writer.append_predictions([PredictionRecord(
        request_id=f"{number:032x}", time=float(number), application="a", version=1, n=1,
        source="model", inputs={"x": np.zeros((1, 1 + number % 300))}, outputs={})])
    writer.append_labels([LabelRecord(prediction_id=f"{number:032x}", application="a",
        label=number, observed_at=0.0, received_at=0.0)], acknowledge(number))
"""


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.2])
def test_no_acknowledged_label_is_lost_by_a_kill(tmp_path: Path, wait_s: float) -> None:
    """Killed with -9 at any moment, every label that was acknowledged is read back."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        acknowledged = [first, *process.stdout.read().splitlines(keepends=True)]
    whole = [line.split() for line in acknowledged if line.endswith("\n")]
    assert {error for _, error in whole} == {"None"}
    found = read_ledger(tmp_path)
    labels = {int(value) for value in found.labels["label"].to_pylist()}
    assert {int(number) for number, _ in whole} <= labels
    assert found.problems == ()
    # Predictions were appended before their labels.
    assert labels <= set(ids(tmp_path))
    with LedgerWriter(tmp_path, "gw"):
        assert segments(tmp_path, ".open") != []
    again = read_ledger(tmp_path)
    assert again.labels.num_rows == found.labels.num_rows
    assert again.torn_bytes == 0


_LIMITED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_ledger_writer as t
from tidemill.data.ledger_writer import LedgerWriter
from tidemill.foundation.errors import Unavailable
import resource
writer = LedgerWriter(Path(sys.argv[1]), "gw")
writer.start()
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
acknowledged = refused = 0
for number in range(100):
    done = t.Acknowledged()
    try:
        writer.append_labels([t.label(number)], done)
    except Unavailable as error:
        assert "File too large" in str(error), error
        refused += 1
    else:
        assert done.wait() is None
        acknowledged += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
done = t.Acknowledged()
writer.append_labels([t.label(1000)], done)
assert done.wait() is None
writer.close()
print(acknowledged, refused)
"""


def test_a_full_disk_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """With a real limit of the file system: what is acknowledged is there, the rest is refused."""
    command = [sys.executable, "-c", _LIMITED, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    acknowledged, refused = map(int, done.stdout.split())
    assert acknowledged > 10
    assert refused > 10
    found = read_ledger(tmp_path)
    assert found.labels.num_rows == acknowledged + 1
    assert (found.problems, found.torn_bytes) == ((), 0)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_append_is_cheap(tmp_path: Path) -> None:
    """A wide bound on what decides the gateway's speed; the measured cost is a tenth of it."""
    columns = {f"column {k}": np.array([k]) for k in range(7)}
    record = PredictionRecord(
        request_id=bytes(16),
        time=0.0,
        application="a",
        version=1,
        source="model",
        n=1,
        inputs=columns,
        outputs={"label": np.array([1]), "probabilities": np.array([[0.5, 0.5]], np.float32)},
    )
    with LedgerWriter(tmp_path, "gw") as writer:

        def cost(records: list[Any]) -> float:
            times = []
            for _ in range(10):
                started = time.perf_counter()
                for _ in range(20):
                    writer.append_predictions(records)
                times.append((time.perf_counter() - started) / 20 / len(records))
            return min(times)

        assert cost([record] * 32) < 20e-6
        assert cost([record]) < 100e-6
