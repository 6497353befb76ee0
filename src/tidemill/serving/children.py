"""Processes started here: waited for without blocking, stopped politely first."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from tidemill.foundation.environment import child_environment
from tidemill.serving.hearing import Heard, Hearing

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Child:
    """A process of ours, from ``start`` until it has exited.

    It gets no secret of this process's environment, no standard input, and no signals of the
    terminal: whoever started it stops it.

    Args:
        command: the program and its arguments.
        pass_fds: descriptors that it inherits.
        pipe: whether ``stdout`` is a pipe to read from.
        heard: told each line of its standard error; without it, that is this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        pipe: bool = False,
        heard: Heard | None = None,
    ) -> None:
        self._command = command
        self._hearing = None if heard is None else Hearing(heard)
        self._pass_fds = pass_fds
        self._pipe = pipe
        self._process: subprocess.Popen[bytes] | None = None
        self._exited = asyncio.Event()

    def start(self, environment: Mapping[str, str] = _ONE_THREAD) -> None:
        """Starts it.

        Call it on the event loop's thread: a worker dies with the thread that started it.
        """
        errors = None if self._hearing is None else self._hearing.open()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._pipe else None,
                stderr=errors,
                pass_fds=self._pass_fds,
                env=child_environment(environment),
                process_group=0,
            )
        except BaseException:
            if self._hearing is not None:
                self._hearing.close()
            raise
        finally:
            if errors is not None:
                os.close(errors)
        waiter = threading.Thread(
            target=self._wait, args=(asyncio.get_running_loop(),), name="waits", daemon=True
        )
        waiter.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """Where to read what it says, if that was asked for."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def running(self) -> bool:
        """Says whether it was started and has not been seen to exit."""
        return self._process is not None and not self._exited.is_set()

    async def wait(self) -> str:
        """Returns how it ended, once it has: "status 1" or "signal SIGKILL"."""
        await self._exited.wait()
        assert self._process is not None
        code = self._process.returncode
        return f"status {code}" if code >= 0 else f"signal {_signal_name(-code)}"

    async def stop(self, grace_s: float) -> None:
        """Asks it to end, and ends it after the grace."""
        self.signal(signal.SIGTERM)
        await self.ended_within(grace_s)

    async def ended_within(self, grace_s: float) -> bool:
        """Waits for its end; kills it after the grace. Says whether it ended by itself."""
        if not self.running:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), grace_s)
            return True
        self.signal(signal.SIGKILL)
        await self._exited.wait()
        return False

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        if self.running and self._process is not None:
            self._process.send_signal(number)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._process is not None
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        if self._hearing is not None:
            self._hearing.close()
        self._exited.set()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
