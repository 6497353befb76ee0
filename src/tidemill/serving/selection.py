"""Which version answers a query: a policy decides from its state and a number in [0, 1)."""

from __future__ import annotations

from collections.abc import Sequence


def choose(weights: Sequence[float], draw: float) -> int:
    """Returns the index that a weighted split gives to a uniform draw in [0, 1).

    What has no weight is never chosen, if anything has one.

    Example:
        >>> choose([0.9, 0.1], 0.5), choose([0.9, 0.1], 0.95)
        (0, 1)
    """
    target = draw * sum(weights)
    last = 0
    for index, weight in enumerate(weights):
        if weight > 0.0:
            last = index
            target -= weight
            if target < 0.0:
                break
    return last  # rounding may leave a little of the target over
