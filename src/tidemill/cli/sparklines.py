"""Histograms in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 20


def sparkline(counts: Sequence[float]) -> str:
    """Returns a bar for each of the first 20 counts; what is not 0 is seen, a space is 0.

    Example:
        >>> sparkline([1, 4, 8, 0])
        '▁▄█ '
    """
    shown = counts[:WIDTH]
    largest = max(shown, default=0)
    return "".join(
        _BLOCKS[max(0, round(count / largest * len(_BLOCKS)) - 1)] if count > 0 else " "
        for count in shown
    )
