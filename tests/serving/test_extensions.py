"""Triton's extensions over the wire: statistics, configuration, the model repository, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tidemill.control.audit import read_audit
from tidemill.control.keys import create_key
from tidemill.foundation.errors import InvalidInput, Refused
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Column, Signature
from tidemill.serving.application import Application
from tidemill.serving.extensions import describe_config
from tidemill.serving.inquiries import describe_index
from tidemill.serving.measures import Measures
from tidemill.serving.model_control import KnownModel, read_load
from tidemill.serving.plan import Deployment, ServingPlan
from tidemill.serving.questions import error_of, fault_of
from tidemill.serving.statistics import Tally, describe_tally, merge_tallies


def ask(client: httpx.Client, *rows: int, name: str = "add") -> httpx.Response:
    """A query of some rows."""
    tensor = {"name": "x", "shape": [len(rows)], "datatype": "INT64", "data": list(rows)}
    return client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})


def stats(client: httpx.Client, path: str = "/v2/models/add/stats") -> Any:
    """The statistics, as a client gets them."""
    return client.get(path).raise_for_status().json()["model_stats"]


def test_statistics_count_what_was_done(client: httpx.Client) -> None:
    """Queries, rows, batches by their size, hits, misses and errors, each counted where it ends."""
    (before,) = stats(client)
    assert ask(client, 901, 902, 903).is_success
    assert ask(client, 901, 902, 903).is_success  # from the cache
    assert ask(client, 904).is_success
    (after,) = stats(client, "/v2/models/add/versions/1/stats")
    assert (after["name"], after["version"]) == ("add", "1")
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    assert after["last_inference"] > 1_700_000_000_000
    spent = {
        name: counted["count"] - before["inference_stats"][name]["count"]
        for name, counted in after["inference_stats"].items()
    }
    assert spent == {
        "success": 3,
        "fail": 0,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
        "cache_hit": 1,
        "cache_miss": 2,
    }
    assert after["inference_stats"]["compute_infer"]["ns"] > 0
    assert after["inference_stats"]["success"]["ns"] > 0
    sizes = {each["batch_size"]: each["compute_infer"]["count"] for each in after["batch_stats"]}
    assert sizes[3] >= 1
    assert sizes[1] >= 1


def test_statistics_of_errors_and_of_all(client: httpx.Client) -> None:
    """A query that fails is a failure with its time; without a name, every version is shown."""
    (before,) = stats(client, "/v2/models/slow/stats")
    body = {"instances": [[-1.0]], "timeout_ms": 250}
    assert client.post("/v1/models/slow:predict", json=body).status_code == 500
    (after,) = stats(client, "/v2/models/slow/stats")
    failed, failing = after["inference_stats"]["fail"], before["inference_stats"]["fail"]
    assert failed["count"] == failing["count"] + 1
    assert failed["ns"] > failing["ns"]
    assert {"add", "slow", "digits"} <= {each["name"] for each in stats(client, "/v2/models/stats")}
    assert client.get("/v2/models/none/stats").status_code == 404
    assert client.get("/v2/models/add/versions/9/stats").status_code == 404


def test_gateways_add_up() -> None:
    """What several gateways counted is one number; the last inference is the latest."""
    one = Tally(application="a", version=1, last_ms=5, success=(2, 10), batches={1: (2, 8)}, rows=2)
    two = Tally(application="a", version=1, last_ms=7, queue=(1, 3), batches={4: (1, 9)}, rows=4)
    other = Tally(application="a", version=2)
    merged = merge_tallies([two, other, one])
    assert [tally.version for tally in merged] == [1, 2]
    shown = describe_tally(merged[0])
    assert (shown["last_inference"], shown["inference_count"], shown["execution_count"]) == (
        7,
        6,
        3,
    )
    assert shown["inference_stats"]["success"] == {"count": 2, "ns": 10}
    assert [each["batch_size"] for each in shown["batch_stats"]] == [1, 4]


def test_the_configuration_says_how_it_is_served(client: httpx.Client) -> None:
    """Columns, batches and replicas, in the words of Triton's configuration."""
    config = client.get("/v2/models/delays/config").raise_for_status().json()
    assert config["max_batch_size"] == 64
    assert config["input"][0] == {
        "name": "carrier",
        "data_type": "TYPE_STRING",
        "dims": [1],
        "reshape": {"shape": []},
    }
    assert config["output"][1] == {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [2]}
    assert client.get("/v2/models/none/config").status_code == 404


