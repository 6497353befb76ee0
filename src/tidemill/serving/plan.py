"""What is live and how it is to be served: records only.

A ``Deployment`` is the one record that says what an application answers with. The supervisor turns
every deployment into an ``Assignment`` (the same facts, with folders and sockets of this machine)
and hands it to the gateways.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from tidemill.models.signature import Signature
from tidemill.tables.table import TableInfo

CPU = "cpu"
"""The device of a plan that names none."""

_DEVICES = re.compile(r"cpu|cuda|cuda:[0-9]{1,3}(,cuda:[0-9]{1,3}){0,63}")

Positive = Annotated[int, msgspec.Meta(ge=1)]


class ServingPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an application is served; every bound that keeps it inside its promise.

    ``placement`` says where the model runs: in the gateway process (compiled models that take
    microseconds), in worker processes, or ``auto``: in the gateway if a batch of one was measured
    below ``inline_below_ms``.

    ``device`` is where its workers compute: ``cpu``, ``cuda`` (the first GPU), ``cuda:N``, or
    several GPUs, ``cuda:0,cuda:1``, over which the replicas are spread.

    Raises:
        ValueError: the device is none of these.
    """

    placement: Literal["auto", "gateway", "worker"] = "auto"
    replicas: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 64
    max_queue: Positive = 4096
    max_queue_bytes: Positive = 64 << 20
    cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 16 << 20
    cache_ttl_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    coalesce: bool = True
    inline_below_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.5
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    device: str = CPU

    def __post_init__(self) -> None:
        if not _DEVICES.fullmatch(self.device):
            raise ValueError(
                f"device is {self.device[:100]!r}; "
                "known are cpu, cuda, cuda:N and several GPUs, as cuda:0,cuda:1"
            )

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one by one.

        Example:
            >>> ServingPlan(device="cuda:0,cuda:1").devices
            ('cuda:0', 'cuda:1')
        """
        return tuple(self.device.split(","))


class Live(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model version of a deployment, its share of the queries and its table, if it has one."""

    model: str
    version: int
    table: str | None = None
    weight: float = 1.0


class SinglePolicy(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="single",
):
    """One version answers everything; a second one with a weight is a mistake."""


class WeightedPolicy(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="weighted",
):
    """Versions answer by their weights: drawn from the prediction's id, or by a key column.

    With ``sticky`` the value of that input decides: queries that agree on it meet one version, as
    long as the weights stay.
    """

    sticky: str | None = None


Policy = SinglePolicy | WeightedPolicy
"""How an application chooses among its versions, told apart by ``kind``."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one application answers with; ``revision`` grows with every change to any of them.

    ``key`` names the input columns that determine a table's key, ``represent`` the functions by
    which values of an input are one in keys and in the cache. ``features`` is the id of the
    stored features that complete a query by key alone. ``default`` is the answer (one
    value per output, for one row) that is given instead of an error when the promise cannot be
    kept; without one, such a query gets a typed error. An application without a version has a
    ``signature`` of its own; with both, every version must have that signature. A version of
    weight 0 is ready, and answers only who asks for it by number. ``max_age_s`` is how old a
    table's answers may be; None for any age.
    """

    application: str
    revision: int
    versions: tuple[Live, ...]
    slo_ms: float = 100.0
    default: dict[str, Any] | None = None
    key: tuple[str, ...] = ()
    features: str | None = None
    represent: dict[str, str] = {}
    plan: ServingPlan = ServingPlan()
    policy: Policy = WeightedPolicy()
    signature: Signature | None = None
    max_age_s: float | None = None

    @property
    def main(self) -> Live | None:
        """The version that answers most; the first of equals, None if none has a weight."""
        return max((v for v in self.versions if v.weight > 0.0), key=_weight, default=None)


def _weight(live: Live) -> float:
    return live.weight


class RemoteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model in another server: ``number`` tells replicas of one apart."""

    url: str
    binary: bool
    timeout_s: float
    number: int
    token: str | None = None

    def __repr__(self) -> str:
        return f"RemoteSpec(url={self.url!r}, number={self.number})"  # without the token


class ReplicaSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where one replica of a version is.

    ``gateway`` loads it itself, ``worker`` has a socket, ``remote`` is a model in another server.
    """

    kind: Literal["gateway", "worker", "remote"]
    socket: str | None = None
    remote: RemoteSpec | None = None


class VersionAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """A version with this machine's paths, which are those of verified local copies.

    A table that several hosts share has its place in Redis instead; see ``tables/redis.py``. Its
    record tells what it holds, since it need not be there yet.
    """

    live: Live
    folder: str
    replicas: tuple[ReplicaSpec, ...]
    table: str | None = None
    record: TableInfo | None = None
    features: str | None = None
    trust_code: bool = False


class ApplicationAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """One application's deployment with its versions' places."""

    deployment: Deployment
    versions: tuple[VersionAssignment, ...]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a gateway serves, at one revision."""

    revision: int
    applications: tuple[ApplicationAssignment, ...]
