"""The law of a model's time: fitted, it says what was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.planning.latency import LatencyLaw, fit_law, spread


@given(
    a_us=st.floats(0.0, 1e5),
    b_us=st.floats(0.1, 1e4),
    sizes=st.lists(st.integers(1, 512), min_size=2, max_size=8, unique=True),
)
def test_a_law_without_noise_is_found(a_us: float, b_us: float, sizes: list[int]) -> None:
    """Batches that follow a line give that line, and no straying."""
    law = LatencyLaw(a_s=a_us * 1e-6, b_s=b_us * 1e-6)
    found = fit_law(sizes, [law.expect(size) for size in sizes])
    for size in sizes:
        assert found.expect(size) == pytest.approx(law.expect(size), rel=1e-6)
    assert found.strays == pytest.approx([1.0] * len(found.strays), rel=1e-6)


def test_one_size_is_all_fixed() -> None:
    """Nothing tells the parts of the law apart where all batches have one size."""
    law = fit_law([4, 4, 4], [0.2, 0.1, 0.3])
    assert (law.a_s, law.b_s) == (0.2, 0.0)


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_neither_part_is_negative(times: list[float], random: object) -> None:
    """Whatever was measured, no batch is expected to take less than no time."""
    rows = [random.randint(1, 64) for _ in times]  # type: ignore[attr-defined]
    law = fit_law(rows, times)
    assert law.a_s >= 0.0
    assert law.b_s >= 0.0
    assert law.expect(1) > 0.0


@pytest.mark.parametrize(("rows", "seconds"), [([], []), ([1], [0.0]), ([1, 2], [0.1])])
def test_nothing_measured_is_no_law(rows: list[int], seconds: list[float]) -> None:
    """No batch, one that took no time, and lists that do not fit are refused."""
    with pytest.raises(ValueError, match="took some time"):
        fit_law(rows, seconds)


def test_draws_have_the_spread_that_was_measured() -> None:
    """Half of the draws are below the median, and none is outside."""
    law = LatencyLaw(a_s=1.0, b_s=0.0, strays=(0.5, 1.0, 3.0))
    drawn = law.draws(np.random.default_rng(0), 10_000)
    assert drawn.min() >= 0.5
    assert drawn.max() <= 3.0
    assert np.median(drawn) == pytest.approx(1.0, abs=0.02)
    assert spread((7.0,), np.array([0.0, 0.5, 1.0])).tolist() == [7.0, 7.0, 7.0]


def test_a_server_that_knows_the_law_expects_the_same() -> None:
    """The batching law is given what was measured."""
    law = LatencyLaw(a_s=0.002, b_s=0.0001, strays=(0.9, 1.0, 1.1))
    assert law.service_time().expect(10) == pytest.approx(law.expect(10))
    assert law.service_time().predict(10) > law.expect(10)
