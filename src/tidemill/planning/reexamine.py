"""Whether what is live should change: only for a gain outside the noise that lasts; purely.

Traffic is measured and latency simulated, so that figures wander. A change is proposed once the
same kind of alternative was better by more than a stated share in so many examinations in a row.
What was changed is not changed back by chance: that would take the same gain the other way.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from tidemill.planning.alternatives import Alternative
from tidemill.planning.choose import Plan, figure

_ALIKE = 10.0 ** (1.0 / 3.0) * 1.01
"""Tables whose sizes are no farther apart than neighbours among the alternatives are alike."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a change is worth it.

    Args:
        gain: the share of the present cost (or latency) that it must save, at least; where the
            promise's noise is more, that counts.
        confirm: in so many examinations in a row.
    """

    gain: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    confirm: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What was found better last, and how often in a row."""

    better: Alternative | None = None
    times: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one examination came to.

    Args:
        kind: ``keep``; ``confirm``, better, and not often enough yet; ``propose``, now;
            ``proposed``, as was said before.
        gain: the share of the present figure that is saved; None where figures do not decide.
        times: how often in a row it was found.
        why: in words.
    """

    kind: Literal["keep", "confirm", "propose", "proposed"]
    gain: float | None
    times: int
    why: str


def reexamine(
    present: Alternative, plan: Plan, standing: Standing, rule: Rule
) -> tuple[Verdict, Standing]:
    """Compares what is live with what would be chosen now.

    Args:
        present: what is live, with the figures of today's traffic.
        plan: of today's traffic.
        standing: from the examination before; a new one at first.
        rule: when a change is worth it.

    Returns:
        The verdict, and what the next examination is given.
    """
    chosen = plan.chosen
    gain = _gain(figure(present, plan.aim), figure(chosen, plan.aim))
    least = max(rule.gain, plan.promise.noise)
    if present.feasible or not plan.feasible:
        better = plan.feasible and gain > least
        why = f"it saves {gain:.1%} of the {_aim(plan)}; {least:.1%} is asked for"
        if not plan.feasible:
            why = "nothing keeps the promise"
    else:  # what keeps the promise is worth its price
        better, why = True, f"what is live breaks the promise: {'; '.join(present.broken)}"
    told = gain if math.isfinite(gain) else None
    if not better:
        return Verdict(kind="keep", gain=told, times=0, why=why), Standing()
    again = standing.better is not None and alike(standing.better, chosen)
    times = standing.times + 1 if again else 1
    kind: Literal["confirm", "propose", "proposed"] = "confirm"
    if times >= rule.confirm:
        kind = "propose" if times == rule.confirm else "proposed"
    return Verdict(kind=kind, gain=told, times=times, why=why), Standing(better=chosen, times=times)


def alike(one: Alternative, other: Alternative) -> bool:
    """Says whether two alternatives are of one kind, and their tables and caches about as large."""
    sizes = (
        (one.head_keys, other.head_keys),
        (one.cache_entries, other.cache_entries),
    )
    near = all(max(a, b) <= _ALIKE * min(a, b) for a, b in sizes)
    return one.choice == other.choice and one.replicas == other.replicas and near


def _gain(present: float, chosen: float) -> float:
    return (present - chosen) / present if present > 0.0 else -math.inf


def _aim(plan: Plan) -> str:
    return "cost" if plan.aim == "cost" else "mean latency"
