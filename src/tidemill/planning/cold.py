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
    """

    def __init__(self, cold_s: Sequence[float]) -> None:
        self._cold_s = (0.0, *cold_s)
        self._last = len(cold_s)
        self._more_s = 0.0
        self.rests_s: list[float] = []
        """All of them in seconds, one for each piece of work."""

    def after(self, rest_s: float) -> float:
        """Returns the seconds that work takes more that begins now, after a rest.

        Example:
            >>> cold = Cold((2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
            >>> [round(cold.after(rest_s), 2) for rest_s in (4e-4, 4e-4, 0.0)]
            [4.0, 4.8, 0.96]
        """
        self.rests_s.append(rest_s)
        if self._last:
            self._more_s = self._added_s(rest_s) + CARRIED * self._more_s
        return self._more_s

    def _added_s(self, rest_s: float) -> float:
        cold_s, shortest_s = self._cold_s, RESTS_S[0]
        if rest_s <= shortest_s:
            return cold_s[1] * rest_s / shortest_s
        steps = math.log(rest_s / shortest_s, _FACTOR)
        at = int(steps) + 1
        if at >= self._last:
            return cold_s[-1]
        return cold_s[at] + (cold_s[at + 1] - cold_s[at]) * (steps - at + 1)
