"""Keys at a real server: who is let in, where to, and how soon a change of that is known."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tidemill.control.keys import create_key, list_keys, revoke_key
from tidemill.data.ledger import read_ledger
from tidemill.foundation.home import Home

ASK = {"instances": [[1]]}
PREDICT = "/v1/models/add:predict"
INFER = "/v2/models/add/infer"
OPEN = ("/v2/health/live", "/v2/health/ready")
CLOSED = (
    "/openapi.json",
    "/v2",
    "/v2/models",
    "/v2/models/add",
    "/v2/models/add/ready",
    "/v1/models",
    "/metrics",
)
WITHIN_S = 1.0


def key_of(home: Home, name: str, *scopes: str, **given: Any) -> str:
    """Makes a key."""
    return create_key(home, name, scopes=scopes or ("query",), by="tests", **given).key


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(launch: Callable[..., Any]) -> Iterator[Any]:
    """A server where a key is needed from the start: one of every kind is in ``keys``."""
    keys: dict[str, str] = {}

    def make(home: Home) -> None:
        keys["query"] = key_of(home, "query")
        keys["feedback"] = key_of(home, "feedback", "feedback")
        keys["operate"] = key_of(home, "operate", "operate")
        keys["elsewhere"] = key_of(home, "elsewhere", "query", applications=["other"])
        keys["here"] = key_of(home, "here", "query", "feedback", applications=["add"])

    with launch(make, TIDEMILL_SERVE_LABELS_PER_MINUTE="50") as server:
        server.keys = keys
        yield server


@pytest.fixture
def ask(guarded: Any) -> Iterator[httpx.Client]:
    """A client that carries no key by itself."""
    with guarded.client() as client:
        yield client


def failed(response: httpx.Response, status: int, *words: str) -> None:
    """Checks a refusal: its status, its one sentence, and that it repeats no key."""
    assert response.status_code == status, response.text
    said = response.json()
    assert list(said) == ["error"]
    assert "tidemill_" not in said["error"]
    for word in words:
        assert word in said["error"]
    assert ("www-authenticate" in response.headers) == (status == 401)


def eventually(happened: Callable[[], bool]) -> None:
    """Waits for what a server promises within a second; fails long after that, not by load."""
    deadline = time.monotonic() + 20 * WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.02)


def test_health_is_open_and_all_else_needs_a_key(ask: httpx.Client) -> None:
    """Without a key: a load balancer may ask whether it lives, and nobody anything else."""
    for path in OPEN:
        assert ask.get(path).status_code == 200
    for path in CLOSED:
        failed(ask.get(path), 401, "a key is needed")
    for path in (PREDICT, INFER, "/v1/models/add:feedback"):
        failed(ask.post(path, json=ASK), 401, "a key is needed")


def test_a_key_is_taken_from_either_header_and_from_no_url(guarded: Any, ask: httpx.Client) -> None:
    """Bearer and X-API-Key say the same; a URL says nothing; two keys say too much."""
    key = guarded.keys["query"]
    assert ask.post(PREDICT, json=ASK, headers=bearer(key)).status_code == 200
    assert ask.post(PREDICT, json=ASK, headers={"X-API-Key": key}).status_code == 200
    for query in (f"?key={key}", f"?api_key={key}", f"?access_token={key}"):
        failed(ask.post(PREDICT + query, json=ASK), 401)
    twice = [("Authorization", f"Bearer {key}"), ("X-API-Key", key)]
    failed(ask.post(PREDICT, json=ASK, headers=twice), 400, "more than one key")
    failed(ask.post(PREDICT, json=ASK, headers=bearer(key[:-1])), 401, "not known")
    failed(ask.post(PREDICT, json=ASK, headers={"Authorization": f"Basic {key}"}), 401)


def test_scope_and_application_must_fit(guarded: Any, ask: httpx.Client) -> None:
    """Each operation takes its own scope; a key for some applications opens no other."""
    keys = guarded.keys
    failed(ask.post(PREDICT, json=ASK, headers=bearer(keys["feedback"])), 403, "'query'")
    failed(ask.post(PREDICT, json=ASK, headers=bearer(keys["operate"])), 403, "'query'")
    failed(ask.post(PREDICT, json=ASK, headers=bearer(keys["elsewhere"])), 403, "'add'")
    failed(ask.post("/v1/models/add:feedback", json=[], headers=bearer(keys["query"])), 403)
    assert ask.post(PREDICT, json=ASK, headers=bearer(keys["here"])).status_code == 200
    failed(ask.get("/metrics", headers=bearer(keys["here"])), 403, "whole installation")
    assert ask.get("/metrics", headers=bearer(keys["query"])).status_code == 200


def test_a_key_sees_its_own_applications(guarded: Any, ask: httpx.Client) -> None:
    """What there is besides is not told, nor whether it exists."""
    keys = guarded.keys
    for path in ("/v2/models", "/v1/models"):
        assert ask.get(path, headers=bearer(keys["query"])).json() == {"models": ["add"]}
        assert ask.get(path, headers=bearer(keys["elsewhere"])).json() == {"models": []}
    for name in ("add", "none"):
        asked = ask.get(f"/v2/models/{name}", headers=bearer(keys["elsewhere"]))
        failed(asked, 403, f"'{name}'")


def test_the_api_document_shows_a_key_its_own_applications(guarded: Any, ask: httpx.Client) -> None:
    """Which schemas there are is told to who may ask them; either header carries the key."""
    keys = guarded.keys
    whole = ask.get("/openapi.json", headers=bearer(keys["query"])).json()
    here = ask.get("/openapi.json", headers=bearer(keys["here"])).json()
    elsewhere = ask.get("/openapi.json", headers={"X-API-Key": keys["elsewhere"]}).json()
    assert INFER in whole["paths"]
    assert here == whole
    assert INFER not in elsewhere["paths"]
    security = whole["paths"][INFER]["post"]["security"]
    assert security == [{"bearer": []}, {"header": []}]
    assert whole["paths"]["/v2/health/live"]["get"]["security"] == []


def test_a_kept_connection_is_no_pass(guarded: Any) -> None:
    """Requests of one connection are judged one by one, pipelined ones too."""
    key = guarded.keys["query"]
    body = json.dumps(ASK)

    def request(*headers: str) -> bytes:
        lines = [f"POST {PREDICT} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
        return "\r\n".join([*lines, "", body]).encode()

    yes, no = request(f"Authorization: Bearer {key}"), request()
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as sock:
        sock.sendall(no + yes + no + yes + no)
        said = b""
        while said.count(b"HTTP/1.1") < 5 or not said.endswith(b"}"):
            said += sock.recv(65536)
        for each in (no, yes, yes, no):  # the same bytes again, on their own
            sock.sendall(each)
            more = sock.recv(65536)
            while not more.endswith(b"}"):
                more += sock.recv(65536)
            said += more
    statuses = [int(part.split(b" ", 1)[0]) for part in said.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [401, 200, 401, 200, 401, 401, 200, 200, 401]


def test_a_key_in_a_trailer_comes_too_late(guarded: Any) -> None:
    """What follows a body does not say who sent it."""
    body = json.dumps(ASK).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailer = f"Authorization: Bearer {guarded.keys['query']}\r\n\r\n"
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as sock:
        sock.sendall(head.encode() + chunk + trailer.encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_stranger_s_body_is_not_kept(guarded: Any) -> None:
    """It is told so after the body, on a connection that goes on; nothing of it is held."""
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=20)
    for _ in range(3):
        connection.request("POST", PREDICT, body=b"[" * (4 << 20))
        response = connection.getresponse()
        assert response.status == 401
        response.read()
    connection.request("POST", PREDICT, json.dumps(ASK), bearer(guarded.keys["query"]))
    assert connection.getresponse().status == 200
    connection.close()


def test_refusals_are_counted_by_kind_and_key(guarded: Any, ask: httpx.Client) -> None:
    """Metrics name keys, never show them, and tell strangers from those who may not."""
    keys = guarded.keys
    ask.post(PREDICT, json=ASK)
    ask.post(PREDICT, json=ASK, headers=bearer("tidemill_nonsense"))
    ask.post(PREDICT, json=ASK, headers=bearer(keys["feedback"]))
    ask.post(PREDICT, json=ASK, headers=bearer(keys["elsewhere"]))
    text = ask.get("/metrics", headers=bearer(keys["query"])).text
    for labels in (
        'key="",kind="missing"',
        'key="",kind="unknown"',
        'key="feedback",kind="scope"',
        'key="elsewhere",kind="application"',
    ):
        assert f"tidemill_key_refusals_total{{{labels}}}" in text
    assert 'tidemill_key_last_used_seconds{key="query"}' in text
    assert not [key for key in keys.values() if key in text or key[9:] in text]


def test_labels_say_which_key_brought_them(guarded: Any, ask: httpx.Client) -> None:
    """The ledger names the key of each label, and of no other."""
    headers = bearer(guarded.keys["here"])
    (made,) = ask.post(PREDICT, json=ASK, headers=headers).json()["prediction_ids"]
    path = "/v1/models/add:feedback"
    for key in ("here", "feedback"):
        label = [{"prediction_id": made, "label": key}]
        said = ask.post(path, json=label, headers=bearer(guarded.keys[key]))
        assert said.json() == {"accepted": 1}
    rows = read_ledger(guarded.home.ledger_path, "add").labels.to_pylist()
    found = {row["key"]: row["label_text"] for row in rows if row["prediction_id"] == made}
    assert found == {"here": "here", "feedback": "feedback"}


def test_a_key_may_send_so_many_labels(guarded: Any, ask: httpx.Client) -> None:
    """More in a minute are refused whole, by 429; another key's are not."""
    greedy = bearer(key_of(guarded.home, "greedy", "query", "feedback"))
    eventually(lambda: ask.post(PREDICT, json=ASK, headers=greedy).status_code == 200)
    (made,) = ask.post(PREDICT, json=ASK, headers=greedy).json()["prediction_ids"]
    path, label = "/v1/models/add:feedback", {"prediction_id": made, "label": 1}
    failed(ask.post(path, json=[label] * 51, headers=greedy), 429, "'greedy'", "50 labels")
    assert ask.post(path, json=[label] * 50, headers=greedy).json() == {"accepted": 50}
    refused = ask.post(path, json=[label] * 50, headers=greedy)
    failed(refused, 429)
    assert int(refused.headers["retry-after"]) > 0
    other = bearer(guarded.keys["feedback"])
    assert ask.post(path, json=[label], headers=other).json() == {"accepted": 1}


