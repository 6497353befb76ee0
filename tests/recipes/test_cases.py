"""The six cases: theory's choice, and how it flips, with typical costs."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tidemill.data.keys import hash_rows
from tidemill.data.represented_rows import represented_rows
from tidemill.planning.choose import choose
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.workload.sketch import Workload
from tidemill.recipes.demo.cases.case import Case, Question
from tidemill.recipes.demo.cases.catalog import CASES

FOREST = Costs(law=LatencyLaw(a_s=6e-5, b_s=1e-5), on_loop=True)
TEXT = Costs(law=LatencyLaw(a_s=8e-4, b_s=8e-5))


def question(case: Case, represent: Mapping[str, str]) -> Question:
    """Returns the plan's inputs for a minute of the case's traffic."""
    rng = np.random.default_rng(1)
    count = int(60 * case.rate_rps)
    rows = case.questions(rng, count)
    assert isinstance(rows, pa.Table)
    seen = Workload()
    times = np.cumsum(rng.exponential(1.0 / case.rate_rps, count))
    seen.update(times, hash_rows(represented_rows(rows, represent), rows.column_names), str)
    costs = TEXT if rows.column_names == ["text"] else FOREST
    traffic = seen.result().traffic()
    return Question(traffic=traffic, costs=costs, prices=case.prices, promise=case.promise)


def chosen(asked: Question) -> str:
    """Returns what is best."""
    plan = choose(
        asked.traffic, asked.costs, prices=asked.prices, promise=asked.promise, queries=500
    )
    return plan.chosen.choice


@pytest.mark.parametrize("name", CASES)
def test_theory(name: str) -> None:
    """Each case is served as theory says, and otherwise once one input is moved."""
    case = CASES[name]
    asked = question(case, {})
    first = chosen(asked)
    assert first in case.expected
    for flip in case.flips:
        found = chosen(flip.change(question(case, flip.represent)))
        assert found in flip.expected, flip.what
        assert found != first, flip.what


def test_a_model_that_takes_nothing_is_waited_for_by_nobody() -> None:
    """However long the way to the slow one was, and whatever its workers held in memory."""
    case = CASES["autocomplete"]
    asked = question(case, {})
    slow = msgspec.structs.replace(asked.costs, hop_wait_s=(0.0, 0.001, 0.2))
    flip = next(each for each in case.flips if "the model nothing" in each.what)
    assert chosen(flip.change(msgspec.structs.replace(asked, costs=slow))) == "dynamic"


@pytest.mark.parametrize("name", CASES)
def test_the_seed_makes_the_data(name: str) -> None:
    """And the model learns something from it."""
    case = CASES[name]
    one, other = (case.questions(np.random.default_rng(3), 50) for _ in range(2))
    assert one.equals(other)
    assert not one.equals(case.questions(np.random.default_rng(4), 50))
    rows, labels = case.examples(np.random.default_rng(3))
    assert rows.num_rows == len(labels)
    assert rows.schema == one.schema