@pytest.mark.parametrize(
    ("device", "kind", "gpus"),
    [("cpu", "KIND_CPU", []), ("cuda", "KIND_GPU", [0]), ("cuda:1,cuda:3", "KIND_GPU", [1, 3])],
)
def test_the_configuration_says_where_it_computes(device: str, kind: str, gpus: list[int]) -> None:
    """A plan with GPUs is told as one, with their numbers."""
    column = Column("x", "float32", ())
    application = Application(
        deployment=Deployment(
            application="on",
            revision=1,
            versions=(),
            plan=ServingPlan(device=device, replicas=2),
        ),
        versions=(),
        signature=Signature((column,), (column,)),
        measures=Measures(Instruments(), "on"),
    )
    assert describe_config(application)["instance_group"] == [
        {"name": "on", "kind": kind, "count": 2, "gpus": gpus}
    ]


def test_an_index_tells_what_is_live_and_what_is_not(client: httpx.Client) -> None:
    """Every name with its versions and states; filtered, the ones that answer."""
    whole = client.post("/v2/repository/index").raise_for_status().json()
    assert {"name": "add", "version": "1", "state": "READY", "reason": ""} in whole
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert ready == [each for each in whole if each["state"] == "READY"]
    assert client.post("/v2/repository/index", json={"ready": "yes"}).status_code == 400


def test_states_of_an_index() -> None:
    """On its way, refused with the reason, going, and registered without an application."""
    known = [
        KnownModel(name="coming", version=2, revision=7),
        KnownModel(name="going", version=1),
        KnownModel(name="idle", version=3),
        KnownModel(name="live", version=1, revision=3),
        KnownModel(name="wrong", version=1, revision=9),
    ]
    refused = [{"application": "wrong", "revision": 9, "reason": "it is damaged"}]
    status = {"applications": {"coming": 4, "going": 5, "live": 3}, "refused": refused}
    states = {each["name"]: each["state"] for each in describe_index(known, status)}
    assert states == {
        "coming": "LOADING",
        "going": "UNLOADING",
        "idle": "UNAVAILABLE",
        "live": "READY",
        "wrong": "UNAVAILABLE",
    }
    assert describe_index(known, status)[-1]["reason"] == "it is damaged"


def test_clients_change_nothing_unless_they_may(client: httpx.Client) -> None:
    """Without the setting, load and unload are refused, and nothing has changed."""
    for verb in ("load", "unload"):
        answer = client.post(f"/v2/repository/models/add/{verb}", json={})
        assert answer.status_code == 403
        assert "serve.model_control" in answer.json()["error"]
    assert ask(client, 1).is_success


def test_load_and_unload(controlled: Any) -> None:
    """Live at once, gone at once, back as it was; each change once, and each in the audit."""
    server = controlled
    with server.client() as client:
        load, unload = (f"/v2/repository/models/add/{verb}" for verb in ("load", "unload"))
        assert client.get("/v2/models/add/ready").status_code == 404
        for _ in range(2):
            assert client.post(load).status_code == 200
            assert ask(client, 1).json()["outputs"][0]["data"] == [3001]
        config = {"parameters": {"config": '{"max_batch_size": "16"}'}}
        assert client.post(load, json=config).status_code == 200
        assert client.get("/v2/models/add/config").json()["max_batch_size"] == 16
        for _ in range(2):
            assert client.post(unload, json={}).status_code == 200
            assert ask(client, 1).status_code == 404
        assert client.post(load, json={}).status_code == 200
        assert client.get("/v2/models/add/config").json()["max_batch_size"] == 16
        for verb in ("load", "unload"):
            answer = client.post(f"/v2/repository/models/none/{verb}")
            assert answer.status_code == 404
            assert f"failed to {verb} 'none'" in answer.json()["error"]
    verbs = [entry.verb for entry in read_audit(server.home.store, subject="add")]
    assert verbs == ["load", "stop", "load", "load"]


