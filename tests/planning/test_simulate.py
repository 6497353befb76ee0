"""The simulation: laws of queues that are known hold in it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.simulate import LAW, Queries, Simulated, draw_queries, serve

FREE = {
    "turn_s": 0.0,
    "table_s": 0.0,
    "cache_s": 0.0,
    "model_s": 0.0,
    "hop_s": 0.0,
    "worker_s": 0.0,
    "transport_s": (0.0,),
}


def run(costs: Costs, *, rate: float = 100.0, n: int = 4000, **more: float) -> Simulated:
    """Simulates with a fixed seed."""
    queries = draw_queries(np.random.default_rng(3), n, rate_rps=rate, cv2=more.pop("cv2", 1.0))
    given_: dict[str, float] = {
        "covered": 0.0,
        "cached": 0.0,
        "replicas": 1,
        "max_batch": 64,
        "slo_s": 10.0,
    }
    served = serve(queries, costs, rng=np.random.default_rng(4), **(given_ | more))  # type: ignore[arg-type]
    return served.simulated


@pytest.mark.parametrize(
    ("replicas", "figures"),
    [
        (2, (0.7142591842680204, 0.8781345760341477, 304.52596505748744, 1.6)),
        (0, (0.5383925475386044, 0.7533752322662703, 167.96954506649755, 1.6)),
    ],
)
def test_what_a_cost_does_has_a_number(replicas: int, figures: tuple[float, ...]) -> None:
    """Costs that are kept were fitted to it: who changes these figures raises ``LAW``, too."""
    n, rests = 2000, tuple(1e-5 * each for each in range(1, 12))
    costs = Costs(
        law=LatencyLaw(a_s=1e-4, b_s=1e-5),
        on_loop=not replicas,
        cold_s=rests,
        model_cold_s=rests,
        worker_cold_s=tuple(2.0 * each for each in rests),
        hop_wait_s=(1e-5,),
        transport_s=(1e-4,),
        paces_s=((10.0, 2e-5), (1000.0, -1e-5)),
    )
    queries = Queries(
        at_s=np.cumsum(np.tile([5e-2, 1e-5, 1e-5, 1e-5, 3e-3], n // 5)),
        fate=(np.arange(n) * 7 % 10) / 10.0,
        key=np.arange(n) % 400,
    )
    served = serve(
        queries, costs, covered=0.1, cached=0.1, replicas=replicas or 1, max_batch=16,
        slo_s=0.01, rng=np.random.default_rng(0),
    ).simulated  # fmt: skip
    found = (served.mean_ms, served.p99_ms, served.cpu_us, served.batch_rows)
    assert (LAW, found) == (4, pytest.approx(figures, rel=1e-6))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_replica_of_batches_of_one_is_an_m_d_1_queue(load: float) -> None:
    """Poisson arrivals, a fixed service: the mean wait is that of Pollaczek and Khinchine."""
    service_s = 0.0005
    costs = Costs(law=LatencyLaw(a_s=0.0, b_s=service_s), **FREE)
    found = run(costs, rate=load / service_s, n=60_000, max_batch=1)
    wait_s = load * service_s / (2.0 * (1.0 - load))
    assert found.mean_ms == pytest.approx(1e3 * (wait_s + service_s), rel=0.05)
    assert found.replicas_busy == pytest.approx(load, rel=0.03)
    assert found.batch_rows == 1.0


def test_what_the_table_answers_costs_what_the_table_costs() -> None:
    """Sources are mixed as they are said to be, and CPU is their sum."""
    law = LatencyLaw(a_s=1e-4, b_s=0.0)
    costs = Costs(law=law, **(FREE | {"table_s": 1e-5, "cache_s": 2e-5, "model_s": 3e-5}))
    found = run(costs, n=20_000, rate=10.0, covered=0.5, cached=0.3)
    expected = 0.5 * 10 + 0.3 * 20 + 0.2 * (30 + 100)
    assert found.cpu_us == pytest.approx(expected, rel=0.05)


@settings(deadline=None, max_examples=12)
@given(
    covered=st.floats(0.0, 1.0),
    more=st.floats(0.0, 1.0),
    on_loop=st.booleans(),
    rate=st.floats(1.0, 3000.0),
)
def test_a_table_that_covers_more_never_costs_more(
    covered: float, more: float, rate: float, *, on_loop: bool
) -> None:
    """Where a look-up is cheaper than the model, so are the queries of a larger table."""
    costs = Costs(law=LatencyLaw(a_s=0.0, b_s=2e-4), on_loop=on_loop)
    small, large = sorted((covered, more))
    few = run(costs, rate=rate, n=800, covered=small)
    many = run(costs, rate=rate, n=800, covered=large)
    assert many.cpu_us <= few.cpu_us * 1.02


def test_batches_grow_with_the_load() -> None:
    """A replica that is busy is given more at once."""
    costs = Costs(law=LatencyLaw(a_s=2e-3, b_s=2e-5))
    sizes = [run(costs, rate=rate).batch_rows for rate in (50.0, 1000.0, 5000.0)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 3.0 * sizes[0]


def test_a_second_replica_shortens_the_wait() -> None:
    """The same load on two replicas is answered sooner."""
    costs = Costs(law=LatencyLaw(a_s=1e-3, b_s=1e-3))
    one, two = (run(costs, rate=800.0, replicas=count) for count in (1, 2))
    assert two.p99_ms < one.p99_ms


def test_more_than_can_be_borne_breaks_the_promise() -> None:
    """Beyond the capacity queries are given up, and the p99 is over the SLO."""
    costs = Costs(law=LatencyLaw(a_s=0.0, b_s=0.01))
    found = run(costs, rate=500.0, slo_s=0.1)
    assert found.missed > 0.5
    assert found.p99_ms > 100.0


def test_bursts_wait_longer() -> None:
    """The same rate in bursts has a longer tail."""
    costs = Costs(law=LatencyLaw(a_s=0.0, b_s=1e-3))
    even, bursty = (run(costs, rate=500.0, cv2=cv2, max_batch=1) for cv2 in (0.0, 8.0))
    assert bursty.p99_ms > 2.0 * even.p99_ms


def test_the_same_seed_is_the_same_result() -> None:
    """Nothing is drawn but from the generators that are given."""
    costs = Costs(law=LatencyLaw(a_s=1e-3, b_s=1e-4, strays=(0.5, 1.0, 4.0)))
    assert run(costs) == run(costs)


def test_an_alternative_takes_less_than_a_second() -> None:
    """What one alternative simulates is done in a second, on a machine that does other things."""
    costs = Costs(law=LatencyLaw(a_s=1e-3, b_s=1e-4))
    began = time.process_time()
    run(costs, rate=400.0, n=12_000)
    assert time.process_time() - began < 1.0
