"""Bits mixed, so that whatever is hashed spreads evenly; the same on every machine."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint64]

_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def mix(words: Words) -> Words:
    """Returns the words with their bits well mixed (the finaliser of splitmix64)."""
    mixed = words.copy()
    mix_in_place(mixed, np.empty_like(mixed))
    return mixed


def mix_in_place(words: Words, scratch: Words) -> None:
    """Mixes the bits of the words; what the scratch, of their size, holds is lost."""
    for shift, factor in _ROUNDS:
        words ^= np.right_shift(words, shift, out=scratch)
        words *= factor
    words ^= np.right_shift(words, np.uint64(31), out=scratch)