def test_a_new_key_and_a_revoked_one_are_known_soon(guarded: Any, ask: httpx.Client) -> None:
    """On a running server, also for connections that used the key before."""
    key = key_of(guarded.home, "short-lived")
    headers = bearer(key)

    def status() -> int:
        return ask.post(PREDICT, json=ASK, headers=headers).status_code

    eventually(lambda: status() == 200)
    revoke_key(guarded.home, "short-lived", by="tests", reason="a test")
    eventually(lambda: status() == 401)
    assert status() == 401


def test_a_key_expires_on_a_kept_connection(guarded: Any, ask: httpx.Client) -> None:
    """Its time is looked at again while it is in use, at least every second."""
    key = key_of(guarded.home, "expiring", expires_s=3.0)

    def response() -> httpx.Response:
        return ask.post(PREDICT, json=ASK, headers=bearer(key))

    eventually(lambda: response().status_code == 200)
    eventually(lambda: response().status_code == 401)
    time.sleep(1.5 * WITHIN_S)  # a head that came before is believed until the next look
    for _ in range(20):
        failed(response(), 401, "'expiring' has expired")


def test_the_admin_api_takes_keys_that_operate(guarded: Any) -> None:
    """Reading and changing take the scope; the metrics are open to this machine."""
    keys = guarded.keys
    base = f"http://127.0.0.1:{guarded.admin_port}"
    with httpx.Client(base_url=base, timeout=20) as admin:
        assert admin.get("/metrics").status_code == 200
        for path in ("/admin/v1/health", "/admin/v1/keys", "/admin/v1/models"):
            failed(admin.get(path), 401, "a key is needed")
            failed(admin.get(path, headers=bearer(keys["query"])), 403, "'operate'")
            assert admin.get(path, headers=bearer(keys["operate"])).status_code == 200
        failed(admin.post("/admin/v1/applications/add:promote", json={"version": 2}), 401)


