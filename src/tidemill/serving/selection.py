"""Which version answers a query: a policy decides from its weights and from the query itself.

Nothing here draws a random number: a prediction's id is one already, so that anybody who has the
ledger can say again why a version answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array, Signature
from tidemill.serving.plan import Deployment, SinglePolicy, WeightedPolicy

_DIGITS = 13  # of an id, in hexadecimal: 52 bits, as many as a float keeps


class SelectionPolicy(Protocol):
    """Chooses among the versions of an application."""

    def choose(self, prediction_id: str, inputs: Mapping[str, Array]) -> int:
        """Returns the index of the version that answers this query.

        Args:
            prediction_id: of the query: random, in hexadecimal.
            inputs: its columns.
        """


class Single:
    """One version answers everything.

    Args:
        index: which.
    """

    def __init__(self, index: int) -> None:
        self._index = index

    def choose(self, prediction_id: str, inputs: Mapping[str, Array]) -> int:  # noqa: ARG002, D102
        return self._index


class WeightedSplit:
    """Versions answer by their weights.

    A query is answered whole by one version; with ``sticky`` its first row decides which.

    Args:
        weights: one for each version.
        sticky: the input whose value decides; the prediction's id does, if None.
        salt: applications with other salts split the same values otherwise.
    """

    def __init__(self, weights: Sequence[float], *, sticky: str | None = None, salt: str) -> None:
        self._weights = tuple(weights)
        self._sticky = sticky
        self._salt = salt

    def choose(self, prediction_id: str, inputs: Mapping[str, Array]) -> int:  # noqa: D102
        if self._sticky is None:
            return choose(self._weights, draw_of(prediction_id))
        return choose(self._weights, sticky_draw(self._salt, inputs[self._sticky].item(0)))


def split_of(deployment: Deployment) -> SelectionPolicy | None:
    """Returns the policy that a deployment declares; None if no version of it has a weight."""
    weights = [live.weight for live in deployment.versions]
    if not any(weights):
        return None
    match deployment.policy:
        case SinglePolicy():
            return Single(next(at for at, weight in enumerate(weights) if weight))
        case WeightedPolicy(sticky=sticky):
            return WeightedSplit(weights, sticky=sticky, salt=deployment.application)


def sole(deployment: Deployment) -> int | None:
    """Returns the index of the one version that has a weight; None if it is none or several."""
    weighted = [at for at, live in enumerate(deployment.versions) if live.weight > 0.0]
    return weighted[0] if len(weighted) == 1 else None


def check_weights(deployment: Deployment, signature: Signature) -> None:
    """Does nothing for a deployment whose policy can choose among its versions.

    Raises:
        InvalidInput: a weight is no share, two versions have one number, one policy of one
            version has several, or what is to be sticky is no single value of a query.
    """
    name = deployment.application
    weights = [live.weight for live in deployment.versions]
    if not math.isfinite(sum(weights)) or any(weight < 0.0 for weight in weights):
        raise InvalidInput(
            f"the versions of {name!r} have the weights {weights}", remedy="Give each 0 or more."
        )
    numbers = [live.version for live in deployment.versions]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise InvalidInput(
            f"two versions of {name!r} have the number {twice[0]}",
            remedy="Clients name a version by its number: register one as another model's version.",
        )
    policy = deployment.policy
    if isinstance(policy, SinglePolicy) and sum(weight > 0.0 for weight in weights) > 1:
        raise InvalidInput(
            f"the policy of {name!r} is single, and versions have the weights {weights}",
            remedy='Give one of them a weight, or declare policy = { kind = "weighted" }.',
        )
    if isinstance(policy, WeightedPolicy) and policy.sticky is not None:
        _check_sticky(name, policy.sticky, signature)


def _check_sticky(name: str, sticky: str, signature: Signature) -> None:
    columns = {column.name: column for column in signature.inputs}
    column = columns.get(sticky)
    if column is None or column.shape or column.type.startswith("float"):
        fitting = [c.name for c in columns.values() if not (c.shape or c.type.startswith("float"))]
        raise InvalidInput(
            f"the split of {name!r} cannot be sticky by {sticky!r}",
            remedy=f"Name an input of single integers, booleans or texts: "
            f"{', '.join(fitting) or 'there is none'}.",
        )


def draw_of(prediction_id: str) -> float:
    """Returns the number in [0, 1) that a random hexadecimal id stands for.

    Example:
        >>> draw_of("80000000000000000000000000000000")
        0.5
    """
    return int(prediction_id[:_DIGITS], 16) / float(1 << 4 * _DIGITS)


def sticky_draw(salt: str, value: Any) -> float:
    """Returns a number in [0, 1) that is always the same for a value, and spread over values.

    Example:
        >>> sticky_draw("shop", "ann") == sticky_draw("shop", "ann") != sticky_draw("shop", "bob")
        True
    """
    text = f"{salt}\0{value!r}".encode(errors="surrogatepass")
    return draw_of(blake2b(text, digest_size=16).hexdigest())


def choose(weights: Sequence[float], draw: float) -> int:
    """Returns the index that a weighted split gives to a uniform draw in [0, 1).

    What has no weight is never chosen, if anything has one.

    Example:
        >>> choose([0.9, 0.1], 0.5), choose([0.9, 0.1], 0.95)
        (0, 1)
    """
    target = draw * sum(weights)
    last = 0
    for index, weight in enumerate(weights):
        if weight > 0.0:
            last = index
            target -= weight
            if target < 0.0:
                break
    return last  # rounding may leave a little of the target over
