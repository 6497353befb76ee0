"""Starts servers for a benchmark and ends them with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.05
STOP_S = 15.0


class BenchmarkFailed(Exception):  # noqa: N818 - reads as a sentence
    """A server did not start, or answered wrongly: there is nothing to compare."""


@dataclass(kw_only=True)
class Server:
    """A server's processes; ``ready_url`` answers a GET once it serves.

    ``headers`` are lines that every request to it needs.
    """

    command: Sequence[str]
    log: Path
    ready_url: str
    environment: dict[str, str] = field(default_factory=dict)
    headers: str = ""
    timeout_s: float = 90.0
    _process: psutil.Popen | None = None

    def start(self) -> None:
        """Starts it; models get one thread each, as many servers share the machine."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        with self.log.open("wb") as log:
            self._process = psutil.Popen(
                self.command,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns once it serves.

        Raises:
            BenchmarkFailed: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + self.timeout_s
        while True:
            request = urllib.request.Request(self.ready_url, headers=header_fields(self.headers))
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkFailed(f"{' '.join(self.command)} is not ready:\n{self.tail()}")
            time.sleep(POLL_S)

    @property
    def process(self) -> psutil.Popen:
        """The process that was started."""
        assert self._process is not None
        return self._process

    def processes(self) -> list[psutil.Process]:
        """Returns the process and all that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def cpu_s(self) -> float:
        """Returns the CPU time of all its processes up to now."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def ended_cpu_s(self) -> float:
        """Returns the CPU time of the processes that its first one started and that have ended."""
        times = self.process.cpu_times()
        return float(times.children_user + times.children_system)

    def pss_bytes(self) -> int:
        """Returns the memory of all its processes, shared pages divided among their users."""
        return sum(self.pss_by_process().values())

    def pss_by_process(self) -> dict[str, int]:
        """Returns the memory of each process, by its number and command."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                name = f"{process.pid} {' '.join(process.cmdline()[1:4])}"[:100]
                found[name] = process.memory_full_info().pss
        return found

    def pause(self) -> None:
        """Stops its processes from running, so that idle work does not disturb another's turn."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets its processes run again."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it and all that it started, by force if it takes too long."""
        if self._process is None:
            return
        self.resume()
        started = self.processes()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        _, left = psutil.wait_procs(started, timeout=STOP_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # Where the first process died by itself, its children are known by their group alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        psutil.wait_procs([*left, self.process], timeout=STOP_S)
        self._process = None

    def restart(self) -> None:
        """Ends what is left of it, starts it again and waits until it serves.

        Raises:
            BenchmarkFailed: it ended, or did not answer in time.
        """
        self.stop()
        self.start()
        self.wait()

    @property
    def ended(self) -> int | None:
        """How the process that was started ended; None while it runs."""
        code: int | None = self.process.poll()
        return code

    def tail(self) -> str:
        """Returns the end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def _signal(self, number: int) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Starts a server, waits until it serves, and ends it."""
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.stop()


def header_fields(lines: str) -> dict[str, str]:
    """Returns header lines by their names."""
    return dict(line.split(": ", 1) for line in lines.splitlines())


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run(
    command: Sequence[str], environment: dict[str, str] | None = None, *, shown: bool = False
) -> str:
    """Runs a command to its end and returns what it printed.

    Args:
        command: its words.
        environment: what is added to this one's.
        shown: whether what it says on standard error is shown as it comes.

    Raises:
        BenchmarkFailed: it failed.
    """
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"{' '.join(command)}:\n{done.stdout}{done.stderr or ''}")
    return done.stdout
