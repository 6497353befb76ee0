"""What a process of this machine uses, as the kernel tells it; nothing where there is no /proc."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_CPU_AT = 11  # utime, then stime, counted after the command's closing parenthesis
_RESIDENT_AT = 21
_LEAST = "19"
"""The niceness that has the smallest share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used of the processors since it began, and holds of memory and files."""

    cpu_s: float
    resident_bytes: int
    open_files: int


def yield_to_others() -> None:
    """Has this process run only where nobody else wants the processor, as far as that goes here.

    Threads that run already keep their priority: it is for the beginning of a process. Where the
    kernel shares processors out among sessions first (Linux's autogroups), an idle one still gets
    as much as a server in another session; one that leads its own session gives way there, too.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if os.getsid(0) == os.getpid():  # else others are in it that have not asked for this
        with contextlib.suppress(OSError):
            (_PROC / "self" / "autogroup").write_text(_LEAST)


def own_cpu_s() -> float:
    """Returns the processor's seconds that this process has used, with its children that ended.

    Example:
        >>> own_cpu_s() >= 0.0
        True
    """
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def is_stopped(pid: int) -> bool:
    """Says whether a signal has stopped a process (SIGSTOP): it is there, and does nothing.

    Example:
        >>> is_stopped(os.getpid())
        False
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] == b"T"


def family(pid: int) -> list[int]:
    """Returns a process and all that it started, and they, as far as they still run.

    Example:
        >>> os.getpid() in family(os.getpid())
        True
    """
    found = [pid]
    for each in found:
        for thread in (_PROC / str(each) / "task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, thread.read_text().split())
    return found


def command(pid: int) -> tuple[str, ...]:
    """Returns the words that a process was started with; none if it has ended.

    Example:
        >>> command(0)
        ()
    """
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(each.decode(errors="replace") for each in words.split(b"\0") if each)


def cpu_seconds(pid: int) -> float:
    """Returns the processor time of a process's threads, to the microsecond where that is kept.

    ``usage`` counts in ticks of the kernel, 10 ms wide; this is for what lasts less. A process that
    has ended, or cannot be looked at, has used nothing.

    Example:
        >>> cpu_seconds(os.getpid()) > 0.0
        True
    """
    nanoseconds = 0
    try:
        for thread in (_PROC / str(pid) / "task").iterdir():
            nanoseconds += int((thread / "schedstat").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        used = usage(pid)
        return used.cpu_s if used is not None else 0.0
    return nanoseconds / 1e9


def usage(pid: int) -> Usage | None:
    """Returns what a process uses; None if it has ended or cannot be looked at.

    Example:
        >>> used = usage(os.getpid())
        >>> used is None or used.resident_bytes > 0
        True
    """
    folder = _PROC / str(pid)
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        files = len(os.listdir(folder / "fd"))  # noqa: PTH208 - only their number
    except OSError:
        return None
    ticks = int(fields[_CPU_AT]) + int(fields[_CPU_AT + 1])
    return Usage(
        cpu_s=ticks / os.sysconf("SC_CLK_TCK"),
        resident_bytes=int(fields[_RESIDENT_AT]) * os.sysconf("SC_PAGE_SIZE"),
        open_files=files,
    )
