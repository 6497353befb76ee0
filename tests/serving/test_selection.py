"""Which version answers: by weight, or the one that the client insists on."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.control.deployments import METADATA
from tidemill.foundation.errors import InvalidInput
from tidemill.models.registry import Registry
from tidemill.models.signature import Column, Signature
from tidemill.serving.live import write_deployment
from tidemill.serving.plan import Deployment, Live, Policy, SinglePolicy, WeightedPolicy
from tidemill.serving.selection import Single, check_weights, choose, sole, split_of

WEIGHTS = st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=6)


@settings(deadline=None)
@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_what_has_no_weight_is_not_chosen(weights: list[float], draw: float) -> None:
    """The choice is one of the versions, and one with a weight if any has."""
    chosen = choose(weights, draw)
    assert 0 <= chosen < len(weights)
    assert weights[chosen] > 0 or sum(weights) == 0


@settings(deadline=None)
@given(WEIGHTS, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_split_is_an_order_of_the_draws(weights: list[float], one: float, other: float) -> None:
    """A greater draw never gives an earlier version: each version has one piece of [0, 1)."""
    low, high = sorted((one, other))
    assert choose(weights, low) <= choose(weights, high)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5], [3, 1], [0.05, 0.0, 0.95], [7, 2, 1, 0]])
def test_shares_are_as_the_weights(weights: list[float]) -> None:
    """Of draws spread evenly over [0, 1), each version gets its share."""
    draws = 10_000
    counts = Counter(choose(weights, (at + 0.5) / draws) for at in range(draws))
    for index, weight in enumerate(weights):
        assert abs(counts[index] / draws - weight / sum(weights)) <= 1 / draws


def test_rounding_gives_nothing_to_a_version_without_weight() -> None:
    """The last bit of a sum that cannot be split evenly goes to a version that has a weight."""
    assert choose([1 / 3, 0.4, 1.1, 0.1, 0.0], 1 - 2**-53) == 3  # 8e-17 are left over
    assert choose([0.0, 1.0, 0.0], 0.0) == 1


def test_a_live_split(server: Any, client: httpx.Client) -> None:
    """Versions answer by their weights and each as itself; a client can insist on one."""
    write(server, "split", Live(model="add", version=1, weight=3), Live(model="add", version=2))
    path = "/v1/models/split:predict"
    versions = Counter[str]()
    for x in range(400):
        answer = client.post(path, json={"instances": [x]}).json()
        assert answer["predictions"] == [x + 1000 * int(answer["model_version"])]
        versions[answer["model_version"]] += 1
    assert set(versions) == {"1", "2"}
    assert 57 <= versions["2"] <= 143  # 100 are expected: five standard deviations either way
    assert client.get("/v2/models/split").json()["versions"] == ["1", "2"]
    tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}
    for version in (2, 1, 2):
        pinned = f"/v2/models/split/versions/{version}"
        answer = client.post(f"{pinned}/infer", json={"inputs": [tensor]}).json()
        assert answer["model_version"] == str(version)
        assert answer["outputs"][0]["data"] == [7 + 1000 * version]
        assert client.get(f"{pinned}/ready").is_success
    refused = client.post("/v2/models/split/versions/3/infer", json={"inputs": [tensor]})
    assert refused.status_code == 404
    assert "version 3 is not live. Live versions: 1, 2." in refused.json()["error"]


@pytest.mark.parametrize(
    ("versions", "why"),
    [
        (
            (Live(model="add", version=1), Live(model="digits", version=1)),
            "take or give other columns",
        ),
        (
            (Live(model="add", version=1), Live(model="copy", version=1)),
            "two versions of 'shared' have the number 1",
        ),
        (
            (Live(model="add", version=1, weight=2), Live(model="add", version=2, weight=-1)),
            "weights [2.0, -1.0]",
        ),
    ],
)
def test_versions_that_cannot_share_an_application_do_not_go_live(
    server: Any, client: httpx.Client, versions: tuple[Live, ...], why: str
) -> None:
    """Other columns or impossible weights are refused by name; what was live answers on."""
    Registry(server.home).register(server.home.path.parent / "add-2", "copy", blessed=True)
    write(server, "shared", Live(model="add", version=1))
    refused = write(server, "shared", *versions, wait=False)

    def told() -> bool:
        return any(
            each["application"] == "shared"
            and each["revision"] == refused.revision
            and why in each["reason"]
            for each in server.health()["refused"]
        )

    server.until(told, "the refusal")
    answer = client.post("/v1/models/shared:predict", json={"instances": [5]}).json()
    assert (answer["predictions"], answer["model_version"]) == ([1005], "1")
    write(server, "shared", Live(model="add", version=2))


SIGNATURE = Signature(
    (Column("user", "string"), Column("v", "float32", (2,)), Column("f", "float64")),
    (Column("y", "float32"),),
)


def declared(*weights: float, policy: Policy | None = None) -> Deployment:
    """A deployment of versions 1, 2, … with these weights."""
    versions = tuple(
        Live(model="m", version=number, weight=weight) for number, weight in enumerate(weights, 1)
    )
    policy = WeightedPolicy() if policy is None else policy
    return Deployment(application="app", revision=1, versions=versions, policy=policy)


def ids(count: int, seed: int = 1) -> list[str]:
    """Random identifiers as the processor draws them."""
    draw = random.Random(seed)
    return [f"{draw.getrandbits(128):032x}" for _ in range(count)]


def test_a_prediction_id_says_which_version_answered() -> None:
    """The choice is a function of the id, and over ids each version has its share."""
    policy = split_of(declared(0.7, 0.0, 0.3))
    assert policy is not None
    drawn = ids(10_000)
    counts = Counter(policy.choose(each, {}) for each in drawn)
    assert [policy.choose(each, {}) for each in drawn[:50]] == [
        policy.choose(each, {}) for each in drawn[:50]
    ]
    assert set(counts) == {0, 2}
    assert abs(counts[0] / 10_000 - 0.7) < 0.025  # five standard deviations


def test_one_key_always_meets_one_version() -> None:
    """With ``sticky`` the id decides nothing, users get versions by weight, growth moves few."""
    before = split_of(declared(0.9, 0.1, policy=WeightedPolicy(sticky="user")))
    after = split_of(declared(0.8, 0.2, policy=WeightedPolicy(sticky="user")))
    assert before is not None
    assert after is not None
    drawn = ids(5)
    met: Counter[tuple[int, int]] = Counter()
    for number in range(5000):
        inputs = {"user": np.array([f"user-{number}"], object)}
        assert len({before.choose(each, inputs) for each in drawn}) == 1
        met[before.choose(drawn[0], inputs), after.choose(drawn[0], inputs)] += 1
    assert abs((met[1, 0] + met[1, 1]) / 5000 - 0.1) < 0.022
    assert met[1, 0] == 0  # who had the new version keeps it as it grows
    assert abs(met[0, 1] / 5000 - 0.1) < 0.022


def test_the_usual_case_is_no_choice() -> None:
    """One version with a weight is known beforehand; none with a weight answers nothing."""
    assert sole(declared(0.0, 2.0)) == 1
    assert sole(declared(1.0, 2.0)) is None
    assert sole(declared()) is None
    assert split_of(declared(0.0)) is None
    single = split_of(declared(0.0, 2.0, policy=SinglePolicy()))
    assert isinstance(single, Single)
    assert {single.choose(each, {}) for each in ids(20)} == {1}


@pytest.mark.parametrize(
    ("deployment", "why"),
    [
        (declared(1.0, 1.0, policy=SinglePolicy()), "is single"),
        (declared(float("inf")), "weights"),
        (declared(float("nan"), 1.0), "weights"),
        (declared(1.0, policy=WeightedPolicy(sticky="nope")), "'nope'. Name an input .* user"),
        (declared(1.0, policy=WeightedPolicy(sticky="v")), "'v'"),
        (declared(1.0, policy=WeightedPolicy(sticky="f")), "'f'"),
    ],
)
def test_a_policy_that_cannot_choose_is_refused(deployment: Deployment, why: str) -> None:
    """Several versions for a single one, weights that are no shares, a key that is no key."""
    with pytest.raises(InvalidInput, match=why):
        check_weights(deployment, SIGNATURE)


def test_an_application_without_a_version_gives_its_default_or_says_so(
    server: Any, client: httpx.Client
) -> None:
    """Registered alone it has metadata, is not ready, and no query to it ends in silence."""
    signature = Signature((Column("x", "int64"),), (Column("y", "int64"),))
    bare = Deployment(application="bare", revision=0, versions=(), signature=signature)
    put(server, bare)
    put(server, msgspec.structs.replace(bare, application="bare-default", default={"y": -1}))
    body = {"instances": [4]}
    refused = client.post("/v1/models/bare:predict", json=body)
    assert refused.status_code == 503
    assert "has no model that answers yet" in refused.json()["error"]
    stood_in = client.post("/v1/models/bare-default:predict", json=body).json()
    assert (stood_in["predictions"], stood_in["sources"]) == ([-1], ["default"])
    described = client.get("/v2/models/bare").json()
    assert (described["versions"], described["inputs"][0]["name"]) == ([], "x")
    assert client.get("/v2/models/bare/ready").status_code == 503
    put(
        server,
        msgspec.structs.replace(bare, versions=(Live(model="add", version=1, weight=0.0),)),
    )
    assert client.post("/v1/models/bare:predict", json=body).status_code == 503
    tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}
    asked = client.post("/v2/models/bare/versions/1/infer", json={"inputs": [tensor]}).json()
    assert asked["outputs"][0]["data"] == [1007]


def write(server: Any, application: str, *versions: Live, wait: bool = True) -> Deployment:
    """Writes what is to be live, whatever it is."""
    deployment = Deployment(application=application, revision=0, versions=versions, slo_ms=5000)
    return put(server, deployment, wait=wait)


def put(server: Any, deployment: Deployment, *, wait: bool = True) -> Deployment:
    """Writes a deployment as it is."""
    with server.home.store.write(*METADATA) as conn:
        written = write_deployment(
            conn,
            deployment,
            by="tests",
            reason="a test",
            at=server.home.clock.now(),
        )
    if wait:
        server.go_live(written)
    return written
