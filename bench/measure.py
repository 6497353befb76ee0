"""Measures one server under load: requests a second, latencies, CPU time, and right answers.

wrk drives the load where it is installed (Debian package ``wrk``), else ``bench.load`` does. Either
way answers are checked while the load lasts: by a paced connection beside wrk, by every tenth
answer of our own generator.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
CHECKERS, CHECKED_RATE = 2, 2
"""So few that they are no load to speak of, even to a server that answers a hundred a second."""


class BenchmarkFailed(Exception):  # noqa: N818 - reads as a sentence
    """A server did not start, or answered wrongly: there is nothing to compare."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running server and how to ask it."""

    name: str
    url: str
    format: str
    bodies: Path
    expected: Path
    process: psutil.Process
    log: Path

    def processes(self) -> list[psutil.Process]:
        """The server's process and all that it started."""
        return [self.process, *self.process.children(recursive=True)]


@dataclass(kw_only=True)
class Server:
    """A server process that is ended, with all that it started, when the benchmark ends."""

    command: Sequence[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self, ready_url: str, *, timeout_s: float = 60.0) -> Iterator[psutil.Process]:
        """Starts it and waits until the URL answers."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        try:
            self._wait(process, ready_url, timeout_s)
            yield psutil.Process(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes], url: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
                return
            if process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise BenchmarkFailed(f"{' '.join(self.command)} is not ready:\n{tail}")
            time.sleep(0.1)


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def check(target: Target, *, seconds: float = 2.0) -> None:
    """Asks without load and raises unless every answer is right; also warms the server up."""
    found = _load(target, connections=4, seconds=seconds, check_every=1)
    if found["wrong"] or found["errors"] or not found["checked"]:
        tail = target.log.read_text(errors="replace")[-2000:]
        raise BenchmarkFailed(f"{target.name} answers wrongly: {found}\n{tail}")


def measure(target: Target, *, connections: int, seconds: float) -> dict[str, Any]:
    """Loads the server and returns one run's figures.

    Raises:
        BenchmarkFailed: an answer was wrong.
    """
    before = _cpu_s(target)
    if shutil.which("wrk"):
        found = _wrk(target, connections=connections, seconds=seconds)
    else:
        found = _load(target, connections=connections, seconds=seconds, check_every=10)
    cpu_s = _cpu_s(target) - before
    if found["wrong"]:
        raise BenchmarkFailed(f"{target.name} answers wrongly under load: {found['example']}")
    beside = found["checked"] if shutil.which("wrk") else 0
    answered = found["requests"] + beside
    return {
        "target": target.name,
        "connections": connections,
        "generator": "wrk" if shutil.which("wrk") else "bench.load",
        **{k: v for k, v in found.items() if k != "example"},
        "cpu_us_per_request": round(1e6 * cpu_s / max(1, answered), 1),
        "processes": len(target.processes()),
        "load_average": os.getloadavg()[0],
    }


def about() -> dict[str, Any]:
    """Returns what a figure depends on: the machine, the versions and the commit."""
    names = ["tidemill", "fastapi", "uvicorn", "httptools", "uvloop", "pydantic", "starlette"]
    names += ["numpy", "scikit-learn", "onnxruntime", "skl2onnx", "orjson", "msgspec"]
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: _version(name) for name in names},
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "src", "bench")),
    }


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Writes the results as JSON into ``bench/results`` and returns the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return path


def _wrk(target: Target, *, connections: int, seconds: float) -> dict[str, Any]:
    checker = subprocess.Popen(
        _load_command(
            target, connections=CHECKERS, seconds=seconds, check_every=1, rate=CHECKED_RATE
        ),
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert checker.stdout is not None
    checker.stdout.readline()  # it has started: its imports are no load
    script = str(ROOT / "bench" / "wrk.lua")
    duration = f"{max(1, round(seconds))}s"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "--timeout", "10s", "-s", script]
    done = subprocess.run(
        [*command, target.url],
        env={**os.environ, "BODIES": str(target.bodies)},
        capture_output=True,
        text=True,
        check=False,
    )
    checked = json.loads(checker.communicate(timeout=60)[0] or '{"errors": 1, "checked": 0}')
    line = next((each for each in done.stdout.splitlines() if each.startswith("WRK ")), None)
    if line is None:
        raise BenchmarkFailed(f"wrk failed: {done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(line[4:])
    return {
        **found,
        "rps": round(found["requests"] / found["seconds"], 1),
        "errors": found["errors"] + checked["errors"],
        **{name: checked.get(name) for name in ("checked", "wrong", "example")},
    }


def _load(target: Target, *, connections: int, seconds: float, check_every: int) -> dict[str, Any]:
    command = _load_command(
        target, connections=connections, seconds=seconds, check_every=check_every
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise BenchmarkFailed(f"the load generator failed: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _load_command(
    target: Target, *, connections: int, seconds: float, check_every: int, rate: float = 0.0
) -> list[str]:
    options = {
        "url": target.url,
        "bodies": target.bodies,
        "expected": target.expected,
        "format": target.format,
        "connections": connections,
        "seconds": seconds,
        "check-every": check_every,
        "rate": rate,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "bench.load", *words]


def _cpu_s(target: Target) -> float:
    total = 0.0
    for process in target.processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip() if done.returncode == 0 else None
