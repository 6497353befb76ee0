"""How much one caller may send: a bucket for each that fills steadily and is never over full."""

from __future__ import annotations

from collections.abc import Set as AbstractSet


class Quota:
    """Buckets by name; pure, the caller brings the time.

    Args:
        per_second: how fast a bucket fills.
        capacity: what it holds at most, and at first.

    Example:
        >>> quota = Quota(per_second=1.0, capacity=60)
        >>> quota.take("web", 60, now=0.0), quota.take("web", 1, now=0.5)
        (True, False)
        >>> quota.take("web", 1, now=1.5)
        True
    """

    def __init__(self, per_second: float, capacity: int) -> None:
        self.capacity = capacity
        self._per_second = per_second
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str, n: int, now: float) -> bool:
        """Takes n out of a bucket, all or none; says whether it held so much."""
        level, at = self._levels.get(name, (float(self.capacity), now))
        level = min(float(self.capacity), level + max(0.0, now - at) * self._per_second)
        enough = n <= level
        self._levels[name] = (level - n if enough else level, now)
        return enough

    def keep(self, names: AbstractSet[str]) -> None:
        """Drops every bucket but these."""
        self._levels = {name: each for name, each in self._levels.items() if name in names}
