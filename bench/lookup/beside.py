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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.lookup.work import APPLICATION, KEY, Work, write_rows
from bench.measure import Target
from bench.ours import TIDEMILL
from bench.results import say
from bench.servers import ROOT, BenchmarkFailed, Server, header_fields

BEFORE_S, AFTER_S = 2.0, 1.0
"""The generator imports and connects before, and goes on after, what it is beside."""
SWAP_S = 60.0
CONNECTIONS = 256


def beside_a_build(
    target: Target, work: Work, home: Path, *, rate: float, rows: int, limit_s: float
) -> tuple[dict[str, Any], float, float]:
    """Asks at the rate while a table of so many keys is built, and until it answers.

    Returns:
        What the generator found, how many seconds build and swap took, and how many of a core.

    Raises:
        BenchmarkFailed: the build failed or took too long, or an answer was wrong.
    """
    source = work.rows.with_name(f"rows{rows}.parquet")
    write_rows(source, rows)
    build = ("table", "build", APPLICATION, "--from", str(source), "--key", KEY, "--full")
    with _asked(target, rate, limit_s) as found:
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*TIDEMILL, *build, "--home", str(home)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # as the server and the burner, and from a timer or a service
        )
        if done.returncode != 0:
            raise BenchmarkFailed(f"the build failed: {done.stderr[-500:]}")
        _wait_for(target.server, rows - 1)
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    source.unlink()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _checked(found, target), took, cpu_s


def beside_a_burner(
    target: Target, *, rate: float, seconds: float, cpu_s: float, limit_s: float
) -> dict[str, Any]:
    """Asks for as long beside processes that burn as much, at a build's priority, on all cores."""
    with _asked(target, rate, limit_s) as found:
        processes = os.cpu_count() or 1
        share = min(1.0, cpu_s / seconds / processes)
        words = (str(processes), f"{share:.4f}")
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
