"""What a plan demands of training, by what is simulated of slower and faster models."""

from __future__ import annotations

import msgspec

from tidemill.planning.alternatives import Promise
from tidemill.planning.choose import choose
from tidemill.planning.costs import Costs
from tidemill.planning.demands import demands
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.traffic import zipf_traffic


def test_a_promise_that_just_holds_allows_no_slower_model() -> None:
    """Where the shorter simulation finds it broken already, no model is said to be fast enough."""
    costs = Costs(law=LatencyLaw(a_s=1e-3, b_s=4e-3))
    traffic, promise = zipf_traffic(20.0, 10**7, 0.0), Promise(refresh_s=3600.0)
    plan = choose(traffic, costs, promise=promise, caches=False, queries=200)
    assert (plan.feasible, plan.chosen.choice) == (True, "dynamic")
    found = demands(msgspec.structs.replace(plan, promise=Promise(slo_ms=1.0)))
    assert found.row_ms_at_most == 4.0
    assert any("up to 4 ms a row" in each for each in found.sentences)
