"""A worker process as its supervisor sees it: started, announced, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidemill.foundation import errors
from tidemill.foundation.errors import InvalidModel, TidemillError, Unavailable
from tidemill.serving.children import Child
from tidemill.serving.hearing import Heard
from tidemill.serving.plan import CPU

LOADER = "tidemill.models.runtime:open_registered"
_LOADER_OF_ITS_OWN = "tidemill_worker.loading:open_model"
_READY_WITHIN_S = 120.0
_STOP_GRACE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKey:
    """What a worker serves; workers with equal keys can stand in for each other.

    ``python`` is the interpreter of the model's own environment, if it has one. Each is on one of
    the ``devices``.
    """

    application: str
    model: str
    version: int
    folder: str
    trust_code: bool
    threads: int
    python: str | None = None
    devices: tuple[str, ...] = (CPU,)


class _Announcement(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool
    pid: int = 0
    kind: str = ""
    what: str = ""
    remedy: str = ""


class WorkerProcess:
    """One worker process with one model loaded.

    Args:
        key: what it serves.
        socket: where it listens.
        loader: "module:function" that opens the model inside the worker; a model in an environment
            of its own is opened by what is there of the worker's.
        device: where it computes, one of the key's.
        heard: told each line that it says on standard error.
    """

    def __init__(
        self,
        key: WorkerKey,
        socket: Path,
        *,
        loader: str = LOADER,
        device: str = CPU,
        heard: Heard | None = None,
    ) -> None:
        self.key = key
        self.socket = socket
        self.device = device
        command = [sys.executable, "-P"]
        if key.python is not None:
            command, loader = [key.python, "-I"], _LOADER_OF_ITS_OWN
        command += ["-m", "tidemill_worker"]
        command += ["--socket", str(socket), "--loader", loader, "--folder", key.folder]
        command += ["--threads", str(key.threads), "--parent", str(os.getpid())]
        command += ["--device", device]
        if key.trust_code:
            command.append("--trust-code")
        self._child = Child(command, pipe=True, heard=heard)
        self._watcher: asyncio.Task[None] | None = None
        self.stopping = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Says whether the process runs."""
        return self._child.running

    async def start(self, lost: Callable[[WorkerProcess, str], None]) -> None:
        """Starts the process; the model is loaded on return.

        Args:
            lost: called when the process ends without having been stopped, with how it ended.

        Raises:
            TidemillError: the model could not be loaded, or not in time.
        """
        self._child.start({})
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                await self._heard(await _line(self._child))
        except TimeoutError as error:
            await self.stop()
            raise Unavailable(
                f"the worker has not loaded {self._subject} within {_READY_WITHIN_S:.0f} s"
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._watcher = asyncio.create_task(self._watch(lost))

    def kill(self) -> None:
        """Ends it at once; whoever keeps it is told that it was lost."""
        self._child.signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Lets it finish what its connections still wait for, then ends it."""
        self.stopping = True
        await self._child.stop(_STOP_GRACE_S)
        with contextlib.suppress(OSError):
            self.socket.unlink(missing_ok=True)
        if self._watcher is not None:
            await self._watcher

    @property
    def _subject(self) -> str:
        return f"model {self.key.model!r} version {self.key.version}"

    async def _watch(self, lost: Callable[[WorkerProcess, str], None]) -> None:
        ended = await self._child.wait()
        if not self.stopping:
            with contextlib.suppress(OSError):
                self.socket.unlink(missing_ok=True)
            lost(self, ended)

    async def _heard(self, line: bytes) -> None:
        if not line:
            ended = await self._child.wait()
            raise InvalidModel(f"the worker ended with {ended} while it loaded {self._subject}")
        announced = msgspec.json.decode(line, type=_Announcement)
        if not announced.ready:
            raise self._refusal(announced)

    def _refusal(self, announced: _Announcement) -> TidemillError:
        kind = getattr(errors, announced.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, TidemillError)):
            kind = InvalidModel
        return kind(f"{self._subject}: {announced.what}", remedy=announced.remedy)


async def _line(child: Child) -> bytes:
    """Returns the first line that the process says; empty if it ends without one."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), child.stdout
    )
    try:
        return await reader.readline()
    finally:
        transport.close()
