"""Uploads beside a running server: whose turn it is to write one, and their ingests, one at a time.

Each ingest is a process of its own, so that a file that takes it down takes nothing else down. What
a server left half done when it died, the next one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

from tidemill.control.chores import do_chore
from tidemill.control.uploads import note_death
from tidemill.data.upload_records import Upload
from tidemill.data.uploads import Uploads
from tidemill.foundation.errors import Conflict, NotFound, TidemillError
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log

SWEEP_EVERY_S = 60.0
RETRY_AFTER_S = 5.0
INGEST_WITHIN_S = 12 * 3600.0

Key = tuple[str, str]


class UploadDesk:
    """What the handlers of a server share; all of it is on one event loop.

    Args:
        home: the installation.
        instruments: where it counts.
    """

    def __init__(self, home: Home, instruments: Instruments) -> None:
        self._home = home
        self._finished = instruments.counter(
            "tidemill_uploads", "Uploads that are finished.", ("state",)
        )
        self._rows = instruments.counter(
            "tidemill_uploaded_rows", "Rows of uploads, by what became of them.", ("outcome",)
        )
        self.uploads = Uploads(home)
        self._began_at = home.clock.now()
        self._turns: dict[Key, _Turn] = {}
        self._work = asyncio.Event()
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, dataset: str, upload: str, *, whole: bool = False) -> AsyncIterator[None]:
        """Lets one request at a time write an upload: a newer one ends the one before.

        Its sender's connection may be lost without anybody here knowing yet. One that is done
        ``whole`` is waited for instead: what it has begun in a thread, nobody can end.

        Raises:
            Conflict: a newer request for the same upload came.
        """
        key = (dataset, upload)
        while (before := self._turns.get(key)) is not None:
            before.end()
            await before.ended.wait()
        mine = self._turns[key] = _Turn(whole=whole)
        try:
            yield
        except asyncio.CancelledError:
            if not mine.taken:
                raise
            mine.task.uncancel()
            raise Conflict(
                f"a newer request goes on with upload {upload!r}",
                remedy="Send one piece at a time.",
            ) from None
        finally:
            del self._turns[key]
            mine.ended.set()

    def call(self) -> None:
        """Says that an upload is whole."""
        self._work.set()

    async def outcome(self, upload: Upload, within_s: float) -> Upload:
        """Returns the upload once it is finished, or as it is after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not upload.finished:
                    news = self._news
                    upload = await self._find(upload)
                    if not upload.finished:
                        await news.wait()
        return upload

    async def _find(self, upload: Upload) -> Upload:
        return await asyncio.to_thread(self.uploads.find, upload.dataset, upload.upload)

    async def run(self) -> None:
        """Ingests what is whole, and forgets what is over, until it is cancelled.

        It may be called again after it failed: what is being received meanwhile stays.
        """
        await asyncio.to_thread(self.uploads.forget_nameless, before=self._began_at)
        while True:
            self._work.clear()
            try:
                wait_s = await self._round()
            except (TidemillError, OSError) as error:
                log("control.uploads").warning("uploads.failed", error=str(error))
                wait_s = RETRY_AFTER_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), wait_s)

    async def _round(self) -> float:
        """Does all there is to do now; returns when there may be more, in seconds."""
        await asyncio.to_thread(self.uploads.sweep)
        for each in await asyncio.to_thread(self._received):
            if self._rests_s(each) <= 0:
                await self._settle(each)
        left = await asyncio.to_thread(self._received)
        waits_s = [wait_s for each in left if (wait_s := self._rests_s(each)) > 0]
        if len(waits_s) < len(left):  # another process has it, or it has just come
            waits_s.append(RETRY_AFTER_S)
        return min([SWEEP_EVERY_S, *waits_s])

    def _received(self) -> list[Upload]:
        return [each for each in self.uploads.scan() if each.state == "received"]

    def _rests_s(self, upload: Upload) -> float:
        """Returns for how long an upload is left alone after an ingest that could not be done."""
        failures = upload.tries + upload.deaths
        if not failures:
            return 0.0
        wait_s = min(RETRY_AFTER_S * 2.0 ** min(failures - 1, 10), SWEEP_EVERY_S)
        since_s = self._home.clock.now() - upload.changed_at
        return wait_s - since_s if since_s >= 0 else 0.0

    async def _settle(self, upload: Upload) -> None:
        """Has one ingested, and tells what became of it."""
        about = (upload.dataset, upload.upload)
        try:
            try:
                await do_chore(self._home, "settle", *about, within_s=INGEST_WITHIN_S)
            except TidemillError as error:
                said = {"dataset": upload.dataset, "upload": upload.upload, "error": str(error)}
                log("control.uploads").warning("upload.died", **said)
                await asyncio.to_thread(functools.partial(note_death, self._home, *about))
            found = await self._find(upload)
        except NotFound:  # it was removed meanwhile
            self.tell()
            return
        self._log(found)
        self._count(found)
        self.tell()

    def _count(self, upload: Upload) -> None:
        if upload.finished:
            self._finished.of(upload.state).value += 1
        if upload.result is not None and not upload.result.repeated:
            for outcome in ("accepted", "quarantined", "duplicate", "late"):
                self._rows.of(outcome).value += getattr(upload.result, outcome)

    def _log(self, upload: Upload) -> None:
        said = {"dataset": upload.dataset, "upload": upload.upload, "state": upload.state}
        if upload.problem is not None:
            log("control.uploads").warning("upload.problem", **said, error=upload.problem.what)
        else:
            log("control.uploads").info("upload.settled", **said)

    def tell(self) -> None:
        """Has everybody look again who waits for what becomes of an upload."""
        self._news.set()
        self._news = asyncio.Event()


class _Turn:
    """One request that writes an upload."""

    def __init__(self, *, whole: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.ended = asyncio.Event()
        self.whole = whole
        self.taken = False

    def end(self) -> None:
        """Ends the request, once, unless it is short and must be done whole."""
        if not (self.taken or self.whole):
            self.taken = True
            self.task.cancel()
