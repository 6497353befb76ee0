"""What the threads of a process use of the processors, moment by moment, and how often they rest.

A thread rests where it waits: for the disk, for a lock, for another thread. Each rest leaves a core
to whoever else wants it, at once; so a burner that is to cost what a build does rests as often.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from bench.lookup.burner import EVERY_S, Track
from bench.servers import ROOT, BenchmarkFailed

Counts = dict[str, tuple[float, int]]
"""Of threads, up to now."""


def threads_of(pids: Iterable[int]) -> Counts:
    """Returns the CPU of each thread of some processes up to now, and how often it rested."""
    found: Counts = {}
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with suppress(OSError, ValueError, IndexError):
                used_s = int((thread / "schedstat").read_bytes().split()[0]) / 1e9
                told = (thread / "status").read_bytes().partition(b"\nvoluntary_ctxt_switches:")[2]
                found[thread.name] = used_s, int(told.split()[0])
    return found


def tracks_of(command: list[str], *, log: Path) -> list[Track]:
    """Runs a command to its end; returns the track of each of its threads, the busiest first.

    What none of them was seen to use, since it ended between two looks, is shared out among what
    all were seen to use.

    Raises:
        BenchmarkFailed: it failed; with the end of what it wrote to the log. Or the kernel does
            not tell what a thread uses.
    """
    before_s, looks = _children_s(), list[Counts]()
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
            time.sleep(max(0.0, began + (len(looks) + 1) * EVERY_S - time.monotonic()))
            looks.append(threads_of([process.pid]))
    if process.returncode != 0:
        raise BenchmarkFailed(f"the build failed: {log.read_text()[-500:]}")
    names = {name for look in looks for name in look}
    tracks = sorted((_track(name, looks) for name in names), key=cpu_s, reverse=True)
    if not tracks:
        raise BenchmarkFailed("the kernel does not tell what each thread uses (/proc/…/schedstat)")
    return _scaled(tracks, _children_s() - before_s)


def cpu_s(track: Track) -> float:
    """Returns the seconds of CPU in all moments."""
    return sum(used_s for used_s, _ in track)


def rests(track: Track) -> int:
    """Returns how often a thread rested in all."""
    return sum(count for _, count in track)


def _track(name: str, looks: Sequence[Counts]) -> Track:
    track, before = list[tuple[float, int]](), (0.0, 0)
    for look in looks:
        now = look.get(name, before)  # a thread that has ended used what it had used
        track.append((now[0] - before[0], now[1] - before[1]))
        before = now
    return track


def _scaled(tracks: list[Track], used_s: float) -> list[Track]:
    """Returns tracks of as much CPU in all."""
    seen_s = sum(map(cpu_s, tracks))
    share = used_s / seen_s if seen_s else 0.0
    return [[(share * moment_s, rested) for moment_s, rested in track] for track in tracks]


def _children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
