"""The record of a workload; see ``sketch`` for how it comes about."""

from __future__ import annotations

import msgspec

from tidemill.planning.traffic import Traffic


class HeavyKey(msgspec.Struct, frozen=True, kw_only=True):
    """One of the most frequent keys: as text, and its share of the requests."""

    key: str
    share: float


class WorkloadProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests of one application arrive, and how they share their keys.

    Args:
        requests: how many were seen.
        duration_s: from the first to the last.
        rate_rps: requests a second: (requests - 1) / duration_s.
        cv2: the squared coefficient of variation of the gaps between them, variance / mean²; 1 for
            a Poisson process, 0 for a clock, more where they come in bursts.
        peak_to_mean: the fullest window over the average one; windows hold 100 requests on average,
            or there are eight of them.
        window_s: the length of those windows.
        cardinality: distinct keys; exact up to ``exact_keys``, then HyperLogLog's estimate (0.8 %).
        top_share: the share of requests of the 1, 10, 100, 1,000 and 10,000 most frequent keys.
        gini: of the keys' shares: 0 if all are asked alike, towards 1 if one is asked alone.
        zipf_exponent: s of the likeliest Zipf law, share of rank r ∝ r^-s, for the ranks up to
            10,000.
        new_key_rate: of the later half of the requests, the share whose key nobody had asked
            before.
        reuse: the share of requests that a cache of the 100, 1,000 and 10,000 keys used last would
            have answered.
        head: (k, share of the k most frequent keys), k rising to the cardinality.
        cache: (entries, hit rate), entries rising.
        head_later: (k, share of the later half's requests that a table of the k most frequent keys
            of the earlier half answers), k rising to the earlier half's keys.
        cache_later: (entries, hit rate in the later half), as caches are that have been filled.
        heavy: the most frequent keys.
        exact: shares, Gini and reuse were counted; else those beyond the head are estimated from a
            sample of the keys.
        sampled: the part of the keys that reuse was measured on.
        skipped: rows left out since they had no time, lacked a column of the key, or could not be
            read.
        reordered: rows that came before the one before them.
    """

    requests: int
    duration_s: float
    rate_rps: float
    cv2: float
    peak_to_mean: float
    window_s: float
    cardinality: int
    top_share: dict[str, float]
    gini: float
    zipf_exponent: float
    new_key_rate: float
    reuse: dict[str, float]
    head: tuple[tuple[int, float], ...]
    cache: tuple[tuple[int, float], ...]
    head_later: tuple[tuple[int, float], ...] = ()
    cache_later: tuple[tuple[int, float], ...] = ()
    heavy: tuple[HeavyKey, ...] = ()
    exact: bool = True
    sampled: float = 1.0
    skipped: int = 0
    reordered: int = 0

    def traffic(self) -> Traffic:
        """Returns what a plan must know of it: what tables and caches of the past answer later.

        Which keys were the most frequent is partly chance, so that those that were carry less
        afterwards; and a cache that is new hits less than one that has been filled. What keys carry
        that came up in the later half, nobody has seen: a table that has them, too, is taken to be
        asked for each of them once in as long a time.
        """
        seen_ahead = self.head_later[-1][1] if self.head_later else 1.0
        return Traffic(
            rate_rps=self.rate_rps,
            cv2=self.cv2,
            peak_to_mean=max(1.0, self.peak_to_mean),
            cardinality=max(1, self.cardinality),
            top=self.head_later or self.head,
            reuse=self.cache_later or self.cache,
            new_keys=self.new_key_rate,
            ahead=min(1.0, seen_ahead + self.new_key_rate),
        )
