"""Costs are found again in what servers that obey them take; plans of other mixes are right."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.simulate import Queries, Served, draw_queries, serve
from tidemill.recipes.rehearsal.fitting import Run, fit_costs
from tidemill.recipes.rehearsal.offering import Offered
from tidemill.recipes.rehearsal.stage import Used

COLD = (5e-5, 8e-5, 1.5e-4, 2.5e-4, 3.5e-4, 4e-4)
GATEWAY = Costs(
    law=LatencyLaw(a_s=4e-5, b_s=6e-6),
    on_loop=True,
    turn_s=3e-5,
    table_s=2e-5,
    cache_s=1.5e-5,
    model_s=3e-5,
    cold_s=COLD,
    model_cold_s=tuple(0.5 * each for each in COLD),
    standing_cores=0.004,
    transport_s=(5e-5, 1e-4, 2e-4, 1e-3),
)
WORKER = msgspec.structs.replace(
    GATEWAY,
    law=LatencyLaw(a_s=2e-3, b_s=1e-5),
    on_loop=False,
    worker_s=2e-4,
    worker_cold_s=tuple(2.5 * each for each in COLD),
    hop_wait_s=(0.0, 1e-4, 1e-3),
)
SHARES = {"table": (1.0, 0.0), "cache": (0.0, 1.0), "model": (0.0, 0.0)}


def served(costs: Costs, queries: Queries, covered: float, cached: float, seed: int = 7) -> Served:
    """Serves by one gateway and one replica."""
    return serve(
        queries,
        costs,
        covered=covered,
        cached=cached,
        replicas=1,
        max_batch=64,
        slo_s=2.0,
        rng=np.random.default_rng(seed),
    )


def run(costs: Costs, source: str, pace: float) -> Run:
    """Returns what a server that obeys the costs would take."""
    rng = np.random.default_rng(int(pace))
    queries = draw_queries(rng, max(400, int(2 * pace)), rate_rps=pace, cv2=1.0)
    found = served(costs, queries, *SHARES[source])
    count, span_s = len(queries.at_s), float(queries.at_s[-1])
    busy_s = found.simulated.busy * (span_s - float(queries.at_s[0]))
    return Run(
        source,
        pace,
        queries.at_s,
        Offered(found.taken_s, seconds=span_s),
        Used(
            gateway_s=busy_s + costs.standing_cores * span_s,
            worker_s=count * found.simulated.cpu_us / 1e6 - busy_s,
        ),
    )


@pytest.mark.parametrize("true", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_costs_are_found_again(true: Costs) -> None:
    """CPU and latencies of mixes that were never measured come out near what they are."""
    most = 4000.0 if true.on_loop else 150.0
    runs = [
        run(true, source, min(pace, most) if source == "model" else pace)
        for pace in (20.0, 75.0, 300.0, 1200.0, 4000.0)
        for source in SHARES
    ]
    assumed = Costs(law=true.law, on_loop=true.on_loop, standing_cores=0.004, transport_s=(0.0,))
    found = fit_costs(assumed, runs)
    for rate, covered, cached in [(40.0, 0.5, 0.0), (100.0, 0.3, 0.3), (120.0, 0.0, 0.8)]:
        queries = draw_queries(np.random.default_rng(1), 6000, rate_rps=rate, cv2=1.0)
        wanted = served(true, queries, covered, cached, 8).simulated
        got = served(found, queries, covered, cached, 9).simulated
        assert got.cpu_us == pytest.approx(wanted.cpu_us, rel=0.08)
        assert got.p50_ms == pytest.approx(wanted.p50_ms, rel=0.12)
        assert got.p99_ms == pytest.approx(wanted.p99_ms, rel=0.12)


def test_a_rest_is_dearer_than_none() -> None:
    """The same queries cost more when they come one by one, and where the model is asked by some.

    Without a cost of rests it makes no difference.
    """
    for cold_s, rises in [(COLD, True), ((), False)]:
        costs = msgspec.structs.replace(GATEWAY, cold_s=cold_s, model_cold_s=cold_s, turn_s=0.0)
        slow = draw_queries(np.random.default_rng(0), 2000, rate_rps=20.0, cv2=1.0)
        fast = draw_queries(np.random.default_rng(0), 2000, rate_rps=2000.0, cv2=1.0)
        alone, often = (served(costs, each, 1.0, 0.0).simulated.cpu_us for each in (slow, fast))
        assert (alone > 1.5 * often) is rises
        mixed = served(costs, fast, 0.9, 0.0).simulated.cpu_us
        apart = 0.9 * often + 0.1 * served(costs, fast, 0.0, 0.0).simulated.cpu_us
        assert (mixed > 1.05 * apart) is rises


def test_a_disturbed_pass_is_left_out() -> None:
    """The CPU that something else took in one pass of three is in no figure."""
    paces = (20.0, 75.0, 300.0, 1200.0, 4000.0)
    runs = [run(GATEWAY, source, pace) for pace in paces for source in SHARES]
    beside = [
        replace(each, used=Used(3.0 * each.used.gateway_s, each.used.worker_s)) for each in runs
    ]
    assumed = Costs(law=GATEWAY.law, on_loop=True, standing_cores=0.004, transport_s=(0.0,))
    assert fit_costs(assumed, [*runs, *beside, *runs]) == fit_costs(assumed, [*runs, *runs, *runs])


def test_a_model_that_is_quicker_in_the_worker_costs_what_it_does_there() -> None:
    """A law that was measured in a bad moment does not make every batch dearer."""
    runs = [
        run(WORKER, source, min(pace, 150.0) if source == "model" else pace)
        for pace in (20.0, 75.0, 300.0, 1200.0, 4000.0)
        for source in SHARES
    ]
    slower = msgspec.structs.replace(WORKER.law, a_s=2.0 * WORKER.law.a_s)
    found = fit_costs(Costs(law=slower, standing_cores=0.004, transport_s=(0.0,)), runs)
    queries = draw_queries(np.random.default_rng(1), 6000, rate_rps=60.0, cv2=1.0)
    wanted, got = (served(each, queries, 0.0, 0.0).simulated for each in (WORKER, found))
    assert got.cpu_us == pytest.approx(wanted.cpu_us, rel=0.08)
