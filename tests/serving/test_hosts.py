"""By which names a server may be asked: a page whose name was led here is not answered."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tidemill.control.keys import create_key
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.settings import ServeSettings
from tidemill.serving.channel import Keys
from tidemill.serving.edge import Edge
from tidemill.serving.exchange import Exchange, Handler
from tidemill.serving.guard import Guard
from tidemill.serving.hosts import Hosts, hosts_of
from tidemill.serving.keys import Access, KeyRecord, new_key
from tidemill.serving.limits import Limits

PREDICT = "/v1/models/add:predict"
ASK = {"instances": [[1]]}
OWN = ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.0.1.1", "[::1]:8080"]
FOREIGN = [
    *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"),
    *("models.example.evil.example", "0.0.0.0", "[::2]", ""),
]


@pytest.fixture(scope="module")
def near(launch: Callable[..., Any]) -> Iterator[Any]:
    """A server on the loopback that needs no key, with one more name."""
    with launch(TIDEMILL_SERVE_ALLOWED_HOSTS="models.example, [fd00::7]") as server:
        yield server


def failed(response: httpx.Response, status: int, *words: str) -> None:
    """Checks a refusal: its status and its sentence."""
    assert response.status_code == status, response.text
    for word in words:
        assert word in response.json()["error"]


def test_only_names_of_the_loopback_and_named_ones_are_answered(near: Any) -> None:
    """On a kept connection, first and again: its own names, with a port or without, and no other.

    HTTP/1.0 knows no Host, and no browser speaks it. From the first key on, names are free: who
    has no key is not let in by any name.
    """
    assert old_request(near.port).startswith(b"HTTP/1.1 200 ")
    paths = ("/v2", "/v2/health/live", "/metrics", "/openapi.json", "/no/such/path")
    with near.client() as client:
        for host in [*OWN, "models.example", "Models.Example:443", "[fd00::7]:8080"] * 2:
            answer = client.post(PREDICT, json=ASK, headers={"host": host})
            assert answer.json()["predictions"] == [1001], host
        for host in FOREIGN * 2:
            failed(client.post(PREDICT, json=ASK, headers={"host": host}), 403, "allowed_hosts")
            for path in paths[:-1]:
                failed(client.get(path, headers={"host": host}), 403, repr(host))
            assert client.get(paths[-1], headers={"host": host}).status_code == 404
        key = create_key(near.home, "web", scopes=("query",), by="tests").key
        foreign = {"host": FOREIGN[0]}
        deadline = time.monotonic() + 20
        while client.get("/v2", headers=foreign).status_code != 401:
            assert time.monotonic() < deadline, "no key is needed yet"
            time.sleep(0.02)
        foreign["authorization"] = f"Bearer {key}"
        assert client.post(PREDICT, json=ASK, headers=foreign).status_code == 200


def old_request(port: int) -> bytes:
    """The answer to a request of HTTP/1.0 that names no host."""
    body = json.dumps(ASK).encode()
    head = f"POST {PREDICT} HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(head.encode() + body)
        return b"".join(iter(lambda: raw.recv(4096), b""))


def test_any_name_counts_on_an_address_that_others_reach(launch: Callable[..., Any]) -> None:
    """What keeps strangers out there is not a name."""
    public = {"TIDEMILL_SERVE_HOST": "0.0.0.0", "TIDEMILL_SERVE_ALLOW_PUBLIC": "true"}
    with launch(**public) as server, server.client() as client:
        answer = client.post(PREDICT, json=ASK, headers={"host": "models.example"})
        assert answer.status_code == 200


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str) -> Any:
        """There is no socket behind it."""

    def write(self, data: bytes) -> None:
        self.written += data


class Handlers:
    """Answers everything."""

    def find(self, method: bytes, target: bytes) -> Handler:
        return self.serve

    def access(self, handler: Handler) -> Access:
        return Access(scope="query")

    def serve(self, exchange: Exchange) -> None:
        exchange.answer(b"{}")


class Counting(Hosts):
    """Counts how often it is asked."""

    asked = 0

    def knows(self, said: str) -> bool:
        self.asked += 1
        return super().knows(said)


def test_a_name_is_looked_at_once_for_the_same_bytes_and_again_when_keys_change() -> None:
    """What was seen before anybody said whether keys are needed opens nothing later."""
    guard, hosts = Guard(FakeClock(), Instruments(), labels_per_minute=1), Counting()
    edge = Edge(Handlers(), Limits(), FakeClock(), guard=guard, hosts=hosts)
    own, foreign = (b"GET /now HTTP/1.1\r\nhost: %b\r\n\r\n" % name for name in (b"[::1]", b"x"))

    def statuses(*requests: bytes) -> list[int]:
        connection: Any = edge.protocol()
        transport = Transport()
        connection.connection_made(transport)
        for request in requests:
            connection.data_received(request)
        return [int(each[:3]) for each in transport.written.split(b"HTTP/1.1 ")[1:]]

    assert statuses(own, foreign, own, foreign) == [401] * 4
    assert hosts.asked == 0
    guard.replace(Keys(required=False, keys=()))
    assert statuses(own, own, own) == [200] * 3
    assert hosts.asked == 1
    assert statuses(foreign, foreign) == [403] * 2
    key, digest = new_key()
    record = KeyRecord(name="web", digest=digest, scopes=("query",))
    guard.replace(Keys(required=True, keys=(record,)))
    assert statuses(foreign, own) == [401] * 2
    assert statuses(foreign[:-2] + b"x-api-key: %b\r\n\r\n" % key.encode()) == [200]


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("*, x", "alone"),
        ("http://x", "scheme"),
        ("x:80", "port"),
        ("X", "lower case"),
        ("x/y", "'x/y'"),
        (",".join(f"h{n}" for n in range(101)), "101 hosts"),
    ],
)
def test_what_is_no_host_is_told_before_anything_starts(hosts: str, words: str) -> None:
    """The setting is read whatever the address, and names what is wrong."""
    with pytest.raises(InvalidSettings, match=r"serve\.allowed_hosts") as caught:
        hosts_of(ServeSettings(host="10.0.0.1", allowed_hosts=hosts), "10.0.0.1")
    assert words in str(caught.value)


def test_the_address_decides_whether_names_do() -> None:
    """A star allows all; so does an address that others reach; the server's own name is its own."""
    assert hosts_of(ServeSettings(allowed_hosts="*"), "127.0.0.1") is None
    assert hosts_of(ServeSettings(host="10.0.0.1"), "10.0.0.1") is None
    named = hosts_of(ServeSettings(host="My-Machine"), "127.0.1.1")
    assert named is not None
    assert named.knows("my-machine:8080")
    assert not named.knows("other-machine:8080")
    assert hosts_of(ServeSettings(host="::1"), "::1") is not None
