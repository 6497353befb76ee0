"""Every replica keeps the same promises: the same answers, typed errors, one end per batch."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tidemill.control.deployments import Terms, deploy
from tidemill.foundation.errors import (
    InvalidModel,
    ModelFailed,
    NotFound,
    TidemillError,
    Unavailable,
    WorkerLost,
)
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.registry import Registry
from tidemill.models.signature import Batch
from tidemill.serving.replicas import Replica
from tidemill.serving.replicas.address import RemoteModel
from tidemill.serving.replicas.inline import InlineReplica
from tidemill.serving.replicas.remote import RemoteReplica
from tidemill.serving.replicas.replica import Done
from tidemill.serving.replicas.worker import WorkerReplica

Opened = Callable[[], AbstractAsyncContextManager[Replica]]

SLOW = """
import time
from types import SimpleNamespace
from tidemill.foundation.errors import NotFound

class Runtime:
    signature = SimpleNamespace(inputs=[])
    def predict(self, batch):
        x = batch["x"]
        if x[0] == -1: raise NotFound("no such thing", remedy="Look elsewhere.")
        if x[0] == -2: raise ZeroDivisionError("by nought")
        time.sleep(x[0])
        return {"y": x}
    def close(self): pass

def open_slow(folder, *, trust_code, threads, device): return Runtime()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that looks x up in a table of ten numbers: y[x] = 100 * x; others are errors."""
    folder = tmp_path_factory.mktemp("model")
    table = helper.make_tensor("t", TensorProto.FLOAT, [10], [100.0 * i for i in range(10)])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "x"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [table],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, folder / "lookup.onnx")
    package_onnx(folder / "lookup.onnx", "lookup", folder / "packaged")
    return folder / "packaged"


def started_worker(
    folder: Path, socket: Path, loader: str = "tidemill.models.runtime:open_runtime"
) -> subprocess.Popen[bytes]:
    """Starts a worker process; it is ready on return."""
    command = [sys.executable, "-m", "tidemill_worker", "--socket", str(socket)]
    process = subprocess.Popen(
        [*command, "--loader", loader, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert process.stdout
    assert b'"ready": true' in process.stdout.readline()
    return process


def ended(process: subprocess.Popen[bytes]) -> None:
    """Ends a worker process."""
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()


@pytest.fixture(scope="module")
def socket(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a worker with the model."""
    path = tmp_path_factory.mktemp("run") / "worker.sock"
    process = started_worker(model, path)
    yield path
    ended(process)


@pytest.fixture(scope="module")
def far(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteModel]:
    """The model in another Tidemill, which answers over HTTP."""
    with open_home(Settings(home=tmp_path_factory.mktemp("far") / "home")) as home:
        Registry(home).register(model, "lookup", blessed=True)
        terms = Terms(slo_ms=20_000.0)
        deploy(home, "lookup", model="lookup", version=1, terms=terms, by="tests", reason="test")
        command = [sys.executable, "-m", "tidemill", "serve", "--port", "0", "--admin-port", "0"]
        process = subprocess.Popen(
            [*command, "--json", "--home", str(home.path)], stdout=subprocess.PIPE
        )
        assert process.stdout
        said = json.loads(process.stdout.readline())
        process.stdout.close()
        yield RemoteModel(url=f"http://127.0.0.1:{said['port']}/v2/models/lookup", binary=True)
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture(params=["gateway", "worker", "remote", "remote-json"])
def opened(request: pytest.FixtureRequest, model: Path, socket: Path, far: RemoteModel) -> Opened:
    """Opens one of the implementations."""

    @asynccontextmanager
    async def _opened() -> AsyncIterator[Replica]:
        replica: Replica = WorkerReplica(socket)
        if request.param == "gateway":
            replica = InlineReplica(model)
        elif request.param.startswith("remote"):
            there = RemoteModel(url=far.url, binary=request.param == "remote")
            replica = RemoteReplica(model, there, timeout_s=20.0)
        assert not replica.alive
        await replica.start()
        assert replica.alive
        yield replica
        await replica.aclose()
        assert not replica.alive

    return _opened


def ending(future: asyncio.Future[Batch | TidemillError]) -> Done:
    """Returns what ends a future with what became of a batch; it fails if that ends twice."""
    return lambda result, _=0.0: future.set_result(result)


async def asked(replica: Replica, batch: Batch) -> Batch | TidemillError:
    """Returns what the replica made of a batch; fails if it ends twice."""
    future: asyncio.Future[Batch | TidemillError] = asyncio.get_running_loop().create_future()
    replica.submit(batch, ending(future))
    return await asyncio.wait_for(future, 10)


def test_answers(opened: Opened) -> None:
    """Batches of any size are answered, with the dtypes of the signature."""

    async def scenario() -> None:
        async with opened() as replica:
            for n in (1, 7, 64, 50_000):
                x = np.random.default_rng(n).integers(0, 10, (n, 2))
                answers = await asked(replica, {"x": x})
                assert isinstance(answers, dict)
                assert answers["y"].dtype == np.float32
                assert np.array_equal(answers["y"], x * np.float32(100))

    asyncio.run(scenario())


def test_a_model_that_fails_is_a_typed_error(opened: Opened) -> None:
    """What the model raises comes back as an error, and the next batch is answered."""

    async def scenario() -> None:
        async with opened() as replica:
            failed = await asked(replica, {"x": np.array([[99, 0]])})
            assert isinstance(failed, TidemillError)
            assert not isinstance(failed, WorkerLost)
            assert replica.alive
            answers = await asked(replica, {"x": np.array([[1, 2]])})
            assert isinstance(answers, dict)
            assert answers["y"].tolist() == [[100.0, 200.0]]

    asyncio.run(scenario())


