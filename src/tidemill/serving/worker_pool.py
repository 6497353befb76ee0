"""All workers of one supervisor: as many of each kind as are wanted, restarted when they die."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import TidemillError, Unavailable
from tidemill.foundation.logs import log
from tidemill.serving.backoff import Deaths
from tidemill.serving.log_ring import LogRing
from tidemill.serving.placement import spread
from tidemill.serving.worker_process import LOADER, WorkerKey, WorkerProcess


@dataclass(slots=True)
class _Group:
    """The workers of one kind."""

    workers: dict[WorkerProcess, float] = field(default_factory=dict)  # with when they started
    deaths: Deaths = field(default_factory=Deaths)
    wait_until: float = 0.0
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


class WorkerPool:
    """Starts, counts and stops workers.

    Args:
        folder: where their sockets are; nobody else may enter it.
        wanted: called when workers are missing and may be started now.
        clock: measures how long they lived.
        ring: keeps what they say.
        loader: "module:function" that opens a model inside a worker.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wanted: Callable[[], None],
        clock: Clock,
        ring: LogRing,
        loader: str = LOADER,
    ) -> None:
        self._folder = folder
        self._wanted = wanted
        self._clock = clock
        self._ring = ring
        self._loader = loader
        self._groups: defaultdict[WorkerKey, _Group] = defaultdict(_Group)
        self._retiring: set[WorkerProcess] = set()
        self._names = itertools.count(1)
        self._log = log("serving.workers")
        self.restarts = 0

    def alive(self, key: WorkerKey) -> tuple[WorkerProcess, ...]:
        """Returns the workers of a kind that take batches, the oldest first."""
        return tuple(self._groups[key].workers) if key in self._groups else ()

    @property
    def running(self) -> list[WorkerProcess]:
        """Every worker that takes batches."""
        return [worker for group in self._groups.values() for worker in group.workers]

    async def ensure(self, key: WorkerKey, count: int, *, patient: bool = False) -> None:
        """Starts the workers that a kind lacks, unless it died too often too recently.

        Whoever asks while some are starting waits for them. Who is patient also waits until the
        kind may be started again: on return it has a worker.

        Raises:
            TidemillError: one could not be started; the others stay.
        """
        group = self._groups[key]
        async with group.starting:
            if patient and not group.workers:
                await asyncio.sleep(self._wait_s(group))
            await self._fill(group, key, count)
            if patient and not group.workers:
                raise Unavailable(
                    f"the worker of model {key.model!r} version {key.version} ended at once",
                    remedy="Its log says why: tidemill logs.",
                )

    def _wait_s(self, group: _Group) -> float:
        return group.wait_until - self._clock.monotonic()

    async def _fill(self, group: _Group, key: WorkerKey, count: int) -> None:
        missing = count - len(group.workers)
        if missing <= 0 or self._wait_s(group) > 0.0:
            return
        devices = spread(key.devices, [worker.device for worker in group.workers], missing)
        started = await asyncio.gather(
            *(self._start(group, key, device) for device in devices), return_exceptions=True
        )
        for outcome in started:
            if isinstance(outcome, BaseException):
                self._wait(group, lived_s=0.0)
                raise outcome

    def take_unused(self, used: Mapping[WorkerKey, int]) -> list[WorkerProcess]:
        """Takes the workers over these numbers out of the pool; ``stop`` them when they may go."""
        unused: list[WorkerProcess] = []
        for key, group in list(self._groups.items()):
            count = used.get(key, 0)
            for worker in list(group.workers)[count:]:
                del group.workers[worker]
                unused.append(worker)
            if not count:
                del self._groups[key]
        self._retiring.update(unused)
        return unused

    async def stop(self, workers: Iterable[WorkerProcess]) -> None:
        """Stops workers that were taken out; they finish what they are at."""
        going = list(workers)
        await asyncio.gather(*(worker.stop() for worker in going))
        self._retiring.difference_update(going)

    async def stop_all(self) -> None:
        """Stops every worker."""
        self.take_unused({})
        await self.stop(self._retiring)

    def status(self) -> list[dict[str, Any]]:
        """Returns what runs, for people."""
        return [
            {
                "application": key.application,
                "model": key.model,
                "version": key.version,
                "pid": worker.pid,
                "socket": str(worker.socket),
                "device": worker.device,
                "restarts": group.deaths.total,
            }
            for key, group in self._groups.items()
            for worker in group.workers
        ]

    def restarted(self) -> dict[tuple[str, str], int]:
        """Returns how often workers of each application and version were started again."""
        counts: dict[tuple[str, str], int] = {}
        for key, group in self._groups.items():
            of = (key.application, str(key.version))
            counts[of] = counts.get(of, 0) + group.deaths.total
        return counts

    async def _start(self, group: _Group, key: WorkerKey, device: str) -> None:
        name = f"worker-{next(self._names)}"
        worker = WorkerProcess(
            key,
            self._folder / f"{name}.sock",
            loader=self._loader,
            device=device,
            heard=partial(self._heard, key, name),
        )
        await worker.start(self._lost)
        if not worker.alive:
            return  # it died as soon as it was ready, and was counted as lost
        group.workers[worker] = self._clock.monotonic()
        self._log.info("worker.started", model=key.model, version=key.version, pid=worker.pid)
        self._note(key, name, f"started, pid {worker.pid}")

    def _heard(self, key: WorkerKey, name: str, line: str) -> None:
        """Passes on what a worker says, so that it is told apart from others, and keeps it."""
        self._log.warning(
            "worker.said",
            application=key.application,
            model=key.model,
            version=key.version,
            worker=name,
            line=line,
        )
        self._note(key, name, line)

    def _note(self, key: WorkerKey, name: str, line: str) -> None:
        self._ring.add(key.application, f"{key.model}:{key.version} {name}", line)

    def _lost(self, worker: WorkerProcess, ended: str) -> None:
        key = worker.key
        self._log.warning("worker.ended", model=key.model, version=key.version, ended=ended)
        self._note(key, worker.socket.stem, f"ended with {ended}")
        group = self._groups.get(key)
        if group is None or worker in self._retiring:
            return
        self.restarts += 1
        began = group.workers.pop(worker, self._clock.monotonic())
        self._wait(group, lived_s=self._clock.monotonic() - began)

    def _wait(self, group: _Group, lived_s: float) -> None:
        delay_s = group.deaths.update(lived_s)
        group.wait_until = self._clock.monotonic() + delay_s
        asyncio.get_running_loop().call_later(delay_s + 0.001, self._wanted)


def describe(error: BaseException) -> str:
    """Returns an error as one line."""
    return str(error) if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
