"""How long to wait before starting again what keeps dying."""

from __future__ import annotations

from dataclasses import dataclass

LONG_LIFE_S = 30.0
"""Who lived this long did not die of its start: its deaths are counted anew."""

_FIRST_S = 0.2
_LONGEST_S = 30.0


@dataclass(slots=True)
class Deaths:
    """The deaths in a row of one thing, and how many there were in all."""

    in_a_row: int = 0
    total: int = 0

    def update(self, lived_s: float) -> float:
        """Counts a death; returns the seconds to wait: none at first, then twice as long each time.

        Example:
            >>> deaths = Deaths()
            >>> [deaths.update(lived_s=1.0) for _ in range(4)]
            [0.0, 0.2, 0.4, 0.8]
        """
        self.total += 1
        self.in_a_row = 1 if lived_s >= LONG_LIFE_S else self.in_a_row + 1
        if self.in_a_row == 1:
            return 0.0
        return float(min(_LONGEST_S, _FIRST_S * 2 ** min(self.in_a_row - 2, 20)))
