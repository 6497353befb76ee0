"""``tidemill serve``: the supervisor and the admin API, in one process, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import uvicorn
from starlette.applications import Starlette

from tidemill.control.admin import admin_app
from tidemill.control.chores import do_chore, failures_of
from tidemill.control.local import local_listener
from tidemill.control.loops import Loops
from tidemill.control.profiling import Profiler
from tidemill.control.repository import StoreModels
from tidemill.control.scoring import Scorer
from tidemill.control.upload_desk import UploadDesk
from tidemill.foundation.errors import NotReady, TidemillError, Unavailable
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Counter, Instruments
from tidemill.foundation.logs import log
from tidemill.foundation.settings import ServeSettings
from tidemill.serving.cors import cors_of
from tidemill.serving.hosts import hosts_of
from tidemill.serving.key_store import StoreKeys
from tidemill.serving.listening import open_listener
from tidemill.serving.live import StoreSource, publish_tables, remove_unused_tables
from tidemill.serving.supervisor import Supervisor, stop_on_signals
from tidemill.serving.tls import Certificate, certificate_of
from tidemill_worker.process import share_heap, trim_memory

TABLES_EVERY_S = 300.0
PUBLISH_EVERY_S, PUBLISH_AGAIN_S = 5.0, 60.0
"""Redis is seen to have every table that is live; what took long to fail rests for longer."""

COMPACT_EVERY_S = 60.0
TICK_S = 1.0


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server answers."""

    host: str
    port: int
    tls: bool
    admin_port: int
    grpc_port: int | None
    applications: tuple[str, ...]


async def serve(home: Home, *, ready: Callable[[Serving], None]) -> None:
    """Serves queries and the admin API until SIGTERM or SIGINT.

    Args:
        home: the installation.
        ready: called once, when queries are answered.

    Raises:
        Corrupted: the store is damaged. One that cannot be reached yet is waited for.
        Refused: the address can be reached from elsewhere, and nobody said that it may be.
        Conflict: a port is taken.
        InvalidSettings: the certificate or its key cannot be used, or an origin or a host is none.
    """
    share_heap()
    settings = home.settings
    with contextlib.suppress(NotReady, Unavailable), home.store.read():
        pass  # what waiting cannot mend is told at once
    instruments = Instruments()
    supervisor = Supervisor(
        StoreSource(home, instruments),
        settings.serve,
        settings.ledger,
        run_path=home.run_path,
        ledger_path=home.ledger_path,
        logs=settings.logs,
        keys=StoreKeys(home),
        clock=home.clock,
        control=StoreModels(home),
    )
    scorer = Scorer(home, instruments)
    stop = asyncio.Event()
    stop_on_signals(stop)
    certificate = certificate_of(settings.serve)
    cors_of(settings.serve), hosts_of(settings.serve)  # what cannot be used is told at once
    desk = UploadDesk(home, instruments)
    from_outside = admin_app(home, supervisor, instruments, desk=desk)
    admin = _AdminServer(_admin_config(from_outside, certificate))
    listener = open_listener(
        ServeSettings(host="127.0.0.1", port=settings.serve.admin_port),
        setting="serve.admin_port",
    )
    admin_port = listener.getsockname()[1]

    def up(port: int) -> None:
        gc.collect()
        gc.freeze()  # what is loaded now stays
        trim_memory()
        ready(
            Serving(
                host=settings.serve.host,
                port=port,
                tls=certificate is not None,
                admin_port=admin_port,
                grpc_port=supervisor.status()["grpc_port"],
                applications=tuple(supervisor.status()["applications"]),
            )
        )

    at_home = admin_app(home, supervisor, instruments, owner=True, desk=desk)
    local = _AdminServer(_admin_config(at_home, None))
    door = contextlib.ExitStack()
    administering = asyncio.gather(
        admin.serve(sockets=[listener]),
        local.serve(sockets=[door.enter_context(local_listener(home.run_path))]),
    )
    chores = asyncio.gather(*_beside(home, instruments, scorer, desk, certificate))
    try:
        await supervisor.run(up, stop)
    finally:
        chores.cancel()
        admin.end()
        local.end()
        with contextlib.suppress(asyncio.CancelledError):
            await chores
        await administering
        listener.close()
        door.close()
        log("control.server").info("stopped")


