"""The measures are those of the reference implementations, and distances where they say so."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from tidemill.data.drift.measures import (
    MEASURES,
    ORDERED,
    PSI_FLOOR,
    Bins,
    compare,
    compare_counts,
    ks_distance,
    wasserstein_distance,
)
from tidemill.foundation.errors import InvalidInput

numbers = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.integers(-3, 3).map(float)), min_size=1, max_size=60
)
counts = st.lists(st.integers(0, 1000), min_size=5, max_size=5).filter(any)


@given(numbers, numbers)
def test_samples_are_measured_as_scipy_does(first: list[float], second: list[float]) -> None:
    """KS and Wasserstein of raw samples, with and without ties, equal SciPy's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SciPy, about its probability, on one or two numbers
        theirs = stats.ks_2samp(first, second, method="asymp").statistic
    assert ks_distance(first, second) == pytest.approx(theirs, abs=1e-12)
    expected = stats.wasserstein_distance(first, second)
    assert wasserstein_distance(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(numbers, numbers)
def test_counts_of_numbers_are_the_samples(first: list[float], second: list[float]) -> None:
    """Counted numbers give the KS and Wasserstein distance of the samples they count."""
    one, two = Counter(first), Counter(second)
    assert compare(one, two, "ks") == pytest.approx(ks_distance(first, second), abs=1e-9)
    assert compare(one, two, "wasserstein") == pytest.approx(
        wasserstein_distance(first, second), rel=1e-9, abs=1e-9
    )


@given(counts, counts)
def test_jensen_shannon_is_scipys_squared(first: list[int], second: list[int]) -> None:
    """SciPy gives the distance; the divergence that TFDV gives is its square, to base 2."""
    expected = jensenshannon(first, second, base=2) ** 2
    expected = 0.0 if math.isnan(expected) else expected
    assert compare_counts(first, second, "jensen_shannon") == pytest.approx(expected, abs=1e-9)


@given(counts, counts)
def test_shares_by_their_formulas(first: list[int], second: list[int]) -> None:
    """L-infinity, total variation and PSI are what their definitions say, term by term."""
    p = [each / sum(first) for each in first]
    q = [each / sum(second) for each in second]
    pairs = list(zip(p, q, strict=True))
    assert compare_counts(first, second, "l_infinity") == pytest.approx(
        max(abs(a - b) for a, b in pairs)
    )
    assert compare_counts(first, second, "total_variation") == pytest.approx(
        sum(abs(a - b) for a, b in pairs) / 2
    )
    floored = [(max(a, PSI_FLOOR), max(b, PSI_FLOOR)) for a, b in pairs]
    assert compare_counts(first, second, "psi") == pytest.approx(
        sum((b - a) * math.log(b / a) for a, b in floored)
    )


@given(counts, counts, st.sampled_from(MEASURES))
def test_a_distance_is_symmetric_and_zero_for_equals(
    first: list[int], second: list[int], measure: str
) -> None:
    """Over the same bins every measure is 0 for equals, never negative, and the same both ways."""
    one, two = dict(enumerate(first)), dict(enumerate(second))
    assert compare(one, one, measure) == pytest.approx(0, abs=1e-12)
    there, back = compare(one, two, measure), compare(two, one, measure)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-9, abs=1e-12)
    bounded = {"l_infinity", "total_variation", "jensen_shannon", "ks"}
    assert measure not in bounded or there <= 1


def test_values_that_only_one_side_has_count() -> None:
    """Shares are taken over the values of both, as TFDV takes its L-infinity norm."""
    assert compare({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 2}, "l_infinity") == 0.5
    assert compare({"a": 1}, {"b": 1}, "jensen_shannon") == 1.0


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8))
def test_cutting_a_bin_changes_nothing(count: list[int]) -> None:
    """The same even spread, told in finer bins, is at distance 0 by every measure."""
    edges = np.arange(len(count) + 1.0)
    coarse = Bins.of(edges, count)
    fine = Bins.of(np.arange(2 * len(count) + 1) / 2, np.repeat(np.array(count) / 2, 2))
    for measure in MEASURES:
        assert compare(coarse, fine, measure) == pytest.approx(0, abs=1e-12), measure


