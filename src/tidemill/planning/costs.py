"""What serving one application costs this machine: CPU by source, bytes by key, work by refresh."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from tidemill.planning.latency import LatencyLaw
from tidemill.serving.cache import ENTRY_BYTES

_PAGE_BYTES = 4096
_PAGE_USED = _PAGE_BYTES - 16  # after LMDB's page header
_NODE_BYTES = 8 + 2  # a node's header and its place in the page's index
_FEWEST_PAGES = 2  # LMDB's own

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured of one model on one machine, all of one core.

    The defaults are typical of a small model behind small JSON requests on a machine of two cores;
    they serve a plan that is made before there is a model.

    Args:
        law: of the model alone.
        on_loop: the model computes in the gateway itself, and everything waits meanwhile.
        turn_s: CPU of a turn of the gateway's loop, whatever it does; like all that follows, of a
            loop that is kept busy.
        table_s: CPU of a query that the table answers, reading and writing included.
        cache_s: CPU of a query that the cache answers.
        model_s: CPU in the gateway of a query that the model answers, the model apart.
        hop_s: CPU in the gateway for each batch that goes to a worker.
        worker_s: CPU in the worker for each batch, the model apart.
        cold_s: what a turn takes more after the loop has rested, at each of ``cold.RESTS_S``; empty
            if that makes no difference. ``cold.CARRIED`` of it is taken by the turn after it, too.
        model_cold_s: what a query that goes to the model takes more in the gateway, by how long no
            other did, at the same rests.
        worker_cold_s: what a batch takes more in a worker that has rested, at the same.
        hop_wait_s: what a batch waits on its way to the model and back, beside all CPU, less the
            work that comes after its answer; as quantiles at even steps from 0 to 1.
        standing_cores: what the processes use when nobody asks, in cores.
        transport_s: time between a client and the gateway's loop, and what the machine adds, less
            the loop's work that comes after an answer; as quantiles at even steps from 0 to 1.
        paces_s: (queries a second, how much longer that takes at this pace), rising; empty if the
            pace makes no difference. The machine and who asks are warmer where more is asked.
        key_bytes: of a table's key, on average.
        value_bytes: of a table's answer, on average.
        cached_bytes: of an entry of the cache, beside its overhead.
        build_key_s: CPU of writing one key into a new table, the model apart.
        replica_bytes: memory of one worker process; 0 where the model is in the gateway.
    """

    law: LatencyLaw
    on_loop: bool = False
    turn_s: Seconds = 12e-6
    table_s: Seconds = 22e-6
    cache_s: Seconds = 20e-6
    model_s: Seconds = 24e-6
    hop_s: Seconds = 30e-6
    worker_s: Seconds = 60e-6
    cold_s: tuple[float, ...] = ()
    model_cold_s: tuple[float, ...] = ()
    worker_cold_s: tuple[float, ...] = ()
    hop_wait_s: tuple[float, ...] = (0.0,)
    standing_cores: Seconds = 0.01
    transport_s: tuple[float, ...] = (50e-6, 80e-6, 100e-6, 150e-6, 400e-6)
    paces_s: tuple[tuple[float, float], ...] = ()
    key_bytes: float = 12.0
    value_bytes: float = 24.0
    cached_bytes: float = 64.0
    build_key_s: Seconds = 3e-6
    replica_bytes: float = 90e6

    @property
    def entry_bytes(self) -> float:
        """What one answer takes in the cache."""
        return ENTRY_BYTES + self.cached_bytes

    def table_bytes(self, keys: int) -> int:
        """Returns the size of a table's file; as much is in memory once it was read."""
        return table_bytes(keys, self.key_bytes, self.value_bytes)

    def rescored_s(self, keys: int) -> float:
        """Returns the CPU seconds of scoring so many keys and writing them into a new table."""
        batches = math.ceil(keys / BUILD_BATCH)
        return batches * self.law.a_s + keys * (self.law.b_s + self.build_key_s)

    def with_build(self, keys: int, cpu_s: float) -> Costs:
        """Returns the costs by which scoring so many keys takes what it took.

        Args:
            keys: of the table that was built, 1 or more.
            cpu_s: seconds of a core that building it took, the model included.

        Example:
            >>> costs = Costs(law=LatencyLaw(a_s=1e-5, b_s=1e-6)).with_build(1_000_000, 7.0)
            >>> round(costs.rescored_s(1_000_000), 3), round(costs.rescored_s(2_000_000), 2)
            (7.0, 14.0)
        """
        model_s = self.rescored_s(keys) - keys * self.build_key_s
        return msgspec.structs.replace(self, build_key_s=max(0.0, cpu_s - model_s) / keys)


BUILD_BATCH = 8192
"""A table is scored in batches of so many keys."""


def table_bytes(keys: int, key_bytes: float, value_bytes: float) -> int:
    """Returns the size of an LMDB file of so many keys, appended in order, so that pages are full.

    Each node lies at an even place; inner pages hold a key and a place for each page below.

    Example:
        >>> table_bytes(1, 8, 8), table_bytes(1_000_000, 8, 8)
        (12288, 26390528)
    """
    if keys <= 0:
        return 0
    node = _NODE_BYTES + _even(key_bytes + value_bytes)
    each = max(1, int(_PAGE_USED // node))
    # A node that is cut anyway is as likely to end anywhere in the page.
    pages = level = math.ceil(keys / each)
    inner = max(2, int(_PAGE_USED // (_NODE_BYTES + _even(key_bytes))))
    while level > 1:
        level = math.ceil(level / inner)
        pages += level
    return (pages + _FEWEST_PAGES) * _PAGE_BYTES


def _even(size: float) -> float:
    return 2.0 * math.ceil(size / 2.0)
