"""Costs are found again in what servers that obey them take; plans of other mixes are right."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tidemill.planning.alternatives import Promise, Study
from tidemill.planning.cold import CARRIED, WORKER_OWN
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import Prices
from tidemill.planning.simulate import Queries, Served, draw_queries, serve
from tidemill.planning.traffic import zipf_traffic
from tidemill.recipes.rehearsal.comparison import predicted
from tidemill.recipes.rehearsal.fitting import Run, fit_costs
from tidemill.recipes.rehearsal.offering import Offered
from tidemill.recipes.rehearsal.stage import Used

COLD = (5e-5, 6e-5, 8e-5, 1.1e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4, 3.5e-4, 3.8e-4, 4e-4)
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


def run(
    costs: Costs, source: str, pace: float, *, seed: int = 7, queries: int | None = None
) -> Run:
    """Returns what a server that obeys the costs would take."""
    rng, wanted = np.random.default_rng([int(pace), seed]), queries or max(400, int(2 * pace))
    asked = draw_queries(rng, wanted, rate_rps=pace, cv2=1.0)
    found = served(costs, asked, *SHARES[source], seed)
    span_s = float(asked.at_s[-1])
    busy_s = found.simulated.busy * (span_s - float(asked.at_s[0]))
    return Run(
        source,
        pace,
        asked.at_s,
        Offered(found.taken_s, seconds=span_s),
        Used(
            gateway_s=busy_s + costs.standing_cores * span_s,
            worker_s=wanted * found.simulated.cpu_us / 1e6 - busy_s,
        ),
    )


def fitted_to(true: Costs) -> Costs:
    """What is fitted to runs of all sources at all paces by a gateway that has these costs."""
    runs = [
        run(true, source, pace, seed=repeat, queries=max(24, int(pace)))
        for repeat in range(3)
        for pace in (20.0, 75.0, 300.0, 1200.0, 4000.0)
        for source in SHARES
    ]
    assumed = Costs(law=true.law, on_loop=True, standing_cores=0.004, transport_s=(0.0,))
    return fit_costs(assumed, runs)


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


def test_a_stall_is_as_rare_as_it_was() -> None:
    """One query in five hundred that waits for long makes no other one wait, and the 99th of a
    hundred comes out as it is; from runs as short as those of a calibration.
    """
    rng = np.random.default_rng(0)
    waits_s = 2.5e-4 * np.exp(rng.normal(0.0, 0.25, 100_000))
    stalls = rng.random(len(waits_s)) < 0.002
    waits_s[stalls] += rng.uniform(0.005, 0.05, int(stalls.sum()))
    transport_s = np.quantile(waits_s, np.linspace(0.0, 1.0, 4001))
    true = msgspec.structs.replace(GATEWAY, transport_s=tuple(transport_s.tolist()))
    found = fitted_to(true)
    queries = draw_queries(np.random.default_rng(1), 40_000, rate_rps=200.0, cv2=1.0)
    for covered in (0.0, 0.5, 1.0):
        wanted = served(true, queries, covered, 0.0, 8).simulated
        got = served(found, queries, covered, 0.0, 9).simulated
        assert got.p99_ms == pytest.approx(wanted.p99_ms, rel=0.15)
        assert got.p50_ms == pytest.approx(wanted.p50_ms, rel=0.05)


def test_what_a_pace_makes_of_the_way_is_found() -> None:
    """Where the machine is slower for who asks at one pace, plans for that one know, and others."""
    paces_s = ((20.0, 0.0), (75.0, 3e-4), (300.0, 0.0))
    true = msgspec.structs.replace(GATEWAY, paces_s=paces_s)
    runs = [run(true, source, pace) for pace in (20.0, 75.0, 300.0, 1200.0) for source in SHARES]
    assumed = Costs(law=true.law, on_loop=True, standing_cores=0.004, transport_s=(0.0,))
    found = fit_costs(assumed, runs)
    for rate in (20.0, 75.0, 300.0, 3000.0):
        queries = draw_queries(np.random.default_rng(1), 6000, rate_rps=rate, cv2=1.0)
        for covered in (1.0, 0.4):
            wanted = served(true, queries, covered, 0.0, 8).simulated
            got = served(found, queries, covered, 0.0, 9).simulated
            assert got.p50_ms == pytest.approx(wanted.p50_ms, rel=0.1)


def test_a_gateway_that_is_asked_keeps_the_machine_awake_for_its_worker() -> None:
    """A batch costs a worker that rested for long less where a table answered meanwhile; and where
    the whole server rested, as much as it ever did.
    """
    queries = draw_queries(np.random.default_rng(0), 8000, rate_rps=100.0, cv2=1.0)
    seldom = draw_queries(np.random.default_rng(0), 1000, rate_rps=5.0, cv2=1.0)
    costs = msgspec.structs.replace(WORKER, cold_s=(), model_cold_s=())
    warm = msgspec.structs.replace(costs, worker_cold_s=())

    def colder_s(asked: Queries, covered: float) -> float:
        more_us = [served(each, asked, covered, 0.0).simulated.cpu_us for each in (costs, warm)]
        return (more_us[0] - more_us[1]) / (1.0 - covered) / 1e6

    most_s = (1.0 + CARRIED / (1.0 - CARRIED)) * costs.worker_cold_s[-1]
    assert colder_s(seldom, 0.0) > 0.9 * most_s
    behind_s = colder_s(queries, 0.95)
    assert WORKER_OWN * most_s < behind_s < 0.9 * colder_s(seldom, 0.0)


@pytest.mark.parametrize("wakes_s", [0.0, 5e-5])
def test_rests_add_what_latencies_say(wakes_s: float) -> None:
    """Between the paces that were measured, too, where what a rest adds comes all at once: with the
    caches that others emptied meanwhile; nothing before, and no more after.
    """
    cold_s = (0.0, 0.0, 0.0, 0.0, 0.0, 2e-5, 8e-5, 4e-4, 5.5e-4, 5.6e-4, 5.6e-4)
    true = msgspec.structs.replace(
        GATEWAY,
        cold_s=tuple(each + wakes_s for each in cold_s),
        model_cold_s=tuple(0.3 * each for each in cold_s),
    )
    found = fitted_to(true)
    for rate in (40.0, 150.0, 500.0):
        queries = draw_queries(np.random.default_rng(1), 12_000, rate_rps=rate, cv2=1.0)
        for covered in (1.0, 0.5, 0.0):
            wanted = served(true, queries, covered, 0.0, 8).simulated
            got = served(found, queries, covered, 0.0, 9).simulated
            assert got.cpu_us == pytest.approx(wanted.cpu_us, rel=0.04)
            assert got.p50_ms == pytest.approx(wanted.p50_ms, rel=0.07)


def test_the_first_queries_of_a_run_say_nothing() -> None:
    """A client that just began is slow, and those who ask all day are not."""
    paces = (20.0, 75.0, 300.0, 1200.0, 4000.0)
    runs = [run(GATEWAY, source, pace) for pace in paces for source in SHARES]
    slow = []
    for each in runs:
        taken_s = each.offered.taken_s.copy()
        taken_s[:4] += 1e-3
        slow.append(replace(each, offered=replace(each.offered, taken_s=taken_s)))
    assumed = Costs(law=GATEWAY.law, on_loop=True, standing_cores=0.004, transport_s=(0.0,))
    asked = draw_queries(np.random.default_rng(1), 6000, rate_rps=150.0, cv2=1.0)
    found = [served(fit_costs(assumed, each), asked, 0.5, 0.0).simulated for each in (runs, slow)]
    assert found[1].p99_ms == pytest.approx(found[0].p99_ms, rel=0.005)
    assert found[1].p50_ms == pytest.approx(found[0].p50_ms, rel=0.005)


def test_the_last_of_few_queries_is_predicted_as_such() -> None:
    """The p99 of a rehearsal is that of as many queries as it asks, and of many, the plan's."""
    costs = msgspec.structs.replace(GATEWAY, transport_s=(1e-4, 2e-4, 4e-4, 1e-3, 5e-3, 5e-2))
    study = Study(zipf_traffic(50.0, 1000, 1.0), costs, Prices(), Promise())
    planned = study.alternative(100, 0)
    many = predicted(planned, study, 100, queries=20_000)
    assert (many.p50_ms, many.p99_ms) == pytest.approx((planned.p50_ms, planned.p99_ms))
    few = predicted(planned, study, 100, queries=30)
    assert few.p50_ms == pytest.approx(many.p50_ms, rel=0.1)
    drawn = draw_queries(np.random.default_rng(5), 60_000, rate_rps=50.0, cv2=1.0)
    taken_ms = 1e3 * served(costs, drawn, planned.covered, 0.0).taken_s.reshape(-1, 30)
    usual_ms = float(np.median(np.quantile(taken_ms, 0.99, axis=1)))
    assert few.p99_ms == pytest.approx(usual_ms, rel=0.05)
    assert few.p99_ms < 0.97 * many.p99_ms


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
