"""Why: the numbers that decided, in two sentences."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.planning.alternatives import Alternative, Promise
from tidemill.planning.figures import number, percent
from tidemill.planning.traffic import Traffic


def explain(
    chosen: Alternative,
    alternatives: Sequence[Alternative],
    *,
    traffic: Traffic,
    promise: Promise,
    aim: str = "cost",
    late: Sequence[str] = (),
) -> tuple[str, ...]:
    """Returns what was chosen with its figures, and what spoke against the nearest others.

    Args:
        chosen: one of the alternatives.
        alternatives: all.
        traffic: what was planned for.
        promise: what must hold.
        aim: "cost" or "latency".
        late: inputs for which no table or cache was looked at.
    """
    if late:
        return _what(chosen, traffic), _too_late(chosen, late)
    return _what(chosen, traffic), _why(chosen, alternatives, traffic, promise, aim)


def _what(chosen: Alternative, traffic: Traffic) -> str:
    figures = (
        f"{number(chosen.cost_per_million)} a million predictions, "
        f"{number(chosen.cpu_us_per_query)} µs of CPU each, p99 {number(chosen.p99_ms)} ms"
    )
    if chosen.choice == "dynamic":
        with_cache = (
            f", behind a cache of {chosen.cache_entries:,} answers that are hit by "
            f"{percent(chosen.cached)} of the queries,"
            if chosen.cache_entries
            else ""
        )
        return f"Dynamic: the model answers every query{with_cache} for {figures}."
    keys = (
        f"all {traffic.cardinality:,} keys"
        if chosen.head_keys == traffic.cardinality
        else f"the {chosen.head_keys:,} most frequent of {traffic.cardinality:,} keys"
    )
    rest = ""
    if chosen.choice == "hybrid":
        cached = f", a cache {percent(chosen.cached)}" if chosen.cache_entries else ""
        rest = f"{cached} and the model {percent(1.0 - chosen.covered - chosen.cached)}"
    return (
        f"{chosen.choice.title()}: a table of {keys} answers {percent(chosen.covered)} of the "
        f"queries{rest}, for {figures}."
    )


def _too_late(chosen: Alternative, late: Sequence[str]) -> str:
    names = ", ".join(map(repr, late))
    some = f"{names} {'comes' if len(late) == 1 else 'come'} with the query and no key determines"
    told = f"Nothing can be kept for later: {some} {'it' if len(late) == 1 else 'them'}."
    if chosen.feasible:
        return told
    return f"{told[:-1]}; and the promise is not kept: {' and '.join(chosen.broken)}."


def _why(
    chosen: Alternative,
    alternatives: Sequence[Alternative],
    traffic: Traffic,
    promise: Promise,
    aim: str,
) -> str:
    if not chosen.feasible:
        return f"Nothing keeps the promise: here {' and '.join(chosen.broken)}."
    told = [
        _against(chosen, [each], _without_table(each), aim)
        for each in alternatives
        if not each.head_keys and each is not chosen
    ]
    if chosen.head_keys != traffic.cardinality:
        told.append(_against_all(chosen, alternatives, traffic, promise, aim))
    if not chosen.head_keys:
        some = [each for each in alternatives if 0 < each.head_keys < traffic.cardinality]
        if some:
            best = min(some, key=_worse)
            name = f"the best smaller table, of {best.head_keys:,},"
            told.append(_against(chosen, [best], name, aim))
    text = "; ".join(told)
    return f"{text[:1].upper()}{text[1:]}."


def _without_table(alternative: Alternative) -> str:
    entries = alternative.cache_entries
    return f"the model behind a cache of {entries:,} answers" if entries else "the model alone"


def _against_all(
    chosen: Alternative,
    alternatives: Sequence[Alternative],
    traffic: Traffic,
    promise: Promise,
    aim: str,
) -> str:
    """Returns how a table of all keys compares, and what it would leave to the model."""
    full = [each for each in alternatives if each.head_keys == traffic.cardinality]
    told = _against(chosen, full, f"a table of all {traffic.cardinality:,} keys", aim)
    least = min(full, key=_worse)
    if least.covered < 1.0 - promise.uncovered:
        told += f" and would leave {percent(1.0 - least.covered)} to the model all the same"
    return told


def _worse(alternative: Alternative) -> tuple[bool, float]:
    return not alternative.feasible, alternative.cost_month


def _against(chosen: Alternative, group: Sequence[Alternative], name: str, aim: str) -> str:
    """Returns how the best of a group compares with the chosen one."""
    kept = [each for each in group if each.feasible]
    if not kept:
        nearest = min(group, key=lambda each: len(each.broken))
        return f"{name} does not keep the promise ({' and '.join(nearest.broken)})"
    if aim == "latency":
        best = min(kept, key=lambda each: each.mean_ms)
        inside = ", inside the noise" if best.mean_ms < chosen.mean_ms else ""
        return (
            f"{name} would answer in {number(best.mean_ms)} ms on average instead of "
            f"{number(chosen.mean_ms)}{inside}"
        )
    best = min(kept, key=lambda each: each.cost_month)
    change = best.cost_month - chosen.cost_month
    share = abs(change) / chosen.cost_month if chosen.cost_month > 0.0 else 0.0
    than = f"{percent(share)} {'more' if change > 0 else 'less'}"
    if share <= 0.005:
        than = "as much" if chosen.cost_month > 0.0 or change == 0.0 else "something"
    inside = ", inside the noise" if change < 0 else ""
    if inside and best.cache_entries and not chosen.cache_entries:
        inside += ", and cold after each start"
    return f"{name} would cost {than} ({number(best.cost_per_million)} a million{inside})"
