"""What a rest costs: a loop that has slept finds caches cold and its core asleep.

A server that is asked seldom takes several times the CPU for each query of one that is asked all
the time. How much more grows with the rest before, steeply at first, and is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tidemill.models.signature import Array

RESTS_S = (1e-4, 4e-4, 1.6e-3, 6.4e-3, 25.6e-3, 102.4e-3)
"""Rests at which the stretch of work is told; between them it is linear in the rest's logarithm."""

_FACTOR = RESTS_S[1] / RESTS_S[0]


def ramps(rests_s: Array) -> Array:
    """Returns how far each rest is up the way to each of ``RESTS_S`` from the one before.

    Args:
        rests_s: in seconds; (n,).

    Returns:
        Shares from 0 to 1; (n, rests).

    Example:
        >>> ramps(np.array([0.0, 2e-4, 1.0])).round(3).tolist()[1]
        [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    rests_s = np.asarray(rests_s, np.float64)
    starts = np.asarray(RESTS_S[:-1])
    logs = np.log(np.maximum(rests_s, RESTS_S[0] / 2.0))[:, None]
    later = np.clip((logs - np.log(starts)) / math.log(_FACTOR), 0.0, 1.0)
    return np.column_stack([np.clip(rests_s / RESTS_S[0], 0.0, 1.0), later])


class Stretch:
    """By what work is stretched after a rest.

    Args:
        cold: the stretch at each of ``RESTS_S``, 1 or more and rising; empty for none.
    """

    def __init__(self, cold: Sequence[float]) -> None:
        self._cold = (1.0, *cold)
        self._last = len(cold)

    def after(self, rest_s: float) -> float:
        """Returns the stretch; 1 after no rest.

        Example:
            >>> stretch = Stretch((3.0, 4.0, 5.0, 6.0, 7.0, 8.0))
            >>> [round(stretch.after(rest_s), 3) for rest_s in (0.0, 5e-5, 2e-4, 9.0)]
            [1.0, 2.0, 3.5, 8.0]
        """
        cold, shortest_s = self._cold, RESTS_S[0]
        if not self._last or rest_s <= 0.0:
            return 1.0
        if rest_s <= shortest_s:
            return 1.0 + (cold[1] - 1.0) * rest_s / shortest_s
        steps = math.log(rest_s / shortest_s, _FACTOR)
        at = int(steps) + 1
        if at >= self._last:
            return cold[-1]
        return cold[at] + (cold[at + 1] - cold[at]) * (steps - at + 1)

    def share(self, rest_s: float) -> float:
        """Returns how cold it is after a rest: 0 after none, 1 after the longest that was measured.

        Example:
            >>> Stretch((3.0, 4.0, 5.0, 6.0, 7.0, 9.0)).share(5e-5)
            0.125
        """
        most = self._cold[-1] - 1.0
        return (self.after(rest_s) - 1.0) / most if most > 0.0 else 0.0
