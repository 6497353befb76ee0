"""Which keys a cache takes: all of them, or one of sixteen while hardly any is asked again."""

from __future__ import annotations

from dataclasses import dataclass, replace

SHARE = 16
"""One of so many keys is taken while the cache rests."""

LEAST_ENTRIES = 64
"""A cache that holds fewer never rests: a sample of it would tell nothing."""

POOR, WORTHWHILE = 0.01, 0.02
"""Below the one share of hits a cache rests, from the other one of its sample on it wakes up."""

WINDOW, SAMPLED_WINDOW = 1024, 256
"""After so many keys looked up it is judged anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The law of what a cache takes, as one state after another; pure.

    A cache that holds as much as it may and hardly ever hits rests: it takes one of ``SHARE``
    keys, by their hash, into as small a part of its room. What these keys would hit there is what
    all of them would hit in all of it (Waldspurger et al., "Efficient MRC Construction with
    SHARDS", 2015), so that it is noticed when keys begin to come again. A few frequent keys may all
    be missing from the sample: hence every rest ends, after ``SHARE`` times as many queries as the
    look took that led to it. A cache that is not full yet is not judged: nothing could come again.

    Args:
        share: one of so many keys is taken.
        filled: it was full at the end of the window before.
        looked: queries since it took all keys and helped nobody.
        rest: how many more queries it rests.

    Example:
        >>> useless = Sampling().after(1024, 0, full=True).after(1024, 3, full=True)
        >>> useless.share, useless.rest
        (16, 32768)
        >>> useless.after(256, 20, full=True).share
        1
    """

    share: int = 1
    filled: bool = False
    looked: int = 0
    rest: int = 0

    @property
    def window(self) -> int:
        """After how many keys looked up ``after`` is due."""
        return WINDOW if self.share == 1 else SAMPLED_WINDOW

    def after(self, asked: int, hits: int, *, full: bool, passed: int = 0) -> Sampling:
        """Returns the next state.

        Args:
            asked: how many keys were looked up since this one began.
            hits: how many of them were found.
            full: what was kept first had to go for room.
            passed: how many more were not looked up, since it rests.
        """
        if self.share > 1:
            rest = self.rest - asked - passed
            woken = hits >= WORTHWHILE * asked or rest <= 0
            return Sampling() if woken else replace(self, rest=rest)
        helps = hits >= POOR * asked
        looked = 0 if helps else self.looked + asked
        if self.filled and not helps:
            return Sampling(share=SHARE, rest=SHARE * looked)
        return Sampling(filled=full, looked=looked)
