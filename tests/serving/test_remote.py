"""A remote replica survives what servers do: they go away, come back, hang and talk nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.foundation.errors import (
    InvalidInput,
    InvalidModel,
    InvalidSettings,
    ModelFailed,
    NotReady,
    Refused,
    TidemillError,
    WorkerLost,
)
from tidemill.foundation.settings import ServeSettings, load_settings
from tidemill.models.format import ModelManifest, write_model
from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving.plan import RemoteSpec
from tidemill.serving.replicas import http_connection
from tidemill.serving.replicas.address import (
    RemoteModel,
    check_host,
    read_signature,
    read_url,
    token_for,
)
from tidemill.serving.replicas.remote import RemoteReplica

SIGNATURE = Signature((Column("x", "int64"),), (Column("y", "float32"), Column("w", "string")))
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Answer = Callable[[bytes], bytes | None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that stands for a remote model."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "remote.json").write_text('{"url": "http://127.0.0.1:1/v2/models/m"}')
    manifest = ModelManifest(
        name="m", runtime="remote", signature=SIGNATURE, entry="remote.json", trust="data"
    )
    write_model(made, manifest)
    return made


def reply(body: Any, status: int = 200, more: str = "") -> bytes:
    """An HTTP answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Said\r\ncontent-length: {len(data)}\r\n{more}\r\n"
    return head.encode() + data


def good(body: bytes) -> bytes:
    """What a proper server answers: y = 2·x and a word."""
    (x,) = json.loads(body)["inputs"]
    y = {"name": "y", "datatype": "FP32", "shape": x["shape"], "data": [2 * v for v in x["data"]]}
    words = [f"w{v}" for v in x["data"]]
    return reply(
        {"outputs": [y, {"name": "w", "datatype": "BYTES", "shape": x["shape"], "data": words}]}
    )


