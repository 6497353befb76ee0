"""Popularity and caches: what a table and a cache of a size answer."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.planning.traffic import Popularity, Traffic, zipf_traffic

SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6)


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    """Any traffic whose head curve rises."""
    cardinality = draw(st.integers(2, 10**6))
    shares = sorted(draw(SHARES))
    heads = sorted(draw(st.sets(st.integers(1, 10**6), min_size=len(shares), max_size=len(shares))))
    return Traffic(
        rate_rps=draw(st.floats(0.01, 1e5)),
        cardinality=cardinality,
        top=tuple(zip(heads, shares, strict=True)),
        new_keys=draw(st.floats(0.0, 1.0)),
    )


@given(traffics(), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_larger_table_never_answers_less(traffic: Traffic, one: int, other: int) -> None:
    """Coverage rises with the table, from nothing to all that is not new."""
    popularity = Popularity(traffic)
    small, large = sorted((one, other))
    assert popularity.covers(small) <= popularity.covers(large) + 1e-12
    assert popularity.covers(0) == 0.0
    assert popularity.covers(traffic.cardinality) == pytest.approx(1.0 - traffic.new_keys)


@given(traffics(), st.integers(1, 10**5), st.integers(1, 10**5), st.integers(0, 10**5))
def test_a_larger_cache_never_answers_less(
    traffic: Traffic, one: int, other: int, beyond: int
) -> None:
    """Hits rise with the entries, and table and cache together answer no more than there is."""
    popularity = Popularity(traffic)
    small, large = sorted((one, other))
    few, many = (popularity.cached(size, beyond=beyond) for size in (small, large))
    assert 0.0 <= few <= many + 1e-6
    assert many + popularity.covers(beyond) <= 1.0 - traffic.new_keys + 1e-6
    assert popularity.cached(large, beyond=beyond, at_most_s=1.0) <= many + 1e-9
    assert popularity.cached(0) == 0.0


def lru_hits(keys: np.ndarray, entries: int, warm: int) -> float:
    """What a real cache of the least recently used answers, once it is warm."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for at, key in enumerate(keys.tolist()):
        if key in held:
            held.move_to_end(key)
            hits += at >= warm
        else:
            held[key] = None
            if len(held) > entries:
                held.popitem(last=False)
    return hits / (len(keys) - warm)


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("entries", [100, 1000])
@pytest.mark.parametrize("beyond", [0, 50])
def test_it_is_what_a_cache_does(exponent: float, entries: int, beyond: int) -> None:
    """Within two points of a cache that is really filled by such queries, behind a table."""
    ranks = np.arange(1, 20_001)
    shares = ranks**-exponent / (ranks**-exponent).sum()
    keys = np.random.default_rng(1).choice(ranks, 120_000, p=shares)
    tail = keys[keys > beyond]
    real = lru_hits(tail, entries, len(tail) // 2) * len(tail) / len(keys)
    popularity = Popularity(zipf_traffic(100.0, 20_000, exponent))
    assert popularity.cached(entries, beyond=beyond) == pytest.approx(real, abs=0.02)
    assert popularity.covers(beyond) == pytest.approx((keys <= beyond).mean(), abs=0.02)


def test_reuse_that_was_measured_counts_more() -> None:
    """Keys that come in bursts hit a cache more often than their shares say."""
    traffic = zipf_traffic(10.0, 10_000, 0.5)
    independent = Popularity(traffic).cached(100)
    bursty = Traffic(
        rate_rps=10.0, cardinality=10_000, top=traffic.top, reuse=((100, 2.0 * independent),)
    )
    assert Popularity(bursty).cached(100) == pytest.approx(2.0 * independent)


def test_an_age_limit_is_a_limit_of_hits() -> None:
    """One key, once a second, kept for nine seconds: nine of ten are hits."""
    popularity = Popularity(zipf_traffic(1.0, 1, 1.0))
    assert popularity.cached(10, at_most_s=9.0) == pytest.approx(0.9)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_zipf_of_many_keys_is_the_sum_of_its_terms(exponent: float) -> None:
    """The approximation beyond a thousand keys is exact to six digits."""
    ranks = np.arange(1, 300_001, dtype=float)
    terms = ranks**-exponent
    for k, share in zipf_traffic(1.0, 300_000, exponent).top:
        assert share == pytest.approx(terms[:k].sum() / terms.sum(), rel=1e-6, abs=1e-8)
