"""Web pages of other origins: those that are named may ask with a key of theirs, others may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tidemill.control.keys import create_key
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.home import Home
from tidemill.foundation.settings import ServeSettings
from tidemill.serving.cors import MAX_ORIGINS, cors_of
from tidemill.serving.edge import Edge
from tidemill.serving.limits import Limits

APP, LOCAL, EVIL = "https://app.example", "http://localhost:3000", "https://evil.example"
PREDICT = "/v1/models/add:predict"
ASK = {"instances": [[1]]}
CROSS = {"Sec-Fetch-Site": "cross-site"}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
ALLOW = "access-control-allow-origin"


@pytest.fixture(scope="module")
def opened(launch: Callable[..., Any]) -> Iterator[Any]:
    """A server with keys that two origins may ask."""
    keys: list[str] = []

    def make(home: Home) -> None:
        keys.append(create_key(home, "page", scopes=("query",), by="tests").key)

    with launch(make, TIDEMILL_SERVE_CORS_ORIGINS=f"{APP}, {LOCAL}") as server:
        server.key = keys[0]
        yield server


@pytest.fixture
def page(opened: Any) -> Iterator[httpx.Client]:
    """What a browser sends for a page with the server's key."""
    with opened.client() as client:
        client.headers.update({**CROSS, "Authorization": f"Bearer {opened.key}"})
        yield client


def varies(answer: httpx.Response) -> set[str]:
    """The headers that a cache must tell answers apart by."""
    said = ",".join(answer.headers.get_list("vary"))
    return {each.strip() for each in said.split(",") if each.strip()}


@pytest.mark.parametrize("origin", [APP, LOCAL])
@pytest.mark.parametrize("path", [PREDICT, "/v2/models/add/infer", "/v2/models", "/nothing"])
def test_a_named_origin_is_told_that_it_may_ask(opened: Any, origin: str, path: str) -> None:
    """A preflight carries no key and needs none; what it says may be remembered for a while."""
    with opened.client() as client:
        told = client.options(path, headers={**CROSS, **PREFLIGHT, "Origin": origin})
    assert told.status_code == 200
    assert told.content == b""
    assert told.headers[ALLOW] == origin
    assert "POST" in told.headers["access-control-allow-methods"]
    allowed = told.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "inference-header-content-length"} <= set(allowed)
    assert int(told.headers["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in told.headers
    assert {"origin", "access-control-request-headers"} <= varies(told)


def test_a_named_origin_is_answered_with_its_key(page: httpx.Client) -> None:
    """Its posts are taken, again and again on one connection, and its browser may read them."""
    for _ in range(3):
        answer = page.post(PREDICT, json=ASK, headers={"Origin": APP})
        assert answer.status_code == 200, answer.text
        assert answer.headers[ALLOW] == APP
        assert "origin" in varies(answer)
        assert "inference-header-content-length" in answer.headers["access-control-expose-headers"]
        assert page.post(PREDICT, json=ASK, headers={"Origin": LOCAL}).headers[ALLOW] == LOCAL


@pytest.mark.parametrize("origin", [EVIL, "null", APP.upper(), APP + ".evil.example", APP + "/"])
def test_any_other_origin_is_refused_and_told_nothing(page: httpx.Client, origin: str) -> None:
    """Neither a preflight nor a post of another page counts, and no answer is shown to it."""
    for refused in (
        page.options(PREDICT, headers={**PREFLIGHT, "Origin": origin}),
        page.post(PREDICT, json=ASK, headers={"Origin": origin}),
    ):
        assert refused.status_code == 403
        assert "cors_origins" in refused.json()["error"]
        assert ALLOW not in refused.headers
        assert "origin" in varies(refused)
    read = page.get("/v2/models", headers={"Origin": origin})
    assert read.status_code == 200
    assert ALLOW not in read.headers


def test_a_page_sees_why_it_was_refused(opened: Any, page: httpx.Client) -> None:
    """No key, a wrong body, one too large: each refusal is shown to a page that may ask."""
    key = page.headers.pop("Authorization")
    unknown = page.post(PREDICT, json=ASK, headers={"Origin": APP})
    page.headers["Authorization"] = key
    wrong = page.post(PREDICT, content=b"{", headers={"Origin": APP})
    for refused, status in ((unknown, 401), (wrong, 400)):
        assert refused.status_code == status
        assert refused.headers[ALLOW] == APP, status
    connection = opened.connection()
    connection.putrequest("POST", PREDICT)
    connection.putheader("Content-Length", str(1 << 30))
    connection.putheader("Origin", APP)  # where browsers put it
    connection.endheaders()
    large = connection.getresponse()
    assert large.status == 413
    assert large.headers[ALLOW] == APP
    connection.close()


def test_without_a_page_all_is_as_it_was(page: httpx.Client) -> None:
    """A client that names no origin is answered as ever; only caches are told of the difference."""
    del page.headers["Sec-Fetch-Site"]
    answer = page.post(PREDICT, json=ASK)
    assert answer.status_code == 200
    assert ALLOW not in answer.headers
    assert page.options(PREDICT).status_code == 405
    assert page.post(PREDICT, json=ASK, headers=[("Origin", APP), ("Origin", EVIL)]).is_error


def test_off_by_default(client: httpx.Client) -> None:
    """Where no origin is named, no answer says a word of CORS and no page of another site posts."""
    headers = {"Origin": APP, **CROSS}
    assert client.options(PREDICT, headers={**headers, **PREFLIGHT}).status_code == 405
    assert client.post(PREDICT, json=ASK, headers=headers).status_code == 403
    answer = client.get("/v2", headers=headers)
    assert not [name for name in answer.headers if name.startswith(("access-control", "vary"))]


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

    def find(self, method: bytes, target: bytes) -> Any:
        return lambda exchange: exchange.answer(b"{}")


def test_a_star_is_for_every_page_and_for_no_credentials() -> None:
    """With ``*`` any page may ask; the answer is the same for all of them."""
    edge = Edge(Handlers(), Limits(), FakeClock(), cors=cors_of(ServeSettings(cors_origins="*")))
    connection: Any = edge.protocol()
    transport = Transport()
    connection.connection_made(transport)
    head = b"POST /now HTTP/1.1\r\nhost: x\r\nsec-fetch-site: cross-site\r\norigin: null\r\n\r\n"
    connection.data_received(head)
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert b"access-control-allow-origin: *\r\n" in transport.written
    assert b"vary" not in transport.written
    assert b"credentials" not in transport.written


@pytest.mark.parametrize(
    ("origins", "words"),
    [
        ("https://app.example/", "without a path"),
        ("https://App.example", "lower case"),
        ("https://app.example:443", "own port"),
        ("app.example", "SCHEME://HOST"),
        ("null", "SCHEME://HOST"),
        ("https://user@app.example", "SCHEME://HOST"),
        ("*, https://app.example", "alone"),
        (",".join(f"https://a{at}.example" for at in range(MAX_ORIGINS + 1)), "at most"),
    ],
)
def test_what_is_no_origin_is_told_before_anything_starts(origins: str, words: str) -> None:
    """An origin that no browser would send can never match: it is refused, with what would."""
    with pytest.raises(InvalidSettings, match=r"serve\.cors_origins") as caught:
        cors_of(ServeSettings(cors_origins=origins))
    assert words in str(caught.value)


def test_no_origins_are_no_cors() -> None:
    """Nothing, and commas alone, name nobody."""
    assert cors_of(ServeSettings()) is None
    assert cors_of(ServeSettings(cors_origins=" , ")) is None
