"""A soak: full load for minutes, with errors and disconnects mixed in, while memory is watched."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil
from bench.measure import Target
from bench.results import claim, say
from bench.servers import ROOT, BenchmarkFailed, Server

CONNECTIONS = 32
SAMPLES, TOLD = 40, 8
"""How often its processes are looked at, and how often that is told meanwhile."""
CHORES = "tidemill.control.chores"
"""Processes that score or compact for a moment, and end: their memory is told apart."""


def soak(target: Target, *, seconds: float) -> dict[str, Any]:
    """Loads and molests the server for so long and returns what it came to."""
    say(f"  soaking for {seconds:.0f} s")
    load = _start(
        target,
        "bench.load",
        "--connections",
        str(CONNECTIONS),
        "--check-every",
        "10",
        "--expected",
        str(target.expected),
        "--format",
        target.format,
        seconds=seconds,
    )
    hostile = _start(target, "bench.footprint.hostile", seconds=seconds)
    samples, start = [], time.monotonic()
    while load.poll() is None or hostile.poll() is None:
        took = time.monotonic() - start
        samples.append({"at_s": round(took, 1), **_sample(target.server)})
        if len(samples) % (SAMPLES // TOLD) == 1:
            found = samples[-1]
            say(f"    {took:.0f} s: {found['pss_bytes'] >> 20} MB, {found['files']} files open")
        if target.server.ended is not None:
            _kill(load, hostile)
            raise BenchmarkFailed(f"the server ended in the soak:\n{target.server.tail()}")
        if took > seconds + 60:
            _kill(load, hostile)
            raise BenchmarkFailed("the soak's clients do not end")
        time.sleep(seconds / SAMPLES)
    return {
        "seconds": seconds,
        "load": _result(load),
        "hostile": _result(hostile),
        "samples": samples,
    }


def soak_claims(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Judges a soak: memory, descriptors, failures, and what wrong requests were told."""
    samples = found["samples"]
    third = max(1, len(samples) // 3)
    early, late = samples[third : 2 * third] or samples, samples[-third:]
    growth = _median(late, "pss_bytes") / _median(early, "pss_bytes")
    minutes = found["seconds"] / 60
    what = f"soak of {minutes:.1f} minutes"
    chores = max(each["chores_bytes"] for each in samples) >> 20
    say(
        f"  {samples[-1]['pss_bytes'] >> 20} MB at the end; "
        f"chores took up to {chores} MB for a moment"
    )
    load, hostile = found["load"], found["hostile"]
    return [
        claim(f"{what}: memory, chores apart, of the last third / the second", growth, "<=", 1.02),
        claim(
            f"{what}: open files at the end", late[-1]["files"], "<=", early[0]["files"] + 32, ""
        ),
        claim(f"{what}: failed of {load['requests']:,}", load["errors"], "<=", 0, ""),
        claim(f"{what}: wrong of {load['checked']:,} checked", load["wrong"], "<=", 0, ""),
        claim(
            f"{what}: misdeeds of {sum(hostile['done'].values()):,} not told so",
            sum(hostile["unexpected"].values()),
            "<=",
            0,
            "",
        ),
    ]


def _start(target: Target, module: str, *options: str, seconds: float) -> subprocess.Popen[str]:
    where = ("--url", target.url, "--bodies", str(target.bodies), "--seconds", str(seconds))
    return subprocess.Popen(
        [sys.executable, "-m", module, *where, *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "REQUEST_HEADERS": target.server.headers},
    )


def _kill(*clients: subprocess.Popen[str]) -> None:
    for client in clients:
        client.kill()
        client.wait()


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, _ = process.communicate(timeout=60)
    if process.returncode != 0 or not printed:
        raise BenchmarkFailed("a client of the soak failed")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def _sample(server: Server) -> dict[str, Any]:
    files = 0
    for process in server.processes():
        with contextlib.suppress(psutil.Error):
            files += process.num_fds()
    memory = server.pss_by_process()
    chores = sum(nbytes for name, nbytes in memory.items() if CHORES in name)
    return {
        "pss_bytes": sum(memory.values()) - chores,
        "chores_bytes": chores,
        "files": files,
    }


def _median(samples: list[dict[str, Any]], name: str) -> float:
    return statistics.median(sample[name] for sample in samples)
