"""Tails and adjustments are SciPy's, and no sample is too small for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from tidemill.data.drift.significance import (
    adjusted,
    chi_square,
    exact_two,
    kolmogorov,
    same_cells,
)
from tidemill.foundation.errors import InvalidInput


def test_tails_are_scipys() -> None:
    """Kolmogorov's and chi-square's, from where all is likely to where nothing is."""
    for x in np.linspace(0.001, 8, 900):
        assert kolmogorov(float(x)) == pytest.approx(float(special.kolmogorov(x)), abs=1e-12)
    for freedom in (1, 2, 5, 31, 200, 5000):
        for x in np.linspace(0.01, 6000, 200):
            theirs = float(special.chdtrc(freedom, x))
            assert chi_square(float(x), freedom) == pytest.approx(theirs, abs=1e-11)
    assert kolmogorov(0) == chi_square(0, 3) == 1
    assert chi_square(float("inf"), 3) == 0
    with pytest.raises(InvalidInput):
        chi_square(1, 0)


@given(st.data())
def test_the_exact_test_is_that_of_the_hypergeometric_distribution(data: st.DataObject) -> None:
    """Of shares of any two samples, also none and all."""
    n, m = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    law = stats.hypergeom(n + m, n, a + b)
    theirs = min(1.0, 2 * min(law.cdf(a), law.sf(a - 1)))
    assert exact_two(a, n, b, m) == pytest.approx(theirs, abs=1e-9)


def test_the_exact_test_of_many_rows_ends_soon() -> None:
    """Millions of rows need no millions of terms."""
    assert exact_two(3, 4_000_000, 2, 3_000_000) == pytest.approx(1.0, abs=0.2)
    assert exact_two(0, 4_000_000, 40, 3_000_000) < 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=30)
def test_the_adjustment_is_scipys(chances: list[float]) -> None:
    """Benjamini and Yekutieli's, in the order of what was given."""
    theirs = stats.false_discovery_control(chances, method="by")
    assert adjusted(chances) == pytest.approx(list(theirs), abs=1e-12)


def test_nothing_is_adjusted_to_nothing() -> None:
    """No check, no chance."""
    assert adjusted([]) == []


def test_full_cells_are_tested_as_scipy_tests_them() -> None:
    """Where each cell has enough rows, none is put with another."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(50, 99, 20), rng.integers(40, 80, 20)
    theirs = stats.chi2_contingency([first, second], correction=False).pvalue
    for ordered in (True, False):
        assert same_cells(first, second, ordered=ordered) == pytest.approx(theirs, abs=1e-12)


@given(
    st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any),
    st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any),
    st.booleans(),
)
def test_any_counts_have_a_chance(first: list[int], second: list[int], ordered: bool) -> None:  # noqa: FBT001
    """Between 0 and 1, and the same both ways."""
    chance = same_cells(first, second, ordered=ordered)
    assert 0 <= chance <= 1
    assert same_cells(second, first, ordered=ordered) == pytest.approx(chance, abs=1e-9)
    assert same_cells(first, first, ordered=ordered) == pytest.approx(1, abs=1e-9)


def test_an_empty_sample_has_none() -> None:
    """It is an error, not a pass."""
    with pytest.raises(InvalidInput, match="empty"):
        same_cells([0, 0], [1, 2], ordered=True)
