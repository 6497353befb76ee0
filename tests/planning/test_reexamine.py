"""A change is proposed only for a gain that is outside the noise and lasts, and then once."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tidemill.planning.alternatives import Alternative, Study
from tidemill.planning.choose import Plan, choose
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import Prices
from tidemill.planning.reexamine import Rule, Standing, Verdict, alike, reexamine
from tidemill.planning.traffic import zipf_traffic

TRAFFIC = zipf_traffic(50.0, 200, 0.5)
PLAN = choose(TRAFFIC, Costs(law=LatencyLaw(a_s=1e-3, b_s=5e-4)), queries=200)
OTHER = Study(TRAFFIC, PLAN.costs, Prices(), PLAN.promise, queries=200).alternative(0, 0)
RULE = Rule(gain=0.1, confirm=3)


def costing(cost: float, *, of: Alternative = PLAN.chosen, feasible: bool = True) -> Alternative:
    """An alternative at another cost."""
    broken = () if feasible else ("the p99 is over",)
    return msgspec.structs.replace(of, cost_month=cost, feasible=feasible, broken=broken)


def plan_of(chosen: Alternative, *, feasible: bool = True) -> Plan:
    """The plan with another choice."""
    return msgspec.structs.replace(PLAN, chosen=chosen, feasible=feasible)


def examined(pairs: list[tuple[Alternative, Plan]], rule: Rule = RULE) -> list[Verdict]:
    """Examines again and again."""
    standing, verdicts = Standing(), []
    for present, plan in pairs:
        verdict, standing = reexamine(present, plan, standing, rule)
        verdicts.append(verdict)
    return verdicts


money = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(money, money), min_size=1, max_size=20), st.integers(1, 4))
def test_every_proposal_follows_so_many_gains_in_a_row(
    costs: list[tuple[float, float]], confirm: int
) -> None:
    """And what does not gain enough starts the count again."""
    rule = Rule(gain=0.1, confirm=confirm)
    verdicts = examined([(costing(a), plan_of(costing(b))) for a, b in costs], rule)
    row = 0
    for (a, b), verdict in zip(costs, verdicts, strict=True):
        row = row + 1 if (a - b) / a > 0.1 else 0
        assert verdict.times == row
        kinds = {0: "keep", confirm: "propose"}
        assert verdict.kind == kinds.get(row, "confirm" if row < confirm else "proposed")


@given(money, st.floats(0.0, 0.099))
def test_what_was_changed_is_not_changed_back_by_noise(cost: float, stray: float) -> None:
    """Whichever of two is live, the other is not proposed while they are within the gain."""
    near = cost * (1.0 - stray)
    for a, b in ((cost, near), (near, cost)):
        (verdict,) = examined([(costing(a), plan_of(costing(b)))])
        assert verdict.kind == "keep"
    noisy = msgspec.structs.replace(PLAN.promise, noise=0.5)
    wide = msgspec.structs.replace(plan_of(costing(0.6 * cost)), promise=noisy)
    assert examined([(costing(cost), wide)])[0].kind == "keep"


def test_another_candidate_begins_the_count_again() -> None:
    """Three in a row must be of one kind, and of about one size."""
    present = costing(100.0)
    one, other = plan_of(costing(50.0)), plan_of(costing(50.0, of=OTHER))
    assert not alike(one.chosen, other.chosen)
    verdicts = examined([(present, each) for each in (one, one, other, one, one, one, one)])
    assert [each.kind for each in verdicts] == [
        *("confirm", "confirm", "confirm", "confirm", "confirm", "propose", "proposed")
    ]


def test_a_broken_promise_is_worth_a_price_and_nothing_replaces_nothing() -> None:
    """What keeps the promise is proposed though it costs more; where nothing does, all stays."""
    broken = costing(1.0, feasible=False)
    dearer = [(broken, plan_of(costing(5.0)))] * 3
    assert [each.kind for each in examined(dearer)] == ["confirm", "confirm", "propose"]
    assert "breaks the promise" in examined(dearer)[-1].why
    hopeless = [(broken, plan_of(costing(0.1, feasible=False), feasible=False))] * 4
    assert {each.kind for each in examined(hopeless)} == {"keep"}
    free = examined([(costing(0.0), plan_of(costing(1.0)))])[0]
    assert (free.kind, free.gain) == ("keep", None)