def test_the_first_key_closes_an_open_server_and_the_last_one_does_not_open_it(
    launch: Callable[..., Any],
) -> None:
    """From the first key on, one is needed: revoked or not, without a restart."""
    with launch() as server, server.client() as client:
        assert client.post(PREDICT, json=ASK).status_code == 200
        key = key_of(server.home, "first")
        eventually(lambda: client.post(PREDICT, json=ASK).status_code == 401)
        assert client.post(PREDICT, json=ASK, headers=bearer(key)).status_code == 200
        revoke_key(server.home, "first", by="tests", reason="a test")
        eventually(lambda: client.post(PREDICT, json=ASK, headers=bearer(key)).status_code == 401)
        assert client.post(PREDICT, json=ASK).status_code == 401
        assert [each.state for each in list_keys(server.home)] == ["revoked"]


def test_a_server_that_requires_keys_lets_nobody_in_before_there_is_one(
    launch: Callable[..., Any],
) -> None:
    """The setting closes it from the start; several gateways learn of the first key alike."""
    more = {"TIDEMILL_SERVE_REQUIRE_KEYS": "true", "TIDEMILL_SERVE_GATEWAYS": "2"}
    with launch(**more) as server:
        assert httpx.post(f"http://{server.address}{PREDICT}", json=ASK).status_code == 401
        key = key_of(server.home, "first")

        def all_know() -> bool:
            url = f"http://{server.address}{PREDICT}"  # a new connection each: either gateway
            asked = [httpx.post(url, json=ASK, headers=bearer(key)) for _ in range(12)]
            return {each.status_code for each in asked} == {200}

        eventually(all_know)
