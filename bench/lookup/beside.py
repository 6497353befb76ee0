"""Latencies of lookups at a fixed rate while a table is built and swapped, and beside a burner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.lookup.burner import Track, write_tracks
from bench.lookup.followed import threads_of, tracks_of
from bench.lookup.work import APPLICATION, KEY, Work, write_rows
from bench.measure import Target
from bench.ours import TIDEMILL
from bench.results import say
from bench.servers import ROOT, BenchmarkFailed, Server, header_fields

from tidemill.foundation.processes import family

BEFORE_S, AFTER_S = 2.0, 1.0
"""The generator imports and connects before, and goes on after, what it is beside."""
SWAP_S = 60.0
CONNECTIONS = 256


def beside_a_build(
    target: Target, work: Work, home: Path, *, rate: float, rows: int, limit_s: float
) -> tuple[dict[str, Any], float, list[Track]]:
    """Asks at the rate while a table of so many keys is built, and until it answers.

    Returns:
        What the generator found, how many seconds build and swap took, and what the build's threads
        used when.

    Raises:
        BenchmarkFailed: the build failed or took too long, or an answer was wrong.
    """
    source = work.rows.with_name(f"rows{rows}.parquet")
    write_rows(source, rows)
    build = ("table", "build", APPLICATION, "--from", str(source), "--key", KEY, "--full")
    with _asked(target, rate, limit_s) as found:
        began = time.monotonic()
        tracks = tracks_of([*TIDEMILL, *build, "--home", str(home)], log=source.with_suffix(".log"))
        _wait_for(target.server, rows - 1)
        took = time.monotonic() - began
    source.unlink()
    return _checked(found, target), took, tracks


def beside_a_burner(
    target: Target, *, rate: float, seconds: float, tracks: Sequence[Track], limit_s: float
) -> dict[str, Any]:
    """Asks for as long beside processes that use and rest as a build did, when it did, as idle.

    Returns:
        What the generator found, with the CPU that was burned and how often the processes rested.
    """
    file = write_tracks(target.bodies.with_name("tracks.json"), tracks)
    with _asked(target, rate, limit_s) as found:
        burner = Server(
            command=[sys.executable, "-m", "bench.lookup.burner", str(file)],
            log=Path(os.devnull),
            ready_url="",
        )
        try:
            burner.start()
            time.sleep(seconds)
            burned = threads_of(family(burner.process.pid)).values()
        finally:
            burner.stop()
    spent = {"cpu_s": sum(used for used, _ in burned), "rests": sum(each for _, each in burned)}
    return {**_checked(found, target), **spent}


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