def _beside(
    home: Home,
    instruments: Instruments,
    scorer: Scorer,
    desk: UploadDesk,
    certificate: Certificate | None,
) -> list[Coroutine[Any, Any, NoReturn]]:
    """Returns what is done beside the queries until it is cancelled, whatever surprises it."""
    loops = Loops(home.clock, instruments)
    works: dict[str, Callable[[], Awaitable[None]]] = {
        "scores": scorer.run,
        "workloads": Profiler(home, instruments).run,
        "uploads": desk.run,
        "certificate": partial(_follow, certificate),
        "compaction": partial(_compact, home, failures_of(instruments, "compact")),
        "removed_tables": partial(_remove_tables, home),
        "published_tables": partial(_publish_tables, home),
    }
    return [loops.keep(name, work) for name, work in works.items()]


def _sealed(ledger_path: Path) -> bool:
    return any(ledger_path.glob("segments/*.seg"))


def _admin_config(app: Starlette, certificate: Certificate | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    config.load()
    if certificate is not None:
        config.ssl = certificate.context  # the one that is read again when its files change
    return config


async def _follow(certificate: Certificate | None) -> None:
    if certificate is not None:
        await certificate.follow()


async def _compact(home: Home, failures: Counter) -> None:
    """Turns sealed ledger segments into Parquet, again and again."""
    looked = False
    while True:
        await asyncio.sleep(COMPACT_EVERY_S)
        try:
            if looked and not await asyncio.to_thread(_sealed, home.ledger_path):
                continue
            segments = await do_chore(home, "compact")
            looked = True  # segments that an earlier server left open are sealed by now
        except (TidemillError, OSError) as error:
            failures.value += 1
            log("control.server").warning("compaction.failed", error=str(error))
        else:
            if segments:
                log("control.server").info("ledger.compacted", segments=segments)


async def _publish_tables(home: Home) -> None:
    """Has the live tables in Redis, again and again: it may have been down, or have lost them."""
    complained, wait_s = False, PUBLISH_EVERY_S
    while home.settings.tables.url is not None:
        await asyncio.sleep(wait_s)
        began, wait_s = home.clock.monotonic(), PUBLISH_EVERY_S
        try:
            await asyncio.to_thread(publish_tables, home)
            if complained:
                log("control.server").info("tables.published")
            complained = False
        except (TidemillError, OSError) as error:
            if not complained:
                log("control.server").warning("tables.not_published", error=str(error))
            complained = True
            if home.clock.monotonic() - began > PUBLISH_EVERY_S:
                wait_s = PUBLISH_AGAIN_S


async def _remove_tables(home: Home) -> None:
    """Removes tables that nobody uses from Redis, again and again."""
    while home.settings.tables.url is not None:
        await asyncio.sleep(TABLES_EVERY_S)
        try:
            removed = await asyncio.to_thread(remove_unused_tables, home)
        except (TidemillError, OSError) as error:
            log("control.server").warning("tables.not_removed", error=str(error))
        else:
            if removed:
                log("control.server").info("tables.removed", tables=removed)


class _AdminServer(uvicorn.Server):
    """Uvicorn without its own signal handlers: one place decides when to stop, and calls ``end``.

    Nor does it look ten times a second whether it was told to: a server at rest rests.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    def end(self) -> None:
        """Has ``serve`` finish what it answers, and return."""
        self.should_exit = True
        self._ended.set()

    async def main_loop(self) -> None:
        """Keeps the date of its answers until it was told to end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), TICK_S)