@given(st.floats(0.01, 5), st.floats(0.5, 3))
def test_a_shift_of_an_even_spread_is_its_wasserstein_distance(shift: float, width: float) -> None:
    """What moves as a whole by a distance is that distance away, also across crossing lines."""
    one = Bins.of([0, width], [10])
    assert compare(one, Bins.of([shift, shift + width], [3]), "wasserstein") == pytest.approx(shift)
    wider = Bins.of([-width, 2 * width], [10])  # F and G cross in the middle of the bin
    middles = (np.arange(30000) + 0.5) / 30000
    expected = wasserstein_distance(middles * width, middles * 3 * width - width)
    assert compare(one, wider, "wasserstein") == pytest.approx(expected, rel=1e-3)


def test_points_and_open_ends_are_bins() -> None:
    """A bin of one number is compared as that number; what is beyond the edges is kept together."""
    one = Bins.of([0, 0, 1], [50, 50])
    assert compare(one, Bins.of([0, 0, 1], [60, 40]), "ks") == pytest.approx(0.1)
    assert compare(one, Bins.of([0, 0, 1], [60, 40]), "l_infinity") == pytest.approx(0.1)
    assert compare(one, Bins.of([0, 1], [1]), "total_variation") == pytest.approx(0.5)
    open_ = Bins.of([-math.inf, 0, 1, math.inf], [1, 8, 1])
    assert compare(open_, open_, "jensen_shannon") == 0
    assert compare(one, Bins.of([5, 6], [1]), "l_infinity") == 1.0
    with pytest.raises(InvalidInput, match="infinity"):
        compare(open_, open_, "wasserstein")


@pytest.mark.parametrize("measure", MEASURES)
def test_numbers_in_bins_are_compared_by_every_measure(measure: str) -> None:
    """No comparator is silently 0 for numbers."""
    one, two = Bins.of([0, 1, 2, 3], [90, 5, 5]), Bins.of([0, 1, 2, 3], [5, 5, 90])
    assert compare(one, two, measure) > 0.4


def test_what_cannot_be_compared_is_an_error() -> None:
    """Nothing, negative counts, names in order, NaN and unknown measures are refused by name."""
    for measure in MEASURES:
        with pytest.raises(InvalidInput, match="nothing"):
            compare({}, {1: 1}, measure)
    for measure in ORDERED:
        with pytest.raises(InvalidInput, match="order"):
            compare({"a": 1}, {"b": 1}, measure)
    with pytest.raises(InvalidInput, match="negative"):
        compare({"a": -1, "b": 2}, {"b": 1}, "psi")
    with pytest.raises(InvalidInput, match="no measure"):
        compare({"a": 1}, {"b": 1}, "euclid")
    with pytest.raises(InvalidInput, match="counts of values"):
        compare({"a": 1}, Bins.of([0, 1], [1]), "psi")
    with pytest.raises(InvalidInput, match="edges"):
        Bins.of([1, 0], [1])
    with pytest.raises(InvalidInput, match="NaN"):
        ks_distance([1.0, math.nan], [1.0])
    with pytest.raises(InvalidInput, match="empty"):
        wasserstein_distance([], [1.0])
    with pytest.raises(InvalidInput, match="infinity"):
        wasserstein_distance([math.inf], [1.0])


@pytest.mark.parametrize("measure", [each for each in MEASURES if each != "wasserstein"])
@pytest.mark.parametrize(
    "edges", [[-5e-324, 0.0, 1.0], [0.0, 5e-324, 1e-323], [-1.7e308, 0, 1.7e308]]
)
def test_the_narrowest_and_the_widest_bins_are_bins(measure: str, edges: list[float]) -> None:
    """A bin that is one float wide, or wider than the largest float, is compared as any other."""
    assert compare(Bins.of(edges, [5, 5]), Bins.of(edges, [5, 5]), measure) == 0
    halves = Bins.of([edges[0], edges[2]], [1])
    assert compare(Bins.of(edges, [1, 3]), halves, measure) > 0
