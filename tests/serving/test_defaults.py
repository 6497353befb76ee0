"""When the promise cannot be kept, the stated default stands in; a wrong request never gets it."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections import defaultdict
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidemill.control.deployments import get_deployment
from tidemill.data.ledger import read_ledger
from tidemill.serving import live

SLO_S = 0.3
MARGIN_S = 0.4
"""What a busy machine may add; the slow model takes far longer."""

LONG_MS = 1500.0
DEADLY = 13.0
UNUSED_QUEUES = itertools.count(5000)


@pytest.fixture
def plain(server: Any) -> str:
    """An application without a default, whose queue is new and whose worker is idle."""
    return fresh(server, "slow")


@pytest.fixture
def covered(server: Any) -> str:
    """The same with a default."""
    return fresh(server, "slow-default", default={"value": -1.0})


def fresh(server: Any, application: str, **terms: Any) -> str:
    """Deploys it with a queue of its own, which has learned nothing yet."""
    plan = {"placement": "worker", "max_queue": next(UNUSED_QUEUES), **terms.pop("plan", {})}
    server.deploy(application, "slow", plan=plan, slo_ms=SLO_S * 1000, **terms)

    def alive() -> bool:
        with server.client() as client:
            return bool(client.get(f"/v2/models/{application}/ready").is_success)

    server.until(alive, "a live replica")
    return application


def ask(client: httpx.Client, application: str, *xs: float, **more: Any) -> httpx.Response:
    """Asks for rows by v1."""
    body = {"instances": [[x] for x in xs], **more}
    return client.post(f"/v1/models/{application}:predict", json=body)


def counted(client: httpx.Client, application: str) -> dict[str, float]:
    """Queries, answers by source, errors and defaults by kind, of one application."""
    found: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            labels = dict(sample.labels)
            if labels.pop("application", None) == application:
                labels.pop("version", None)
                found["/".join((sample.name, *labels.values()))] += sample.value
    return found


def pipelined(server: Any, path: str, instances: list[Any]) -> list[dict[str, Any]]:
    """Sends requests in one write, so that they arrive together; returns their answers."""
    sent = b""
    for each in instances:
        body = json.dumps({"instances": each}).encode()
        sent += b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (
            path.encode(),
            len(body),
            body,
        )
    answers = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as received:
            for _ in instances:
                head = b"".join(iter(received.readline, b"\r\n"))
                assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
                length = int(head.lower().split(b"content-length: ")[1].split()[0])
                answers.append(json.loads(received.read(length)))
    return answers


def grown(before: dict[str, float], after: dict[str, float], start: str) -> dict[str, float]:
    """What has grown among the samples whose name starts so."""
    grew = {name: after[name] - before.get(name, 0) for name in after if name.startswith(start)}
    return {name.removeprefix(start): by for name, by in grew.items() if by}


def test_a_slow_replica_is_covered_in_time(server: Any, client: httpx.Client, covered: str) -> None:
    """The default comes by the deadline, says what it is, is counted and is in the ledger."""
    before = counted(client, covered)
    began = time.monotonic()
    answer = ask(client, covered, LONG_MS)
    took = time.monotonic() - began
    assert answer.status_code == 200
    body = answer.json()
    assert (body["predictions"], body["sources"], body["model_version"]) == ([-1], ["default"], "0")
    assert took < SLO_S + MARGIN_S
    after = counted(client, covered)
    assert grown(before, after, "tidemill_answers_total/") == {"default": 1}
    assert grown(before, after, "tidemill_defaults_total/") == {"DeadlineExceeded": 1}
    assert grown(before, after, "tidemill_queries_total/") == {"defaulted": 1}
    assert grown(before, after, "tidemill_stage_seconds_count/").get("default") == 1
    assert grown(before, after, "tidemill_errors_total") == {}
    ledger = read_ledger(server.home.ledger_path, covered).predictions.to_pylist()
    (kept,) = [each for each in ledger if each["prediction_id"] == body["prediction_ids"][0]]
    assert (kept["source"], kept["version"]) == ("default", 0)
    assert json.loads(kept["outputs"]) == {"value": -1.0}


def test_every_row_gets_the_default(client: httpx.Client, covered: str) -> None:
    """A batch is covered whole, in both protocols."""
    rows = ask(client, covered, 0.0, LONG_MS, 1.0).json()
    assert (rows["predictions"], rows["sources"]) == ([-1.0] * 3, ["default"] * 3)
    assert len(set(rows["prediction_ids"])) == 3
    tensor = {"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [LONG_MS, 0]}
    request = {"inputs": [tensor], "parameters": {"timeout": 1}, "id": "7"}
    answer = client.post(f"/v2/models/{covered}/infer", json=request).json()
    assert (answer["id"], answer["model_version"]) == ("7", "0")
    assert answer["parameters"]["source"] == "default"
    assert answer["outputs"][0]["data"] == [-1.0, -1.0]
    assert answer["outputs"][0]["shape"] == [2]


def test_without_a_default_a_slow_replica_is_a_typed_error(
    client: httpx.Client, plain: str
) -> None:
    """The same query without a default is 504 by the deadline, counted as an error."""
    before = counted(client, plain)
    began = time.monotonic()
    answer = ask(client, plain, LONG_MS)
    assert time.monotonic() - began < SLO_S + MARGIN_S
    assert answer.status_code == 504
    assert "no answer within 300.0 ms" in answer.json()["error"]
    after = counted(client, plain)
    assert grown(before, after, "tidemill_errors_total/") == {"DeadlineExceeded": 1}
    assert grown(before, after, "tidemill_answers_total/") == {}


def test_a_dead_replica_is_covered_and_comes_back(
    server: Any, client: httpx.Client, covered: str
) -> None:
    """A query that kills its worker gets the default in time; the worker is started again."""
    began = time.monotonic()
    answer = ask(client, covered, DEADLY).json()
    assert time.monotonic() - began < SLO_S + MARGIN_S
    assert (answer["predictions"], answer["sources"]) == ([-1.0], ["default"])
    meanwhile = ask(client, covered, 1.25).json()
    assert (meanwhile["predictions"][0], meanwhile["sources"]) in [
        (-1.0, ["default"]),
        (2.5, ["model"]),
    ]
    number = itertools.count(1)

    def recovered() -> bool:
        x = next(number) / 1024
        again = ask(client, covered, x).json()
        return bool(again["sources"] == ["model"] and again["predictions"] == [2 * x])

    server.until(recovered, "the worker's return")


def test_a_replica_that_was_slow_once_is_asked_again(
    server: Any, client: httpx.Client, covered: str
) -> None:
    """What one slow batch taught does not keep an application on its default for ever."""
    assert ask(client, covered, LONG_MS).json()["sources"] == ["default"]
    number = itertools.count(1)

    def recovered() -> bool:
        return bool(ask(client, covered, next(number) / 4096).json()["sources"] == ["model"])

    server.until(recovered, "an answer by the model")


def test_without_a_default_a_dead_replica_is_a_typed_error(
    server: Any, client: httpx.Client, plain: str
) -> None:
    """The same query without a default is 503, with when to try again."""
    answer = ask(client, plain, DEADLY)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "Retry" in answer.json()["error"]
    server.until(lambda: ask(client, plain, 0.5).is_success, "the worker's return")


def test_a_full_queue_is_covered(server: Any, client: httpx.Client) -> None:
    """What the queue has no room for gets the default, and what waits in it its answer."""
    covered = fresh(
        server, "slow-default", default={"value": -1.0}, plan={"max_queue": 1, "max_batch": 1}
    )
    before = counted(client, covered)
    began = time.monotonic()
    first, *others = pipelined(
        server, f"/v1/models/{covered}:predict", [[[50 + at]] for at in range(8)]
    )
    assert time.monotonic() - began < SLO_S + MARGIN_S
    assert (first["predictions"], first["sources"]) == ([100.0], ["model"])
    for other in others:
        assert (other["predictions"], other["sources"]) == ([-1.0], ["default"])
    after = counted(client, covered)
    assert grown(before, after, "tidemill_defaults_total/") == {"Overloaded": 7}
    assert grown(before, after, "tidemill_answers_total/") == {"model": 1, "default": 7}
    fresh(server, "slow-default", default={"value": -1.0})


def test_a_wrong_request_never_gets_the_default(client: httpx.Client, covered: str) -> None:
    """What the client or the model has to mend is told; the default would hide it."""
    before = counted(client, covered)
    for body, what in (
        ({"instances": [[1, 2]]}, "in row 0"),
        ({"instances": [["a"]]}, "'a' in row 0"),
        ({"instances": []}, "no rows"),
        ({"instances": [[1]], "timeout_ms": -1}, "not positive"),
    ):
        answer = client.post(f"/v1/models/{covered}:predict", json=body)
        assert answer.status_code == 400
        assert what in answer.json()["error"]
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]}
    version = client.post(f"/v2/models/{covered}/versions/9/infer", json={"inputs": [tensor]})
    assert version.status_code == 404
    failed = ask(client, covered, -1.0)
    assert failed.status_code == 500
    assert "less than nothing" in failed.json()["error"]
    after = counted(client, covered)
    assert grown(before, after, "tidemill_defaults_total") == {}
    assert grown(before, after, "tidemill_answers_total") == {}
    assert grown(before, after, "tidemill_errors_total/") == {"ModelFailed": 1}


def test_the_default_is_not_kept(server: Any, client: httpx.Client, covered: str) -> None:
    """A default is never cached: once the model can answer, it does."""
    x = 41.0
    short = ask(client, covered, x, timeout_ms=0.001).json()
    assert short["sources"] == ["default"]
    assert ask(client, covered, x).json()["predictions"] == [82.0]
    again = ask(client, covered, x, timeout_ms=0.001).json()
    assert (again["predictions"], again["sources"]) == ([82.0], ["cache"])


@pytest.mark.parametrize(
    ("default", "what"),
    [
        ({"other": 1}, "['other'], the model gives ['value']"),
        ({"value": "a"}, "output 'value' holds 'a'"),
        ({"value": [1, 2]}, "output 'value' holds [1, 2]"),
        ({"value": 1e39}, "too large for FP32"),
        ({"value": True}, "output 'value' holds True"),
    ],
)
def test_a_default_that_is_no_answer_does_not_go_live(
    server: Any, client: httpx.Client, covered: str, default: dict[str, Any], what: str
) -> None:
    """A default that the model could not give is refused by name; what was live answers on."""
    # Control would refuse it first: it is written past control, as an older release might have.
    home = server.home
    wrong = msgspec.structs.replace(get_deployment(home, covered), default=default)
    with home.store.write(live.TABLES) as conn:
        written = live.write_deployment(
            conn, wrong, by="tests", reason="a test", at=home.clock.now()
        )

    def told() -> bool:
        return any(
            each["revision"] == written.revision and what in each["reason"]
            for each in server.health()["refused"]
        )

    server.until(told, "the refusal")
    assert ask(client, covered, 2.0).json()["predictions"] == [4.0]
    fresh(server, covered, default={"value": -1.0})
