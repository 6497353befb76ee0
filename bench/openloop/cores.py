"""Gives what is to be the limit processors of its own, so that the generator takes none of them.

Where both share processors, a generator that offers more takes more of them, and takes it from the
server: goodput would fall with the load for that alone. And a capacity that was found with a cheap
generator is more than the server has beside a dear one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import psutil
from bench.servers import Server

WORKER = "tidemill_worker"
"""The module that a worker process runs."""


@contextlib.contextmanager
def apart(servers: Sequence[Server], *, model: bool = False) -> Iterator[int]:
    """Keeps this process, and what it starts, to the last processor, and the servers to the rest.

    Yields how many processors that is. Afterwards everybody may use all again. Where there is one
    processor only, or processors cannot be chosen, all share what there is.

    Args:
        servers: whatever runs already.
        model: whether the limit is the model, and not the edge: the rest is for workers alone then,
            and the gateways share the last processor with the generator.
    """
    choose = getattr(os, "sched_setaffinity", None)
    every = sorted(os.sched_getaffinity(0)) if choose is not None else []
    if len(every) < 2:
        yield max(1, len(every))
        return
    *rest, last = every
    try:
        _keep(servers, rest, [last] if model else rest)
        os.sched_setaffinity(0, {last})
        yield len(rest)
    finally:
        os.sched_setaffinity(0, every)
        _keep(servers, every, every)


def _keep(servers: Sequence[Server], workers: Sequence[int], others: Sequence[int]) -> None:
    """Keeps the servers' threads, and what these start later, to their processors."""
    for process in (process for server in servers for process in server.processes()):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has ended
            processors = workers if WORKER in process.cmdline() else others
            for thread in process.threads():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, processors)
