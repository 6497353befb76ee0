"""What a choice demands of training: when inputs must be known, and how slow a model may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

import msgspec

from tidemill.planning.alternatives import Alternative, Choice, Study
from tidemill.planning.choose import Plan, pick
from tidemill.planning.figures import number

QUERIES = 600
"""So many are simulated for each question of how slow; the answer is good to some ten percent."""

_FACTOR = 100.0
_PARTS = 3
_FASTEST_MS = 0.001
_STEPS = 7
_LOOKS = 3 * (_STEPS + 2)


class Demands(msgspec.Struct, frozen=True, kw_only=True):
    """What must be true of a model, so that it can be served as planned.

    Args:
        at_query: inputs may be known only when a query comes.
        ahead: the inputs of keys in the table must be known when it is scored, and follow from the
            key.
        refreshed_every_s: how often they are read again; None for never.
        row_ms_at_most: what a row may take beside ``batch_ms``, before the promise breaks; None if
            a hundred times as much as the promise, or as the model takes, does not break it.
        same_choice_ms: between which milliseconds a row the same kind of serving is chosen; None
            for no bound within that.
        sentences: the same in words.
    """

    at_query: bool
    ahead: bool
    refreshed_every_s: float | None
    row_ms_at_most: float | None
    same_choice_ms: tuple[float | None, float | None]
    sentences: tuple[str, ...]


def demands(
    plan: Plan, *, seed: int = 0, told: Callable[[int, int], None] = lambda _done, _all: None
) -> Demands:
    """Returns what the chosen alternative demands, by looking at slower and faster models.

    Args:
        plan: with its alternatives.
        seed: of the simulated queries.
        told: how many models were looked at, and of how many.
    """
    chosen, looked = plan.chosen, count(1)

    def looks() -> None:
        told(next(looked), _LOOKS)

    slower, row_ms = _Slower(plan, seed, looks), 1e3 * plan.costs.law.b_s
    slowest_ms = _FACTOR * max(row_ms, plan.promise.slo_ms)
    at_most: float | None = None
    same: tuple[float | None, float | None] = (None, None)
    if plan.feasible:
        at_most = _edge(slower.keeps, row_ms, slowest_ms, otherwise=row_ms)
        if not plan.late:
            same = (
                _edge(slower.chooses_alike, row_ms, _FASTEST_MS),
                _edge(slower.chooses_alike, row_ms, slowest_ms),
            )
    told(_LOOKS, _LOOKS)
    static, dynamic = chosen.choice == "static", chosen.choice == "dynamic"
    return Demands(
        at_query=not static,
        ahead=not dynamic,
        refreshed_every_s=chosen.refresh_every_s,
        row_ms_at_most=at_most,
        same_choice_ms=same,
        sentences=tuple(
            each
            for each in (
                _inputs(chosen),
                _speed(plan, at_most),
                _flips(chosen.choice, same),
            )
            if each
        ),
    )


class _Slower:
    """The plan's question with a model that takes another time for a row.

    Not all alternatives are looked at again: the model alone and the whole table, each with and
    without a cache, what was chosen, and the cheapest tables of a part of the keys.
    """

    def __init__(self, plan: Plan, seed: int, looks: Callable[[], None]) -> None:
        self._plan = plan
        self._seed = seed
        self._looks = looks
        every = plan.traffic.cardinality
        parts = [each for each in plan.alternatives if 0 < each.head_keys < every]
        parts.sort(key=lambda each: (not each.feasible, each.cost_month))
        whole = [each for each in plan.alternatives if each.head_keys in {0, every}]
        self._shapes = {
            (each.head_keys, each.cache_entries) for each in (plan.chosen, *whole, *parts[:_PARTS])
        }

    def keeps(self, row_ms: float) -> bool:
        """Says whether what was chosen keeps the promise."""
        self._looks()
        chosen = self._plan.chosen
        return self._study(row_ms).alternative(chosen.head_keys, chosen.cache_entries).feasible

    def chooses_alike(self, row_ms: float) -> bool:
        """Says whether the same kind of serving is chosen."""
        self._looks()
        plan, study = self._plan, self._study(row_ms)
        found = [study.alternative(*shape) for shape in sorted(self._shapes)]
        kept = [each for each in found if each.feasible]
        if not kept:
            return False
        picked = pick(kept, aim=plan.aim, noise=plan.promise.noise)
        return picked.choice == plan.chosen.choice

    def _study(self, row_ms: float) -> Study:
        plan = self._plan
        law = msgspec.structs.replace(plan.costs.law, b_s=row_ms / 1e3)
        costs = msgspec.structs.replace(plan.costs, law=law)
        return Study(
            plan.traffic, costs, plan.prices, plan.promise, seed=self._seed, queries=QUERIES
        )


def _edge(
    holds: Callable[[float], bool],
    known: float,
    bound: float,
    *,
    otherwise: float | None = None,
) -> float | None:
    """Returns how far towards a bound something holds that holds at a known value; None if all the
    way. Where it does not hold there, as it is looked at here, it is what is given for that.
    """
    known = max(known, _FASTEST_MS)
    if known == bound or holds(bound):
        return None
    if not holds(known):
        return otherwise
    good, bad = math.log(known), math.log(bound)
    for _ in range(_STEPS):
        middle = (good + bad) / 2.0
        if holds(math.exp(middle)):
            good = middle
        else:
            bad = middle
    return math.exp(good)


def _inputs(chosen: Alternative) -> str:
    often = f", at least every {chosen.refresh_every_s:,.0f} s" if chosen.refresh_every_s else ""
    if chosen.choice == "dynamic":
        return "Inputs may be known as late as the query; all of them must come with it."
    table = f"must follow from the key and be known when the table is scored{often}"
    if chosen.choice == "static":
        return (
            f"Every input {table}: train on nothing that is known only when a query comes, and on "
            "values as old as the table's will be."
        )
    return (
        f"The inputs of the {chosen.head_keys:,} keys in the table {table}; for all other keys "
        "they must come with the query."
    )


def _speed(plan: Plan, at_most: float | None) -> str:
    if not plan.feasible:
        return "No model of this speed keeps the promise: make it faster, or promise less."
    if at_most is None:
        return "However slow the model is, the promise holds."
    chosen = plan.chosen
    why = f"the p99 is over {number(plan.promise.slo_ms)} ms"
    if chosen.choice == "static":
        why = "the table cannot be scored in time, or what it lacks is late"
    return f"The model may take up to {number(at_most)} ms a row; beyond that {why}."


def _flips(choice: Choice, same: tuple[float | None, float | None]) -> str:
    low, high = same
    if low is None and high is None:
        return ""
    below = "" if low is None else f"above {number(low)} ms"
    above = "" if high is None else f"below {number(high)} ms"
    return f"{choice.title()} stays the choice {' and '.join(filter(None, (below, above)))} a row."
