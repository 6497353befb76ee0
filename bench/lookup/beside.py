"""Latencies of lookups at a fixed rate while a table is built and swapped, and beside a burner."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.lookup.work import APPLICATION, KEY, Work, write_rows
from bench.measure import Target
from bench.ours import TIDEMILL
from bench.results import say
from bench.servers import ROOT, BenchmarkFailed, Server, header_fields

from tidemill.foundation.processes import cpu_of_threads, cpu_seconds

BEFORE_S, AFTER_S = 2.0, 1.0
"""The generator imports and connects before, and goes on after, what it is beside."""
SWAP_S = 60.0
EVERY_S = 0.02
"""So often it is noted how much CPU a build has used: a burner uses it in the same moments. While a
build waits for the disk, or for its own threads, a core is free for whoever waits for one."""
CONNECTIONS = 256


def beside_a_build(
    target: Target, work: Work, home: Path, *, rate: float, rows: int, limit_s: float
) -> tuple[dict[str, Any], float, list[float]]:
    """Asks at the rate while a table of so many keys is built, and until it answers.

    Returns:
        What the generator found, how many seconds build and swap took, and how many of a core the
        build used in each ``EVERY_S`` of them.

    Raises:
        BenchmarkFailed: the build failed or took too long, or an answer was wrong.
    """
    source = work.rows.with_name(f"rows{rows}.parquet")
    write_rows(source, rows)
    build = ("table", "build", APPLICATION, "--from", str(source), "--key", KEY, "--full")
    with _asked(target, rate, limit_s) as found:
        began = time.monotonic()
        used_s = cpu_followed(
            [*TIDEMILL, *build, "--home", str(home)], log=source.with_suffix(".log")
        )
        _wait_for(target.server, rows - 1)
        took = time.monotonic() - began
    source.unlink()
    return _checked(found, target), took, used_s


def beside_a_burner(
    target: Target, *, rate: float, seconds: float, used_s: Sequence[float], limit_s: float
) -> dict[str, Any]:
    """Asks for as long beside processes that burn what a build did, when it did, as idle."""
    with _asked(target, rate, limit_s) as found:
        words = (str(os.cpu_count() or 1), str(EVERY_S), *(f"{used:.4f}" for used in used_s))
        burner = Server(
            command=[sys.executable, "-m", "bench.lookup.burner", *words],
            log=Path(os.devnull),
            ready_url="",
        )
        try:
            burner.start()
            time.sleep(seconds)
        finally:
            burner.stop()
    return _checked(found, target)


def cpu_followed(command: list[str], *, log: Path) -> list[float]:
    """Runs a command to its end; returns the seconds of CPU it used in each ``EVERY_S``.

    Raises:
        BenchmarkFailed: it failed; with the end of what it wrote to the log.
    """
    used, before_s, threads = [0.0], _children_s(), dict[str, float]()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,  # as the server and the burner, and from a timer or a service
        )
        began = time.monotonic()
        while process.poll() is None:
            time.sleep(max(0.0, began + len(used) * EVERY_S - time.monotonic()))
            threads |= cpu_of_threads(process.pid)  # those that have ended used what they had used
            told = sum(threads.values()) if threads else cpu_seconds(process.pid)
            used.append(max(used[-1], told))
    used[-1] = _children_s() - before_s
    if process.returncode != 0:
        raise BenchmarkFailed(f"the build failed: {log.read_text()[-500:]}")
    return [after - before for before, after in pairwise(used)]


def _children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@contextmanager
def _asked(target: Target, rate: float, limit_s: float) -> Iterator[dict[str, Any]]:
    """Asks while the block runs; afterwards what it gave holds what was found."""
    options = {
        "url": target.url,
        "bodies": target.bodies,
        "expected": target.expected,
        "format": target.format,
        "rate": rate,
        "seconds": limit_s,
        "connections": CONNECTIONS,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    generator = subprocess.Popen(
        [sys.executable, "-m", "bench.openload", "--until-closed", *words],
        cwd=ROOT,
        env={**os.environ, "REQUEST_HEADERS": target.server.headers},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = {}
    try:
        time.sleep(BEFORE_S)
        yield found
        if generator.poll() is not None:
            raise BenchmarkFailed(f"what was measured beside took longer than {limit_s:g} s")
        time.sleep(AFTER_S)
        printed, _ = generator.communicate(timeout=60)
        found |= json.loads(printed)
    finally:
        generator.kill()
        generator.wait()


def _checked(found: dict[str, Any], target: Target) -> dict[str, Any]:
    if found["wrong"] or found["lost"] or found["refused"]:
        raise BenchmarkFailed(f"{target.name} did not answer rightly: {found}")
    say(f"    p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms")
    return {name: found[name] for name in ("p50_ms", "p99_ms", "lag_p99_ms", "answered", "unsent")}


def _wait_for(server: Server, key: int) -> None:
    """Waits until a key is found that only the new table holds."""
    root = server.ready_url.partition("/v2/")[0]
    request = urllib.request.Request(
        f"{root}/v1/models/{APPLICATION}:lookup?{KEY}={key}", headers=header_fields(server.headers)
    )
    deadline = time.monotonic() + SWAP_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except urllib.error.HTTPError as error:
            if error.code != 404 or time.monotonic() > deadline:
                raise BenchmarkFailed(f"the new table does not answer: {error}") from error
        time.sleep(0.05)
