"""A cache that helps nobody costs next to nothing, and one that helps somebody is not touched."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable
from itertools import accumulate

import pytest

from tidemill.serving.cache import ENTRY_BYTES, Cache
from tidemill.serving.sampling import LEAST_ENTRIES, SHARE, Sampling

KEY_BYTES = 8
POPULATION = 20_000


def cache_of(entries: int) -> Cache[str]:
    """A cache that holds so many of our entries."""
    return Cache(entries * (ENTRY_BYTES + 2 * KEY_BYTES), None)


def key(number: int) -> bytes:
    """A key like no other number's; its hash is the same in every run."""
    return FixedHash(number.to_bytes(KEY_BYTES, "little"))


class FixedHash(bytes):
    """Bytes whose hash needs no luck: a process draws the seed of its own."""

    __slots__ = ()

    def __hash__(self) -> int:
        return (int.from_bytes(self, "little") * 0x9E3779B97F4A7C15) >> 20 & 0xFFFFFFFF


def ask(cache: Cache[str], keys: Iterable[bytes]) -> tuple[int, int]:
    """Asks as the server does; returns how many were found, and how many were looked up."""
    hits = looked = 0
    for each in keys:
        if cache.takes(each):
            looked += 1
            if cache.get(each, now=0.0) is not None:
                hits += 1
            else:
                cache.put(each, "answer", nbytes=KEY_BYTES, now=0.0)
    return hits, looked


def plain_hits(keys: Iterable[bytes], entries: int) -> int:
    """What the plainest cache of so many entries finds."""
    kept: OrderedDict[bytes, None] = OrderedDict()
    hits = 0
    for each in keys:
        if each in kept:
            kept.move_to_end(each)
            hits += 1
        else:
            kept[each] = None
            if len(kept) > entries:
                kept.popitem(last=False)
    return hits


def zipf(exponent: float, count: int) -> list[bytes]:
    """Queries of which the n-th most frequent key's share falls as 1 / n ** exponent."""
    weights = list(accumulate(1 / rank**exponent for rank in range(1, POPULATION + 1)))
    drawn = random.Random(1).choices(range(POPULATION), cum_weights=weights, k=count)
    keys = {number: key(number) for number in set(drawn)}
    return [keys[number] for number in drawn]


@pytest.mark.parametrize("entries", [100, 1000])
@pytest.mark.parametrize("exponent", [0.5, 0.7, 0.9, 1.1])
def test_where_a_cache_helps_it_helps_as_much(exponent: float, entries: int) -> None:
    """On skewed traffic it finds what the plainest cache finds: to 1% where that finds 5%."""
    trace = zipf(exponent, 60_000)
    plain = plain_hits(trace, entries) / len(trace)
    found = ask(cache_of(entries), trace)[0] / len(trace)
    assert found >= plain - (0.01 if plain >= 0.05 else 0.03)


def test_where_nothing_comes_again_few_keys_cost_anything() -> None:
    """Of keys that never come again an eighth is looked up, and a sixteenth of the room is used."""
    cache = cache_of(500)
    _, looked = ask(cache, map(key, range(100_000)))
    assert looked <= 100_000 / 8
    assert cache.resting
    assert cache.size_bytes <= cache.capacity_bytes / SHARE


def test_it_wakes_up_when_keys_come_again() -> None:
    """After a long useless time, keys that go round are all found after a few rounds."""
    cache = cache_of(1000)
    ask(cache, map(key, range(100_000, 150_000)))
    assert cache.resting
    rounds = [key(number) for number in range(500)]
    ask(cache, rounds * 20)
    assert ask(cache, rounds * 2) == (1000, 1000)


def test_a_rest_ends_though_the_sample_tells_nothing() -> None:
    """One frequent key that the sample lacks is found again after the rest, which is bounded."""
    cache = cache_of(200)
    ask(cache, map(key, range(10_000)))
    assert cache.resting
    frequent = next(each for each in map(key, range(10_000, 10_100)) if not cache.keeps(each))
    others = iter(range(20_000, 10**9))
    for _ in range(60_000):
        ask(cache, [frequent, key(next(others))])
        if not cache.resting:
            break
    assert not cache.resting
    mixed = [each for _ in range(4000) for each in (frequent, key(next(others)))]
    assert ask(cache, mixed)[0] >= 3999


def test_one_that_holds_few_entries_never_rests() -> None:
    """Where a sample would tell nothing, every key is taken."""
    cache = cache_of(LEAST_ENTRIES - 1)
    assert ask(cache, map(key, range(20_000))) == (0, 20_000)


def test_one_that_is_not_full_is_not_judged() -> None:
    """While nothing had to go, that nothing came again says nothing."""
    state = Sampling()
    for _ in range(100):
        state = state.after(1024, 0, full=False)
    assert state.share == 1
    assert state.after(1024, 0, full=True).share == 1


def test_a_rest_is_no_longer_for_the_time_in_which_it_helped() -> None:
    """One that found nearly everything for hours does not rest for hours after one scan.

    Not even where all that is asked then are keys that the sample lacks.
    """
    cache = cache_of(5000)
    hot = [key(number) for number in range(1, 8)]
    ask(cache, hot * 40_000)
    ask(cache, map(key, range(10_000, 24_000)))
    assert cache.resting
    lacking = [each for each in hot if not cache.keeps(each)][:3]
    assert len(lacking) == 3
    ask(cache, lacking * (SHARE * 20_000 // 3))
    assert not cache.resting
    assert ask(cache, lacking) == (3, 3)
