"""The choice: the cheapest alternative that keeps the promise, or the fastest within a budget.

Alternatives that differ by less than the noise are taken as equal, and the simplest of them is
chosen: the model alone; then a table that answers everything, since nothing is computed while
somebody waits; then a table with the model behind it; then what has a cache, which is cold after
each start and each new version. Of two of a kind it is the smaller table, then the smaller cache.
So the choice does not wander with what was measured by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from tidemill.foundation.errors import InvalidInput
from tidemill.planning.alternatives import QUERIES, Alternative, Promise, Study
from tidemill.planning.costs import Costs
from tidemill.planning.explain import explain
from tidemill.planning.prices import Prices
from tidemill.planning.traffic import Traffic

Aim = Literal["cost", "latency"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen, why, and beside what.

    Args:
        chosen: the alternative.
        feasible: it keeps the promise; if none does, the one with the lowest p99 is shown.
        aim: what was minimized.
        reasons: two sentences.
        alternatives: all that were looked at, the chosen one among them.
        traffic: what was planned for.
        costs: what serving takes.
        prices: of CPU, memory and disk.
        promise: what must hold.
        late: inputs for which nothing could be kept.
    """

    chosen: Alternative
    feasible: bool
    aim: Aim
    reasons: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    traffic: Traffic
    costs: Costs
    prices: Prices
    promise: Promise
    late: tuple[str, ...] = ()


def choose(
    traffic: Traffic,
    costs: Costs,
    *,
    prices: Prices = Prices(),  # noqa: B008 - frozen
    promise: Promise = Promise(),  # noqa: B008 - frozen
    aim: Aim = "cost",
    budget_month: float | None = None,
    caches: bool = True,
    late: Sequence[str] = (),
    seed: int = 0,
    queries: int = QUERIES,
    told: Callable[[int, int], None] = lambda _done, _all: None,
) -> Plan:
    """Looks at every alternative and chooses.

    Args:
        traffic: what is asked.
        costs: what serving takes on this machine.
        prices: what that costs.
        promise: what must hold.
        aim: the lowest cost, or the lowest mean latency.
        budget_month: what a month may cost; None for anything.
        caches: whether caches are looked at.
        late: inputs that come with the query and are no part of the key: with one of them neither
            a table nor a cache is looked at.
        seed: of the simulated queries.
        queries: how many are simulated for each alternative.
        told: how many alternatives were looked at, and of how many.

    Raises:
        InvalidInput: the budget is below what anything that keeps the promise costs.
    """
    study = Study(traffic, costs, prices, promise, seed=seed, queries=queries)
    every, found = study.count(caches=caches and not late, tables=not late), []
    for each in study.all(caches=caches and not late, tables=not late):
        found.append(each)
        told(len(found), every)
    kept = [each for each in found if each.feasible]
    if budget_month is not None and kept:
        affordable = [each for each in kept if each.cost_month <= budget_month]
        if not affordable:
            least = min(each.cost_month for each in kept)
            raise InvalidInput(
                f"nothing that keeps the promise costs {budget_month:g} a month or less",
                remedy=f"The cheapest costs {least:.2f}.",
            )
        kept = affordable
    if kept:
        chosen = pick(kept, aim=aim, noise=promise.noise)
    else:
        chosen = min(found, key=lambda each: (each.p99_ms, each.cost_month))
    return Plan(
        chosen=chosen,
        feasible=bool(kept),
        aim=aim,
        reasons=explain(chosen, found, traffic=traffic, promise=promise, aim=aim, late=late),
        alternatives=tuple(found),
        traffic=traffic,
        costs=costs,
        prices=prices,
        promise=promise,
        late=tuple(late),
    )


def pick(alternatives: Sequence[Alternative], *, aim: Aim, noise: float) -> Alternative:
    """Returns the simplest of the best: all that are within the noise of the lowest figure.

    Args:
        alternatives: at least one; all of them keep the promise.
        aim: whether the cost or the mean latency counts.
        noise: the share within which figures are equal.
    """
    lowest = min(figure(each, aim) for each in alternatives)
    equal = [each for each in alternatives if figure(each, aim) <= (1.0 + noise) * lowest]
    return min(equal, key=_complexity)


def settings_of(plan: Plan) -> dict[str, int | float]:
    """Returns the fields of a ``ServingPlan`` by which the chosen alternative is served."""
    chosen = plan.chosen
    settings: dict[str, int | float] = {
        "replicas": chosen.replicas,
        "max_batch": chosen.batch_limit,
        "cache_bytes": round(chosen.cache_entries * plan.costs.entry_bytes),
    }
    if plan.promise.max_age_s is not None:
        settings["cache_ttl_s"] = plan.promise.max_age_s
    return settings


def _complexity(alternative: Alternative) -> tuple[bool, int, int, int, int]:
    """Returns what makes one simpler than another: the lower, the simpler.

    A cache that has been filled answers what a table does; but it is empty after each start and
    each change, and the model must bear that. So a table is taken where both cost the same.
    """
    kind = {"dynamic": 0, "static": 1, "hybrid": 2}
    size = (alternative.head_keys, alternative.cache_entries, alternative.replicas)
    return bool(alternative.cache_entries), kind[alternative.choice], *size


def figure(alternative: Alternative, aim: Aim) -> float:
    """Returns what counts of an alternative: a month's cost, or the mean latency in ms."""
    return alternative.cost_month if aim == "cost" else alternative.mean_ms
