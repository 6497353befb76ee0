"""Which version answers: by weight, or the one that the client insists on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.control.deployments import METADATA
from tidemill.serving.live import write_deployment
from tidemill.serving.plan import Deployment, Live
from tidemill.serving.selection import choose

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
        ((Live(model="add", version=1, weight=0),), "weights [0.0]"),
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


def write(server: Any, application: str, *versions: Live, wait: bool = True) -> Deployment:
    """Writes what is to be live, whatever it is."""
    with server.home.store.write(*METADATA) as conn:
        written = write_deployment(
            conn,
            Deployment(application=application, revision=0, versions=versions, slo_ms=5000),
            by="tests",
            reason="a test",
            at=server.home.clock.now(),
        )
    if wait:
        server.go_live(written)
    return written
