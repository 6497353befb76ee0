"""The choice: laws that hold whatever the numbers are, and cases whose answer is known."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.foundation.errors import InvalidInput
from tidemill.planning.alternatives import Alternative, Promise, Study, head_sizes, refresh_every
from tidemill.planning.choose import Plan, choose, pick
from tidemill.planning.costs import Costs
from tidemill.planning.explain import explain
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import Prices
from tidemill.planning.traffic import Traffic, zipf_traffic

SLOW = Costs(law=LatencyLaw(a_s=1e-3, b_s=5e-4))
FEW = 200


def decided(
    traffic: Traffic,
    *,
    costs: Costs = SLOW,
    prices: Prices = Prices(),  # noqa: B008
    promise: Promise = Promise(),  # noqa: B008
    noise: float = 0.05,
) -> Alternative:
    """The choice among alternatives without a cache, from a short simulation."""
    study = Study(traffic, costs, prices, promise, queries=FEW)
    kept = [each for each in study.all(caches=False) if each.feasible]
    return pick(kept, aim="cost", noise=noise)


RATES = st.floats(0.1, 300.0)
SIZES = st.integers(10, 10**7)
EXPONENTS = st.floats(0.0, 1.5)
FACTORS = st.floats(1.0, 1000.0)


@settings(deadline=None, max_examples=8)
@given(rate=RATES, size=SIZES, exponent=EXPONENTS, factor=FACTORS)
def test_dearer_memory_never_buys_a_larger_table(
    rate: float, size: int, exponent: float, factor: float
) -> None:
    """Of two prices of memory, the higher one has the smaller table."""
    traffic = zipf_traffic(rate, size, exponent)
    cheap = decided(traffic, prices=Prices(memory_gb_month=1.0))
    dear = decided(traffic, prices=Prices(memory_gb_month=factor))
    assert dear.table_bytes <= cheap.table_bytes


@settings(deadline=None, max_examples=8)
@given(rate=RATES, size=SIZES, exponent=EXPONENTS, factor=FACTORS)
def test_more_frequent_changes_never_make_a_larger_table(
    rate: float, size: int, exponent: float, factor: float
) -> None:
    """What must be scored again more often is worth it for fewer keys."""
    traffic = zipf_traffic(rate, size, exponent)
    seldom = decided(traffic, promise=Promise(refresh_s=1e6))
    often = decided(traffic, promise=Promise(refresh_s=1e6 / factor))
    assert often.head_keys <= seldom.head_keys


@settings(deadline=None, max_examples=8)
@given(rate=RATES, size=SIZES, exponent=EXPONENTS, more=st.floats(0.0, 1.0))
def test_traffic_that_is_more_peaked_never_costs_more(
    rate: float, size: int, exponent: float, more: float
) -> None:
    """The same rate on fewer of the keys is never dearer, up to what the simulation strays."""
    flat = decided(zipf_traffic(rate, size, exponent), noise=0.0)
    peaked = decided(zipf_traffic(rate, size, exponent + more), noise=0.0)
    assert peaked.cost_month <= 1.02 * flat.cost_month


@settings(deadline=None, max_examples=8)
@given(rate=RATES, size=SIZES, exponent=EXPONENTS, factor=FACTORS)
def test_a_dearer_model_never_has_a_smaller_table(
    rate: float, size: int, exponent: float, factor: float
) -> None:
    """Built once, a table spares the more, the more a prediction costs."""
    traffic = zipf_traffic(rate, size, exponent)
    promise = Promise(slo_ms=1e6)
    cheap = Costs(law=LatencyLaw(a_s=0.0, b_s=1e-6))
    dear = Costs(law=LatencyLaw(a_s=0.0, b_s=1e-6 * factor))
    small = decided(traffic, costs=cheap, promise=promise, noise=0.0)
    large = decided(traffic, costs=dear, promise=promise, noise=0.0)
    assert large.head_keys >= small.head_keys


CASES = {
    "spam: nearly every input is new": (
        zipf_traffic(200.0, 10**6, 0.1, new_keys=0.95),
        Promise(refresh_s=86_400.0),
        "dynamic",
    ),
    "voice: a few phrases are hot, a long tail": (
        zipf_traffic(200.0, 10**6, 1.0, new_keys=0.05),
        Promise(refresh_s=86_400.0),
        "hybrid",
    ),
    "ads: a small set, answers may be old": (
        zipf_traffic(500.0, 1_000, 1.0),
        Promise(refresh_s=60.0, max_age_s=3_600.0),
        "static",
    ),
    "lifetime: many keys that seldom come again": (
        zipf_traffic(5.0, 10**7, 0.2),
        Promise(refresh_s=3_600.0),
        "dynamic",
    ),
    "divisions: few keys": (zipf_traffic(50.0, 200, 0.5), Promise(refresh_s=86_400.0), "static"),
}


@pytest.mark.parametrize("case", CASES)
def test_known_cases(case: str) -> None:
    """What theory says of the classic cases is chosen, and said."""
    traffic, promise, expected = CASES[case]
    plan = choose(traffic, SLOW, promise=promise, queries=2000)
    assert plan.chosen.choice == expected, plan.reasons
    assert plan.feasible
    assert plan.chosen in plan.alternatives
    assert len(plan.reasons) == 2
    assert plan.reasons[0].startswith(expected.title())


def test_a_short_refresh_makes_dynamic() -> None:
    """A set that is scored again faster than it is asked for is not worth a table."""
    traffic = zipf_traffic(5.0, 50_000, 0.5)
    assert decided(traffic, promise=Promise(refresh_s=86_400.0)).choice == "static"
    assert decided(traffic, promise=Promise(refresh_s=60.0)).choice == "dynamic"


def test_a_slow_model_needs_a_table() -> None:
    """Where the model alone cannot keep the promise, a table that leaves it little can."""
    traffic = zipf_traffic(50.0, 1_000, 1.0)
    slow = Costs(law=LatencyLaw(a_s=0.2, b_s=0.01))
    plan = choose(traffic, slow, promise=Promise(slo_ms=50.0), caches=False, queries=2000)
    assert plan.chosen.choice == "static"
    assert "does not keep the promise" in plan.reasons[1]
    assert not next(each for each in plan.alternatives if each.head_keys == 0).feasible


def test_nothing_that_keeps_the_promise_is_said() -> None:
    """The nearest is shown, and why it will not do."""
    slow = Costs(law=LatencyLaw(a_s=0.2, b_s=0.01))
    traffic = zipf_traffic(5.0, 10**6, 0.1, new_keys=0.9)
    plan = choose(traffic, slow, promise=Promise(slo_ms=5.0, most_replicas=1), queries=2000)
    assert not plan.feasible
    assert plan.reasons[1].startswith("Nothing keeps the promise")


def test_the_model_alone_and_behind_a_cache_are_told_apart() -> None:
    """What only a cache makes as cheap as a table is not called the model alone."""
    plan = choose(zipf_traffic(50.0, 200, 0.5), SLOW, queries=FEW)
    model, behind = (each for each in plan.alternatives if not each.head_keys)
    static = msgspec.structs.replace(plan.chosen, cost_month=100.0)
    model = msgspec.structs.replace(model, cost_month=150.0)
    behind = msgspec.structs.replace(behind, cost_month=98.0)
    told = explain(static, (model, behind, static), traffic=plan.traffic, promise=plan.promise)[
        1
    ].split("; ")
    assert told[0].startswith("The model alone would cost 50% more")
    assert told[1].startswith(f"the model behind a cache of {behind.cache_entries:,} answers would")
    assert "2% less" in told[1]
    assert told[1].endswith(", inside the noise, and cold after each start).")
    dearer = msgspec.structs.replace(behind, cost_month=103.0)
    every = (model, dearer, static)
    assert "cold" not in explain(static, every, traffic=plan.traffic, promise=plan.promise)[1]


def test_what_costs_nothing_is_compared_all_the_same() -> None:
    """A CPU, a memory, or everything for nothing: the choice is made, and said without a rate."""
    traffic = zipf_traffic(50.0, 1_000, 1.0)
    for free in ({"cpu_hour": 0.0}, {"memory_gb_month": 0.0, "disk_gb_month": 0.0}):
        plan = choose(traffic, SLOW, prices=Prices(**free), queries=FEW)
        assert len(plan.reasons) == 2
    nothing = Prices(cpu_hour=0.0, memory_gb_month=0.0, disk_gb_month=0.0)
    plan = choose(traffic, SLOW, prices=nothing, queries=FEW)
    assert (plan.chosen.choice, plan.chosen.cost_month) == ("dynamic", 0.0)
    assert "would cost as much (0 a million)" in plan.reasons[1]


def test_the_lowest_latency_within_a_budget() -> None:
    """More money never buys a longer latency; too little is an error that says how much."""
    traffic = zipf_traffic(100.0, 10**5, 0.8)
    promise = Promise(refresh_s=3_600.0)
    cheapest = choose(traffic, SLOW, promise=promise, queries=2000)
    rich = choose(traffic, SLOW, promise=promise, aim="latency", queries=2000)
    tight = choose(
        traffic,
        SLOW,
        promise=promise,
        aim="latency",
        budget_month=cheapest.chosen.cost_month * 1.2,
        queries=2000,
    )
    assert rich.chosen.mean_ms <= tight.chosen.mean_ms <= cheapest.chosen.mean_ms * 1.06
    assert tight.chosen.cost_month <= cheapest.chosen.cost_month * 1.2
    with pytest.raises(InvalidInput, match="nothing that keeps the promise costs"):
        choose(traffic, SLOW, promise=promise, budget_month=1e-6, queries=500)


def test_ties_are_simple() -> None:
    """Inside the noise: the model alone, then static, then hybrid, then a cache."""
    plan: Plan = choose(zipf_traffic(50.0, 200, 0.5), SLOW, queries=500)
    some = {
        "dynamic": next(e for e in plan.alternatives if e.choice == "dynamic"),
        "static": next(e for e in plan.alternatives if e.choice == "static"),
        "hybrid": next(e for e in plan.alternatives if e.choice == "hybrid"),
    }
    level = {name: msgspec.structs.replace(e, cost_month=100.0) for name, e in some.items()}
    level["cached"] = msgspec.structs.replace(level["dynamic"], cache_entries=100)
    for name in ("dynamic", "static", "hybrid", "cached"):
        assert pick([*level.values()], aim="cost", noise=0.05) == level.pop(name)


def test_heads_go_from_nothing_to_everything() -> None:
    """Sizes rise, each clearly larger than the one before."""
    for cardinality in (1, 2, 7, 1_000, 10**7):
        sizes = head_sizes(cardinality)
        assert sizes[0] == 0
        assert sizes[-1] == cardinality
        assert all(b >= 1.4 * a for a, b in pairwise(sizes))


def test_when_a_table_is_scored_again() -> None:
    """After each change, or as seldom as the allowed age lets one."""
    assert refresh_every(Promise(), 5.0) is None
    assert refresh_every(Promise(refresh_s=60.0), 5.0) == 60.0
    assert refresh_every(Promise(max_age_s=60.0), 5.0) == 55.0
    assert refresh_every(Promise(max_age_s=60.0, refresh_s=600.0), 5.0) == 600.0
