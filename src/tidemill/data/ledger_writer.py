"""Writes the ledger of one gateway: an append is one ``write``; a thread of its own syncs.

A prediction is written before it is answered, and is on the disk ``sync_interval_s`` later at the
latest (plus the time of the sync itself): a killed process loses nothing of what was appended, a
machine that loses power at most the last interval. Labels are synced at once, all that wait in one
sync, and only then acknowledged.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tidemill.data.ledger_frames import encode_labels, encode_predictions, frame
from tidemill.data.ledger_manifest import read_manifest
from tidemill.data.ledger_records import LabelRecord, PlainRows, Prediction
from tidemill.data.ledger_rows import encode_rows
from tidemill.data.ledger_segments import OpenSegment, seal_abandoned, segments_folder
from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.durable import make_folder, sync_folder
from tidemill.foundation.errors import NotReady, Overloaded, TidemillError, Unavailable
from tidemill.foundation.logs import log
from tidemill.foundation.names import check_name

Done = Callable[[BaseException | None], None]

_log = log("tidemill.data.ledger")


@dataclass(slots=True)
class LedgerCounts:
    """What a writer did since it started; read it any time, change it never."""

    predictions: int = 0
    labels: int = 0
    written_bytes: int = 0
    syncs: int = 0
    failures: int = 0
    torn_bytes: int = 0


@dataclass(slots=True)
class _Round:
    """What one sync makes durable."""

    segment: OpenSegment | None
    retired: list[OpenSegment]
    waiting: list[Done]
    unsynced_bytes: int
    begun: bool


class LedgerWriter:
    """Appends predictions and labels to segments that only this writer writes.

    Safe to share between threads. Any number of writers, in any number of processes, may write one
    ledger; give each its own name, so that a gateway started again finds what its forerunner left.

    Args:
        path: the ledger's folder.
        gateway: the writer's name.
        sync_interval_s: the longest that a prediction waits for its sync to begin.
        segment_bytes: a segment that would grow larger is sealed and the next one begun.
        max_unsynced_bytes: what may be written and not synced; more is refused.
        clock: names the segments.

    Example:
        >>> import tempfile, threading
        >>> synced = threading.Event()
        >>> with LedgerWriter(Path(tempfile.mkdtemp()), "gateway-0") as writer:
        ...     writer.append_labels([], lambda error: synced.set())
        ...     synced.wait(5)
        True
    """

    def __init__(
        self,
        path: Path,
        gateway: str,
        *,
        sync_interval_s: float = 0.05,
        segment_bytes: int = 64 << 20,
        max_unsynced_bytes: int = 256 << 20,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.counts = LedgerCounts()
        self._path = path
        self._folder = segments_folder(path)
        self._gateway = gateway
        self._sync_interval_s = sync_interval_s
        self._segment_bytes = segment_bytes
        self._max_unsynced_bytes = max_unsynced_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._segment: OpenSegment | None = None
        self._retired: list[OpenSegment] = []
        self._waiting: list[Done] = []
        self._unsynced_bytes = 0
        self._begun = False
        self._failure: TidemillError | None = None
        self._written = threading.Event()
        self._hurry = threading.Event()
        self._running = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def unsynced_bytes(self) -> int:
        """What a loss of power would lose now."""
        return self._unsynced_bytes

    def start(self) -> None:
        """Seals what a forerunner of this name left, opens a segment and starts the sync thread.

        Raises:
            InvalidInput: the name is not allowed in a path.
            InvalidSettings: a newer Tidemill wrote this ledger.
            Unavailable: the folder cannot be written.
        """
        check_name("gateway", self._gateway)
        if self._running:
            return
        try:
            make_folder(self._folder)
            read_manifest(self._path)  # refuses a newer one
            self.counts.torn_bytes += self._adopt()
            self._segment = self._new_segment()
            sync_folder(self._folder)
        except OSError as error:
            raise self._unavailable(error) from error
        self._running = True
        self._thread = threading.Thread(
            target=self._keep_syncing, name=f"ledger-sync-{self._gateway}", daemon=True
        )
        self._thread.start()

    def append_predictions(self, predictions: Sequence[Prediction]) -> None:
        """Writes the predictions in one frame, all or none; a killed process loses none of them.

        Raises:
            InvalidInput: a prediction cannot be encoded; nothing was written.
            Overloaded: too much is unsynced already; nothing was written.
            Unavailable: the disk is full or failed; nothing was written, or an earlier sync
                failed, which is said once, here.
            NotReady: the writer is not started, or closed.
        """
        if not predictions:
            return
        self._append_counted(encode_predictions(predictions), len(predictions))

    def append_rows(self, rows: PlainRows) -> None:
        """Does with some rows what ``append_predictions`` does, with less ado for each.

        Raises:
            InvalidInput, Overloaded, Unavailable, NotReady: as ``append_predictions``.
        """
        if rows.ids:
            self._append_counted(encode_rows(rows), len(rows.ids))

    def _append_counted(self, payload: bytes, predictions: int) -> None:
        with self._lock:
            self._append(payload)
            self.counts.predictions += predictions

    def append_labels(self, records: Sequence[LabelRecord], done: Done) -> None:
        """Writes the labels in one frame and calls ``done`` once they are on the disk.

        Args:
            records: the labels.
            done: called once, on the sync thread, with None or with why they may not be durable;
                never called if this raises. It must be quick and must not close the writer.

        Raises:
            InvalidInput, Overloaded, Unavailable, NotReady: as ``append_predictions``.
        """
        payload = encode_labels(records) if records else b""
        with self._lock:
            if payload:
                self._append(payload)
                self.counts.labels += len(records)
            elif not self._running:
                raise self._not_started()
            self._waiting.append(done)
            self._hurry.set()
            self._written.set()

    def close(self) -> None:
        """Syncs, seals the segment and ends the thread; everything pending is answered first.

        Raises:
            Unavailable: the last sync failed.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            self._running = False
            self._hurry.set()
            self._written.set()
        if thread is None:
            return
        thread.join()
        self._sync()  # what was appended after the thread's last look: nothing, or it is said
        with self._lock:
            segment, self._segment = self._segment, None
            failure, self._failure = self._failure, None
        if segment is not None:
            self._seal([segment])
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        """Closes without holding up the event loop."""
        await asyncio.to_thread(self.close)

    def _append(self, payload: bytes) -> None:
        if not self._running:
            raise self._not_started()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        data = frame(payload)
        size = len(data)
        if self._unsynced_bytes and self._unsynced_bytes + size > self._max_unsynced_bytes:
            raise Overloaded(
                f"ledger {self._gateway!r} has {self._unsynced_bytes} unsynced bytes, "
                f"with {size} more over the limit of {self._max_unsynced_bytes}",
                remedy="Send less, or give the ledger a faster disk.",
            )
        try:
            self._segment_for(size).write(data)
        except OSError as error:
            self.counts.failures += 1
            raise self._unavailable(error) from error
        self.counts.written_bytes += size
        self._unsynced_bytes += size
        if self._unsynced_bytes == size:  # the first since the last sync
            self._written.set()

    def _segment_for(self, size: int) -> OpenSegment:
        segment = self._segment
        if segment is not None and (
            segment.empty or segment.size_bytes + size <= self._segment_bytes
        ):
            return segment
        following = self._new_segment()
        if segment is not None:
            self._retired.append(segment)
        self._segment, self._begun = following, True
        return following

    def _new_segment(self) -> OpenSegment:
        return OpenSegment.create(self._folder, self._gateway, self._clock)

    def _keep_syncing(self) -> None:
        while True:
            self._written.wait()
            self._hurry.wait(self._sync_interval_s)  # labels do not wait for the interval
            self._sync()
            with self._lock:
                if not self._running and not self._written.is_set():
                    return

    def _sync(self) -> None:
        with self._lock:
            self._written.clear()
            self._hurry.clear()
            if not self._running:
                self._hurry.set()
            work = self._take_round()
        error = self._make_durable(work)
        with self._lock:
            if error is not None:
                self._fail(work, error)
            self._unsynced_bytes -= work.unsynced_bytes
            if self._unsynced_bytes:
                self._written.set()
        if error is None:
            self._seal(work.retired)
        else:
            for segment in work.retired:
                segment.abandon()
        for done in work.waiting:
            self._tell(done, error)

    def _take_round(self) -> _Round:
        work = _Round(
            segment=self._segment,
            retired=self._retired,
            waiting=self._waiting,
            unsynced_bytes=self._unsynced_bytes,
            begun=self._begun,
        )
        self._retired, self._waiting, self._begun = [], [], False
        return work

    def _fail(self, work: _Round, error: TidemillError) -> None:
        # After a failed fsync the kernel may call the lost pages clean, so that a second fsync
        # would lie. Start afresh: whatever was written meanwhile shares the failure.
        self.counts.failures += 1
        self._failure = error
        later = self._take_round()
        self._segment = None
        found = [*work.retired, work.segment, *later.retired, later.segment]
        work.retired = list({id(segment): segment for segment in found if segment}.values())
        work.waiting += later.waiting
        work.unsynced_bytes = later.unsynced_bytes

    def _make_durable(self, work: _Round) -> TidemillError | None:
        try:
            for segment in work.retired:
                segment.sync()
            if work.begun:  # a label is not durable in a file whose name is not
                sync_folder(self._folder)
            if work.segment is not None and work.unsynced_bytes:
                work.segment.sync()
        except OSError as error:
            _log.error("ledger.sync_failed", gateway=self._gateway, error=str(error))
            return self._unavailable(error)
        self.counts.syncs += 1
        return None

    def _seal(self, segments: Sequence[OpenSegment]) -> None:
        for segment in segments:
            try:
                segment.seal()
            except OSError as error:  # it is durable; whoever finds it open seals it
                _log.warning("ledger.seal_failed", segment=segment.path.name, error=str(error))
                segment.abandon()

    def _tell(self, done: Done, error: TidemillError | None) -> None:
        try:
            done(error)
        except Exception as failure:  # noqa: BLE001 - must not keep others' labels waiting
            _log.error("ledger.done_failed", gateway=self._gateway, error=repr(failure))

    def _adopt(self) -> int:
        found = seal_abandoned(self._folder, self._gateway)
        if found.segments:
            _log.info(
                "ledger.adopted",
                gateway=self._gateway,
                segments=found.segments,
                torn_bytes=found.torn_bytes,
            )
        return found.torn_bytes

    def _unavailable(self, error: OSError) -> TidemillError:
        return Unavailable(
            f"the ledger in {self._path} cannot be written: {error.strerror or error}",
            remedy="Free space on its disk, or mend it, and try again.",
        )

    def _not_started(self) -> TidemillError:
        return NotReady(
            f"ledger writer {self._gateway!r} is not running", remedy="Start it before appending."
        )
