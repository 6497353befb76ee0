"""What the supervisor shows of the processes that it keeps, looked up when somebody asks."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidemill import __version__
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.processes import usage

Status = Sequence[dict[str, Any]]


def show_processes(
    instruments: Instruments,
    gateways: Status,
    workers: Status,
    restarted: Mapping[tuple[str, str], int],
) -> None:
    """Shows what each process uses, and what was started again.

    Args:
        instruments: where it is shown.
        gateways: what the fleet says runs: name and pid.
        workers: what the pool says runs: application, version and pid.
        restarted: how often workers of an application and version were started again.
    """
    cpu = instruments.counter(
        "tidemill_process_cpu_seconds", "Processor time that a process has used.", ("process",)
    )
    memory = instruments.gauge(
        "tidemill_process_resident_memory_bytes", "Memory that a process holds.", ("process",)
    )
    files = instruments.gauge(
        "tidemill_process_open_fds", "Files and sockets that a process holds.", ("process",)
    )
    for name, pid in processes(gateways, workers):
        used = usage(pid)
        if used is not None:
            cpu.of(name).value = used.cpu_s
            memory.of(name).value = used.resident_bytes
            files.of(name).value = used.open_files
    again = instruments.counter(
        "tidemill_worker_restarts",
        "Workers started again after they died.",
        ("application", "version"),
    )
    for labels, count in restarted.items():
        again.of(*labels).value = count
    build = instruments.gauge(
        "tidemill_build_info", "1, labelled with what runs.", ("version", "python"), merge="max"
    )
    build.of(__version__, platform.python_version()).value = 1


def processes(gateways: Status, workers: Status) -> Iterator[tuple[str, int]]:
    """Yields the name and the id of each process: of the supervisor, gateways and workers."""
    yield "supervisor", os.getpid()
    for each in gateways:
        if each["pid"] is not None:
            yield each["name"], each["pid"]
    seen: Counter[str] = Counter()
    for each in workers:
        name = f"worker/{each['application']}/{each['version']}"
        yield f"{name}/{seen[name]}", each["pid"]
        seen[name] += 1