class Far:
    """A server whose answers a test writes; None means that it hangs."""

    def __init__(self) -> None:
        self.answer: Answer = good
        self.ready = True
        self.closes_kept = False
        self.heads: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[Writer] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def vanish(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                lengths = [
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ]
                body = await reader.readexactly(lengths[0] if lengths else 0)
                if head.startswith(b"GET"):
                    writer.write(reply({}, 200 if self.ready else 503))
                    continue
                said = self.answer(body)
                if said is None:
                    continue
                writer.write(said)
                if self.closes_kept:
                    await writer.drain()
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@asynccontextmanager
async def started(
    folder: Path, *, timeout_s: float = 5.0, token: str | None = None
) -> AsyncIterator[tuple[Far, RemoteReplica]]:
    """A server and a replica that asks it, ready."""
    far = Far()
    await far.listen()
    model = RemoteModel(url=f"http://127.0.0.1:{far.port}/v2/models/m")
    replica = RemoteReplica(folder, model, timeout_s=timeout_s, token=token)
    await replica.start()
    try:
        yield far, replica
    finally:
        await replica.aclose()
        await far.vanish()


async def asked(replica: RemoteReplica, *x: int) -> Batch | TidemillError:
    """What becomes of a batch; fails if it ends twice."""
    future: asyncio.Future[Batch | TidemillError] = asyncio.get_running_loop().create_future()
    replica.submit({"x": np.array(x)}, lambda result, _=0.0: future.set_result(result))
    return await asyncio.wait_for(future, 20)


async def until(happened: Callable[[], bool]) -> None:
    """Waits for something."""
    async with asyncio.timeout(20):
        while not happened():
            await asyncio.sleep(0.01)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Runs a scenario, bounded."""

    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


def test_a_server_that_vanishes_ends_its_batches_and_is_found_again(folder: Path) -> None:
    """All that is out is lost at once; nothing is sent meanwhile; on its return it is told."""

    async def scenario() -> None:
        async with started(folder) as (far, replica):
            revived = asyncio.Event()
            replica.revived = revived.set
            assert isinstance(await asked(replica, 1), dict)
            far.answer = lambda _: None
            out = [asyncio.create_task(asked(replica, n)) for n in range(5)]
            await asyncio.sleep(0.2)
            assert replica.in_flight == 5
            await far.vanish()
            assert {type(each) for each in await asyncio.gather(*out)} == {WorkerLost}
            assert (replica.in_flight, replica.alive) == (0, False)
            assert isinstance(await asked(replica, 1), WorkerLost)
            far.answer = good
            await far.listen()
            await asyncio.wait_for(revived.wait(), 20)
            assert replica.alive
            answers = await asked(replica, 3, 4)
            assert isinstance(answers, dict)
            assert answers["y"].tolist() == [6.0, 8.0]
            assert answers["w"].tolist() == ["w3", "w4"]

    run(scenario)


def test_a_server_that_is_away_at_first_is_waited_for(folder: Path) -> None:
    """A gateway starts without it; it is asked when it is ready, and not before."""

    async def scenario() -> None:
        far = Far()
        await far.listen()
        await far.vanish()
        model = RemoteModel(url=f"http://127.0.0.1:{far.port}/v2/models/m")
        replica = RemoteReplica(folder, model, timeout_s=5.0)
        await replica.start()
        assert not replica.alive
        far.ready = False
        await far.listen()
        await asyncio.sleep(0.5)
        assert not replica.alive
        far.ready = True
        await until(lambda: replica.alive)
        assert isinstance(await asked(replica, 1), dict)
        await replica.aclose()
        await far.vanish()

    run(scenario)


def test_a_kept_connection_that_was_closed_costs_nothing(folder: Path) -> None:
    """Servers close connections that are idle; the batch goes on a new one."""

    async def scenario() -> None:
        async with started(folder) as (far, replica):
            far.closes_kept = True
            for n in range(20):
                answers = await asked(replica, n)
                assert isinstance(answers, dict), answers
                assert answers["y"].tolist() == [2.0 * n]
            assert replica.alive

    run(scenario)


def test_one_that_hangs_is_given_up(folder: Path) -> None:
    """After its time the batch is lost, its connection closed, and the next one is answered."""

    async def scenario() -> None:
        async with started(folder, timeout_s=0.2) as (far, replica):
            far.answer = lambda _: None
            lost = await asked(replica, 1)
            assert isinstance(lost, WorkerLost)
            assert "within 0.2 s" in str(lost)
            far.answer = good
            await until(lambda: replica.alive)
            assert isinstance(await asked(replica, 1), dict)

    run(scenario)


def output(name: str = "y", datatype: str = "FP32", shape: Any = (1,), **more: Any) -> Any:
    """An output as a server may describe it."""
    return {"name": name, "datatype": datatype, "shape": list(shape), **more}


WORD = output("w", "BYTES", data=["a"])
BINARY = "inference-header-content-length: %d\r\n"
LONG = json.dumps({"outputs": [WORD, output(parameters={"binary_data_size": 400})]}).encode()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (reply(b"not JSON"), "not in its signature"),
        (reply([]), "not in its signature"),
        (reply({"outputs": []}), "'y' is missing"),
        (reply({"outputs": [WORD, output(datatype="FP64", data=[1.0])]}), "'y' is FP64"),
        (reply({"outputs": [WORD, output(shape=(2,), data=[1.0, 2.0])]}), "shape [2] for 1 rows"),
        (reply({"outputs": [WORD, output(data=[1.0, 2.0])]}), "output 'y'"),
        (reply({"outputs": [WORD, output(data=["1"])]}), "output 'y'"),
        (reply({"outputs": [WORD, output()]}), "output 'y'"),
        (reply(b"{}", more=BINARY % 99), "99 of its 2 bytes"),
        (reply(b"{}", more="inference-header-content-length: x\r\n"), "-1 of its 2 bytes"),
        (reply(LONG, more=BINARY % len(LONG)), "the size 400"),
        (reply({"error": "boom"}, 500), "boom"),
    ],
)
def test_a_wrong_answer_is_the_models_fault(folder: Path, said: bytes, words: str) -> None:
    """Each is a typed error, and the connection goes on to serve."""

    async def scenario() -> None:
        async with started(folder) as (far, replica):
            far.answer = lambda _: said
            failed = await asked(replica, 1)
            assert isinstance(failed, ModelFailed)
            assert words in str(failed)
            far.answer = good
            assert replica.alive
            assert isinstance(await asked(replica, 1), dict)

    run(scenario)


@pytest.mark.parametrize(
    ("status", "kind", "alive"),
    [
        (400, InvalidInput, True),
        (422, InvalidInput, True),
        (401, NotReady, True),
        (404, NotReady, True),
        (429, WorkerLost, False),
        (503, WorkerLost, False),
        (504, WorkerLost, False),
    ],
)
def test_a_status_says_whose_trouble_it_is(
    folder: Path, status: int, kind: type[TidemillError], *, alive: bool
) -> None:
    """The rows', the model's, or the server's: only then is it left alone for a while."""

    async def scenario() -> None:
        async with started(folder) as (far, replica):
            far.answer = lambda _: reply({"error": "so it is"}, status)
            failed = await asked(replica, 1)
            assert type(failed) is kind
            assert "so it is" in str(failed)
            assert replica.alive is alive

    run(scenario)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_answer_loses_the_batch(folder: Path, said: bytes) -> None:
    """Nonsense, half an answer, or one too large to hold: bounded, and tried elsewhere."""

    async def scenario() -> None:
        async with started(folder, timeout_s=1.0) as (far, replica):
            far.answer = lambda _: said
            assert isinstance(await asked(replica, 1), WorkerLost)
            far.answer = good
            await until(lambda: replica.alive)
            assert isinstance(await asked(replica, 1), dict)

    run(scenario)


def test_a_body_over_the_limit_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends without end, in chunks, is cut off."""
    monkeypatch.setattr(http_connection, "MAX_BODY_BYTES", 1000)
    chunks = b"".join(b"64\r\n" + b"x" * 100 + b"\r\n" for _ in range(50))

    async def scenario() -> None:
        async with started(folder) as (far, replica):
            far.answer = lambda _: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
            assert isinstance(await asked(replica, 1), WorkerLost)

    run(scenario)


def test_a_token_is_sent_and_never_shown(folder: Path) -> None:
    """It comes from the environment alone; no view, message or record repeats it."""
    word = "s3cret-t0ken"

    async def scenario() -> None:
        async with started(folder, token=word) as (far, replica):
            assert isinstance(await asked(replica, 1), dict)
            assert all(f"authorization: Bearer {word}".encode() in head for head in far.heads)
            assert word not in repr(vars(replica)["_model"])

    run(scenario)
    name = "TIDEMILL_SERVE_REMOTE_TOKENS"
    loaded = load_settings(environ={name: f"far:8000={word}"})
    address = read_url("http://far:8000/v2/models/m")
    assert token_for(address, loaded.settings.serve.remote_tokens) == word
    assert token_for(read_url("http://far:8001/v2/models/m"), f"far:8000={word}") is None
    assert word not in repr(loaded.settings)
    assert {row.value for row in loaded.rows() if row.key == "serve.remote_tokens"} == {"***"}
    spec = RemoteSpec(url="http://far/", binary=True, timeout_s=1, number=0, token=word)
    assert word not in repr(spec)
    with pytest.raises(InvalidSettings, match="environment variable") as caught:
        load_settings(flags={"serve.remote_tokens": word}, environ={})
    assert word not in str(caught.value)
    with pytest.raises(InvalidSettings, match="no bearer token"):
        token_for(address, "far:8000=a\r\nb")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "far:8000/v2/models/m",
        "ftp://far/v2/models/m",
        "http://me:word@far/v2/models/m",
        "http://far/v2/models/m?x=1",
        "http://far/v2/models/m#x",
        "http://far/v1/models/m",
        "http://far/v2/models/../x",
        "http://far/v2/models/a b",
        "http://far:99999/v2/models/m",
        "http://fa\rr/v2/models/m x",
        "http://[::1/v2/models/m",
    ],
)
def test_a_url_is_one_of_a_model(url: str) -> None:
    """Anything else is refused before anybody is asked."""
    with pytest.raises(InvalidInput, match="URL"):
        read_url(url)


def test_only_allowed_hosts_are_asked() -> None:
    """This machine always; others by name, alone or with their port."""
    for host in ("localhost", "127.0.0.1:8000", "127.9.9.9", "[::1]:80"):
        check_host(read_url(f"http://{host}/v2/models/m"), "")
    far = read_url("https://Triton.internal/v2/models/m/versions/3")
    assert (far.authority, far.tls) == ("triton.internal:443", True)
    for allowed in ("", "internal", "triton.internal:80", "xtriton.internal"):
        with pytest.raises(Refused, match=r"serve\.remote_hosts"):
            check_host(far, allowed)
    for allowed in ("triton.internal", "other, TRITON.internal:443"):
        check_host(far, allowed)
    assert ServeSettings().remote_hosts == ""


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "at least one input"),
        ({"inputs": [{"name": "x"}]}, "without a shape"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}]}, "first dimension"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]}, "first dimension"),
        ({"inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}]}, "'BF16'"),
    ],
)
def test_a_signature_is_what_can_be_batched(metadata: dict[str, Any], words: str) -> None:
    """Columns with open rows and known types; else it is said what is wrong."""
    with pytest.raises(InvalidModel, match=words):
        read_signature(metadata)