def test_a_key_needs_the_right_scope(launch: Callable[..., Any]) -> None:
    """Statistics take ``query``; what changes or lists everything takes ``operate``."""
    keys: dict[str, str] = {}

    def make(home: Any) -> None:
        for name, scope, limit in (
            ("q", "query", None),
            ("o", "operate", None),
            ("e", "operate", ["elsewhere"]),
        ):
            made = create_key(home, name, scopes=[scope], applications=limit, by="tests")
            keys[name] = made.key

    with launch(make, TIDEMILL_SERVE_MODEL_CONTROL="explicit") as server, server.client() as client:
        wanted = {
            ("GET", "/v2/models/add/stats"): (401, 200, 403, 403),
            ("GET", "/v2/models/add/config"): (401, 200, 403, 403),
            ("POST", "/v2/repository/index"): (401, 403, 200, 403),
            ("POST", "/v2/repository/models/add/load"): (401, 403, 200, 403),
            ("POST", "/v2/systemsharedmemory/unregister"): (401, 403, 501, 501),
        }
        for (method, path), statuses in wanted.items():
            for name, status in zip(("", "q", "o", "e"), statuses, strict=True):
                headers = {"Authorization": f"Bearer {keys[name]}"} if name else {}
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == status, (path, name, answer.text)
        headers = {"Authorization": f"Bearer {keys['o']}"}
        assert client.post("/v2/repository/models/add/unload", headers=headers).is_success
        (entry, *_) = read_audit(server.home.store, subject="add")
        assert (entry.verb, entry.by) == ("stop", "v2 repository, key 'o'")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"parameters": {"file:1/model.onnx": "AAAA"}}', Refused),
        (b'{"parameters": {"config": "{}", "file:x": ""}}', Refused),
        (b'{"parameters": {"config": "\\"parameters\\": {"}}', InvalidInput),
        (b'{"parameters": {"config": {"max_batch_size": 4}}}', InvalidInput),
        (b'{"parameters": {"config": "{\\"backend\\": \\"python\\"}"}}', InvalidInput),
        (b'{"parameters": {"config": "{\\"max_batch_size\\": 0}"}}', InvalidInput),
        (b'{"parameters": {"config": "{\\"max_batch_size\\": 1e99}"}}', InvalidInput),
        (b'{"parameters": []}', InvalidInput),
        (b"[" * 100_000, InvalidInput),
        (b"\xff", InvalidInput),
    ],
)
def test_a_load_takes_no_files_and_no_configuration(body: bytes, error: type[Exception]) -> None:
    """Nothing but max_batch_size comes from a client, and code never does."""
    with pytest.raises(error, match="failed to load 'm'"):
        read_load("m", body)


def test_shared_memory_is_refused(client: httpx.Client) -> None:
    """Clients are told why, in every operation of it."""
    for path in ("/v2/systemsharedmemory/region/a/register", "/v2/cudasharedmemory/unregister"):
        answer = client.post(path, json={})
        assert answer.status_code == 501
        assert "shared memory" in answer.json()["error"]
    assert client.get("/v2/systemsharedmemory/status").status_code == 501


def test_errors_travel_whole() -> None:
    """What the supervisor raises is what the client is told; what is not ours has its words."""
    error = error_of(fault_of(Refused("no", remedy="Ask.")))
    assert (type(error), str(error)) == (Refused, "no. Ask.")
    assert "ValueError: odd" in str(error_of(fault_of(ValueError("odd"))))