def test_every_batch_ends_once(opened: Opened) -> None:
    """Many batches, submitted and collected while others are out, each end once, as they should."""

    async def scenario() -> None:
        async with opened() as replica:
            loop = asyncio.get_running_loop()
            futures = []
            for i in range(200):
                futures.append(loop.create_future())
                replica.submit({"x": np.array([[i % 10, 0]])}, ending(futures[-1]))
                replica.collect()
            for i, answers in enumerate(await asyncio.gather(*futures)):
                assert answers["y"].tolist() == [[100.0 * (i % 10), 0.0]]
            assert replica.in_flight == 0

    asyncio.run(scenario())


def test_what_a_worker_has_sent_is_collected_without_a_turn_of_the_loop(
    slow: tuple[subprocess.Popen[bytes], Path],
) -> None:
    """A loop that is busy reading need not end that first; nor to learn that a worker is gone."""
    process, path = slow

    async def scenario() -> None:
        replica = WorkerReplica(path)
        await replica.start()
        replica.collect()  # nothing is out
        said: list[Batch | TidemillError] = []

        def busy_until(count: int) -> None:
            until = time.monotonic() + 10
            while len(said) < count and time.monotonic() < until:
                replica.collect()
                time.sleep(0.001)

        replica.submit({"x": np.array([0.02])}, lambda result, _=0.0: said.append(result))
        replica.collect()
        assert not said
        busy_until(1)
        assert isinstance(said[0], dict)
        assert replica.in_flight == 0
        replica.submit({"x": np.array([30.0])}, lambda result, _=0.0: said.append(result))
        process.send_signal(signal.SIGKILL)
        busy_until(2)
        assert isinstance(said[1], WorkerLost)
        assert not replica.alive
        replica.collect()
        await asyncio.sleep(0)
        assert len(said) == 2
        await replica.aclose()

    asyncio.run(scenario())


def test_closed_it_takes_nothing(opened: Opened) -> None:
    """After it is closed, a batch ends at once with an error."""

    async def scenario() -> None:
        async with opened() as replica:
            await replica.aclose()
            assert isinstance(await asked(replica, {"x": np.array([[1, 1]])}), TidemillError)

    asyncio.run(scenario())


def test_what_is_not_a_model_does_not_start(tmp_path: Path) -> None:
    """A folder without a model, or a socket without a worker, is an error of start."""
    with pytest.raises(InvalidModel):
        asyncio.run(InlineReplica(tmp_path).start())
    with pytest.raises(Unavailable):
        asyncio.run(WorkerReplica(tmp_path / "none.sock").start())


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A worker that takes as many seconds as it is told."""
    (tmp_path / "slow_model.py").write_text(SLOW)
    process = started_worker(tmp_path, tmp_path / "slow.sock", "slow_model:open_slow")
    yield process, tmp_path / "slow.sock"
    ended(process)


def test_a_killed_worker_ends_every_batch_at_once(
    slow: tuple[subprocess.Popen[bytes], Path],
) -> None:
    """When the process is killed, all that is out is lost at once, and later batches too."""
    process, path = slow

    async def scenario() -> None:
        replica = WorkerReplica(path)
        await replica.start()
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(3)]
        for future in futures:
            replica.submit({"x": np.array([30.0])}, ending(future))
        assert replica.in_flight == 3
        await asyncio.sleep(0.05)
        began = loop.time()
        process.send_signal(signal.SIGKILL)
        assert {type(end) for end in await asyncio.gather(*futures)} == {WorkerLost}
        assert loop.time() - began < 0.5
        assert not replica.alive
        assert replica.in_flight == 0
        assert isinstance(await asked(replica, {"x": np.array([0.0])}), WorkerLost)
        await replica.aclose()

    asyncio.run(scenario())


def test_errors_keep_their_type(slow: tuple[subprocess.Popen[bytes], Path]) -> None:
    """An error of ours crosses the socket as itself; any other becomes ModelFailed."""

    async def scenario() -> None:
        replica = WorkerReplica(slow[1])
        await replica.start()
        ours = await asked(replica, {"x": np.array([-1.0])})
        assert type(ours) is NotFound
        assert str(ours) == "no such thing. Look elsewhere."
        theirs = await asked(replica, {"x": np.array([-2.0])})
        assert type(theirs) is ModelFailed
        assert "ZeroDivisionError: by nought" in str(theirs)
        await replica.aclose()

    asyncio.run(scenario())


def test_closing_waits_for_what_is_out(slow: tuple[subprocess.Popen[bytes], Path]) -> None:
    """A batch that is out when the replica is closed still gets its answers."""

    async def scenario() -> None:
        replica = WorkerReplica(slow[1])
        await replica.start()
        ends: list[Batch | TidemillError] = []
        replica.submit({"x": np.array([0.2])}, lambda result, _=0.0: ends.append(result))
        await replica.aclose()
        assert isinstance(ends[0], dict)

    asyncio.run(scenario())


def test_a_large_batch_does_not_block_the_loop(
    slow: tuple[subprocess.Popen[bytes], Path],
) -> None:
    """Batches that the socket cannot take at once are sent when it can, in order."""

    async def scenario() -> None:
        replica = WorkerReplica(slow[1])
        await replica.start()
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(12)]
        began = loop.time()
        for future in futures:
            batch = {"x": np.zeros(25_000)}
            batch["x"][0] = 0.01
            replica.submit(batch, ending(future))
        assert loop.time() - began < 0.1
        for answers in await asyncio.gather(*futures):
            assert answers["y"].shape == (25_000,)
        await replica.aclose()

    asyncio.run(scenario())
