"""What is declared before there is a model: traffic, promise, prices, and what the model may cost.

[traffic]
rate_rps = 50.0
cardinality = 20_000
zipf_exponent = 1.1

[promise]
slo_ms = 50.0
max_age_s = 3600.0

[model]
row_ms = 4.0

[inputs]
airport = "key"
weather = "at query"
"""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.names import nearest
from tidemill.planning.alternatives import Promise
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import Prices
from tidemill.planning.traffic import Traffic, zipf_traffic

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=3.6e6)]


class DeclaredTraffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Traffic as people know it: either the head's shares, or a Zipf exponent.

    Args:
        rate_rps: queries a second.
        cardinality: distinct keys.
        zipf_exponent: of the keys' shares; 0 if all are asked alike.
        top: (k, share of the k most frequent keys), instead of an exponent.
        cv2: burstiness of the arrivals; 1 is a Poisson process.
        peak_to_mean: the busiest stretch over the average.
        new_keys: share of the queries whose key nobody has asked for before.
    """

    rate_rps: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    cardinality: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    zipf_exponent: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    top: tuple[tuple[Annotated[int, msgspec.Meta(ge=1)], Share], ...] = ()
    cv2: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    peak_to_mean: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 1.0
    new_keys: Share = 0.0

    def traffic(self) -> Traffic:
        """Returns it as the plan takes it."""
        if self.zipf_exponent is not None:
            return zipf_traffic(
                self.rate_rps,
                self.cardinality,
                self.zipf_exponent,
                cv2=self.cv2,
                peak_to_mean=self.peak_to_mean,
                new_keys=self.new_keys,
            )
        return Traffic(
            rate_rps=self.rate_rps,
            cardinality=self.cardinality,
            top=self.top,
            cv2=self.cv2,
            peak_to_mean=self.peak_to_mean,
            new_keys=self.new_keys,
        )


class DeclaredModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model will take, as far as it is known: of a batch, and of each row in it."""

    batch_ms: Milliseconds = 0.05
    row_ms: Milliseconds = 0.05
    in_gateway: bool = False


When = Literal["key", "ahead", "at query"]
"""A column of the key; what follows from the key before anybody asks; what comes with a query."""


class Requirements(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of requirements."""

    traffic: DeclaredTraffic
    promise: Promise = Promise()
    model: DeclaredModel = DeclaredModel()
    prices: Prices = Prices()
    inputs: dict[str, When] = {}

    @property
    def late(self) -> tuple[str, ...]:
        """The inputs that come with a query, and that no key determines."""
        return tuple(name for name, when in self.inputs.items() if when == "at query")

    def costs(self) -> Costs:
        """Returns what serving would take: the declared model, and typical costs of the rest."""
        law = LatencyLaw(a_s=self.model.batch_ms / 1e3, b_s=self.model.row_ms / 1e3)
        return Costs(law=law, on_loop=self.model.in_gateway)


def read_requirements(path: Path) -> Requirements:
    """Returns the requirements in a TOML file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no TOML, or a value is missing, unknown or out of bounds; with its path.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist", remedy="Check the path.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", remedy="Mend it.") from error
    _check_names(tables, path)
    try:
        found = msgspec.convert(tables, Requirements)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{path}: {error}", remedy="Correct it.") from error
    if found.traffic.zipf_exponent is None and not found.traffic.top:
        raise InvalidInput(
            f"{path} does not say how queries share their keys",
            remedy="Give traffic.zipf_exponent, or traffic.top.",
        )
    _check_top(found.traffic.top, path)
    return found


def _check_top(top: tuple[tuple[int, float], ...], path: Path) -> None:
    """Refuses heads that do not grow: more keys cannot have less of the queries."""
    for (k, share), (further, more) in pairwise(top):
        if further <= k or more < share:
            raise InvalidInput(
                f"{path}: traffic.top has [{further}, {more}] after [{k}, {share}]",
                remedy="Give pairs of k and the share of the k most frequent keys, with k rising.",
            )


def _check_names(tables: dict[str, Any], path: Path) -> None:
    known = {
        "traffic": DeclaredTraffic.__struct_fields__,
        "promise": Promise.__struct_fields__,
        "model": DeclaredModel.__struct_fields__,
        "prices": Prices.__struct_fields__,
        "inputs": (),
    }
    for name, table in tables.items():
        if name == "inputs":
            continue
        if name not in known:
            raise InvalidInput(f"{path}: {name!r} is unknown", remedy=nearest(name, known))
        for field in table if isinstance(table, dict) else ():
            if field not in known[name]:
                raise InvalidInput(
                    f"{path}: {name}.{field} is unknown", remedy=nearest(field, known[name])
                )
