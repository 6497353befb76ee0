"""How many distinct values there are, in bounded memory: HyperLogLog over 64-bit hashes.

Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog: the analysis of a near-optimal cardinality
estimation algorithm", 2007; small numbers by linear counting. The standard error is
1.04 / sqrt(2^bits): 1.6 % for 12 bits, 0.8 % for 14.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tidemill.data.mixing import Words


class HyperLogLog:
    """A mergeable count of distinct hashes.

    Args:
        bits: of precision; the memory is 2^bits bytes.

    Example:
        >>> from tidemill.data.mixing import mix
        >>> seen, others = HyperLogLog(12), HyperLogLog(12)
        >>> seen.update(mix(np.arange(100, dtype=np.uint64)))
        >>> others.update(mix(np.arange(50, 150, dtype=np.uint64)))
        >>> seen.merge(others)
        >>> 145 <= seen.estimate() <= 155
        True
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._registers = np.zeros(1 << bits, np.uint8)

    def update(self, hashes: Words) -> None:
        """Takes hashes in; equal ones count once."""
        shift = np.uint64(64 - self._bits)
        np.maximum.at(self._registers, hashes >> shift, self._rank(hashes))

    def merge(self, other: HyperLogLog) -> None:
        """Takes in what another of the same precision has seen."""
        np.maximum(self._registers, other._registers, out=self._registers)

    def estimate(self) -> int:
        """Returns about how many distinct hashes there were."""
        size = len(self._registers)
        harmonic = np.exp2(-self._registers.astype(np.float64)).sum()
        estimate = 0.7213 / (1 + 1.079 / size) * size**2 / float(harmonic)
        empty = int((self._registers == 0).sum())
        if estimate <= 2.5 * size and empty:
            estimate = size * math.log(size / empty)
        return round(estimate)

    def _rank(self, hashes: Words) -> npt.NDArray[np.uint8]:
        """Returns the place of the first set bit among the low ones, from 1."""
        width = 64 - self._bits
        low = hashes & np.uint64((1 << width) - 1)
        return (width + 1 - np.frexp(low.astype(np.float64))[1]).astype(np.uint8)
