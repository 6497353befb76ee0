"""What a rest costs: a loop that has slept finds caches cold and its core asleep.

A server that is asked seldom takes several times the CPU for each query of one that is asked all
the time. What a rest adds grows with its length, and is measured. It is added and not multiplied:
after the same rest, a query that is much work pays about as much more as one that is little. One
piece of work does not warm everything: the next one pays some of it, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tidemill.models.signature import Array

RESTS_S = tuple(1e-4 * 2.0**power for power in range(11))
"""From 0.1 to 102.4 ms: rests after which what they cost is told; between them it is linear in the
rest's logarithm.
"""

CARRIED = 0.2
"""So much of what work took more is taken more by the work after it, too: it does not warm all.

With this share, latencies of queries of one source lie nearest to what their rests say; 0.15 and
0.25 are nearly as good, with and without a model.
"""

WORKER_OWN = 0.4
"""So much of what a rest costs a batch in a worker goes by how long that worker rested, the rest by
how long all did: while a gateway answers from a table, the machine stays awake for its worker.

With this share, what a model behind a table of few or many keys takes after a rest of its own is
what it takes where the whole server had rested as long: two measurements gave 0.38 and 0.41.
What a query takes more in the gateway goes by its own rest: there, 0.5 and over 1 were found.
"""

_CARRIES = 4
_FACTOR = RESTS_S[1] / RESTS_S[0]


def ramps(rests_s: Array) -> Array:
    """Returns how far each rest is up the way to each of ``RESTS_S`` from the one before.

    Args:
        rests_s: in seconds; (n,).

    Returns:
        Shares from 0 to 1; (n, rests).

    Example:
        >>> ramps(np.array([0.0, 3e-4, 1.0])).round(3).tolist()[1][:4]
        [1.0, 1.0, 0.585, 0.0]
    """
    rests_s = np.asarray(rests_s, np.float64)
    starts = np.asarray(RESTS_S[:-1])
    logs = np.log(np.maximum(rests_s, RESTS_S[0] / 2.0))[:, None]
    later = np.clip((logs - np.log(starts)) / math.log(_FACTOR), 0.0, 1.0)
    return np.column_stack([np.clip(rests_s / RESTS_S[0], 0.0, 1.0), later])


def counted(rests_s: Array) -> Array:
    """Returns ``ramps`` of rests that follow each other, with what is carried from those before.

    Args:
        rests_s: in seconds; (n,).

    Returns:
        (n, rests).

    Example:
        >>> counted(np.array([1.0, 0.0, 0.0])).round(3).tolist()[1][:2]
        [0.2, 0.2]
    """
    rows = ramps(rests_s)
    found = rows.copy()
    for back in range(1, min(_CARRIES, len(rows) - 1) + 1):
        found[back:] += CARRIED**back * rows[:-back]
    return found


class Cold:
    """What rests cost something that works and rests in turns: the last one, and those before.

    Args:
        cold_s: what work takes more after each of ``RESTS_S``, rising; empty for nothing.
        own: the share of it that goes by the rests of this work; what is left goes by the rests of
            everything, of which this work is a part.
    """

    def __init__(self, cold_s: Sequence[float], own: float = 1.0) -> None:
        self._cold_s = (0.0, *cold_s)
        self._last = len(cold_s)
        self._own = own
        self._more_s = 0.0
        self._rests_s: list[float] = []
        self._all_rests_s: list[float] = []

    def after(self, rest_s: float, all_rest_s: float | None = None) -> float:
        """Returns the seconds that work takes more that begins now, after a rest.

        Args:
            rest_s: since work of this kind ended.
            all_rest_s: since anything ended; None if this is all that is done.

        Example:
            >>> cold = Cold((2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
            >>> [round(cold.after(rest_s), 2) for rest_s in (4e-4, 4e-4, 0.0)]
            [4.0, 4.8, 0.96]
            >>> Cold((2.0, 3.0, 4.0), own=0.25).after(4e-4, 1e-4)
            2.5
        """
        self._rests_s.append(rest_s)
        if self._own < 1.0:
            self._all_rests_s.append(rest_s if all_rest_s is None else all_rest_s)
        if self._last:
            added_s = self._own * self._added_s(rest_s)
            if self._own < 1.0:
                added_s += (1.0 - self._own) * self._added_s(self._all_rests_s[-1])
            self._more_s = added_s + CARRIED * self._more_s
        return self._more_s

    def counts(self) -> Array:
        """Returns how often work was done, then how often after each of ``RESTS_S``."""
        rests = self._own * counted(np.array(self._rests_s))
        if self._own < 1.0:
            rests += (1.0 - self._own) * counted(np.array(self._all_rests_s))
        found: Array = np.append(float(len(self._rests_s)), rests.sum(axis=0))
        return found

    def _added_s(self, rest_s: float) -> float:
        cold_s, shortest_s = self._cold_s, RESTS_S[0]
        if rest_s <= shortest_s:
            return cold_s[1] * rest_s / shortest_s
        steps = math.log(rest_s / shortest_s, _FACTOR)
        at = int(steps) + 1
        if at >= self._last:
            return cold_s[-1]
        return cold_s[at] + (cold_s[at + 1] - cold_s[at]) * (steps - at + 1)
