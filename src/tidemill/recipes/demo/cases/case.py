"""What a case is: a model to be made, traffic to be drawn, a promise, and what theory expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.models.signature import Array
from tidemill.planning.alternatives import Choice, Promise
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import Prices
from tidemill.planning.traffic import Traffic

Rng = np.random.Generator


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is planned: traffic, costs, prices and promise, any of which may be changed."""

    traffic: Traffic
    costs: Costs
    prices: Prices
    promise: Promise


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One input moved, and what is best then.

    Attributes:
        what: the change, in words.
        expected: the choices that theory allows then.
        change: makes it.
        represent: how columns of the key are represented then.
    """

    what: str
    expected: tuple[Choice, ...]
    change: Callable[[Question], Question] = lambda question: question
    represent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case.

    Attributes:
        name: as the command line calls it.
        title: in a few words.
        told: what is asked, how, and what theory says; in sentences.
        rate_rps: queries a second.
        examples: draws rows and labels to train on.
        model: makes the estimator.
        questions: draws the rows that are asked, in their order.
        promise: what must hold.
        expected: the choices that theory allows.
        flips: changes of one input each.
    """

    name: str
    title: str
    told: str
    rate_rps: float
    examples: Callable[[Rng], tuple[pa.Table, Array]]
    model: Callable[[], Any]
    questions: Callable[[Rng, int], pa.Table]
    promise: Promise
    expected: tuple[Choice, ...]
    flips: tuple[Flip, ...]
    prices: Prices = field(default_factory=Prices)


def with_traffic(**fields: Any) -> Callable[[Question], Question]:
    """Returns a change of the traffic."""
    return lambda question: _replaced(question, "traffic", fields)


def with_prices(**fields: Any) -> Callable[[Question], Question]:
    """Returns a change of the prices."""
    return lambda question: _replaced(question, "prices", fields)


def with_promise(**fields: Any) -> Callable[[Question], Question]:
    """Returns a change of the promise."""
    return lambda question: _replaced(question, "promise", fields)


def with_law(a_s: float, b_s: float) -> Callable[[Question], Question]:
    """Returns a change of the model: one that takes so long, in a worker."""
    law = LatencyLaw(a_s=a_s, b_s=b_s)
    return lambda question: _replaced(question, "costs", {"law": law, "on_loop": False})


def with_instant_model() -> Callable[[Question], Question]:
    """Returns a change of the model: one that takes nothing, in the gateway, and needs no worker
    whose memory would have its price.
    """
    law = LatencyLaw(a_s=0.0, b_s=1e-7)
    fields = {"law": law, "on_loop": True, "hop_wait_s": (0.0,), "replica_bytes": 0.0}
    return lambda question: _replaced(question, "costs", fields)


def _replaced(question: Question, part: str, fields: Mapping[str, Any]) -> Question:
    changed = msgspec.structs.replace(getattr(question, part), **fields)
    return msgspec.structs.replace(question, **{part: changed})
