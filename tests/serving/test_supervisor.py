"""A server of real processes: what is live follows the source, and nothing that dies stays dead."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from tidemill.foundation.errors import Conflict, InvalidSettings, Refused
from tidemill.foundation.settings import ServeSettings
from tidemill.models.packagers.onnx import package_onnx
from tidemill.serving.listening import open_listener
from tidemill.serving.plan import Deployment, Live, ServingPlan

SERVER = """
import asyncio, json, sys, threading
from pathlib import Path
from tidemill.foundation.settings import LedgerSettings, ServeSettings
from tidemill.serving.live import FileSource
from tidemill.serving.supervisor import Supervisor, stop_on_signals

home = Path(sys.argv[1])

async def main():
    stop = asyncio.Event()
    stop_on_signals(stop)
    supervisor = Supervisor(
        FileSource(home / "live.json"),
        ServeSettings(port=int(sys.argv[3]), gateways=int(sys.argv[2]), drain_s=5),
        LedgerSettings(),
        run_path=home / "run",
        ledger_path=home / "ledger",
        gateway_module=sys.argv[4],
    )
    tell = lambda **words: print(json.dumps(words), flush=True)
    loop = asyncio.get_running_loop()
    def listen():
        for line in sys.stdin:
            loop.call_soon_threadsafe(lambda: tell(**supervisor.status()))
    threading.Thread(target=listen, daemon=True).start()
    await supervisor.run(lambda port: tell(ready=port), stop)
    tell(ended=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Versions 1 to 3 of a model that adds its version to x."""
    folders: dict[int, Path] = {}
    for version in (1, 2, 3):
        folder = tmp_path_factory.mktemp("models")
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "c"], ["y"])],
            "add",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
            [helper.make_tensor("c", TensorProto.FLOAT, [1], [float(version)])],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(made, folder / "add.onnx")
        package_onnx(folder / "add.onnx", "add", folder / "packaged")
        folders[version] = folder / "packaged"
    return folders


class Server:
    """A server process, its source, and what clients see of it."""

    def __init__(self, home: Path, models: dict[int, Path], placement: str) -> None:
        self.home = home
        self.models = models
        self.placement = placement
        self.revision = 0
        self.port = 0
        self.folders = {f"add:{number}": str(folder) for number, folder in models.items()}
        self._process: subprocess.Popen[str] | None = None
        (home / "run").mkdir(mode=0o700, exist_ok=True)
        self.deployments: dict[str, Deployment] = {}

    def deploy(self, version: int, application: str = "app", **plan: Any) -> None:
        """Writes a new revision of what is to be live."""
        self.revision += 1
        self.deployments[application] = Deployment(
            application=application,
            revision=self.revision,
            versions=(Live(model="add", version=version),),
            slo_ms=3000,
            plan=ServingPlan(placement=self.placement, cache_bytes=0, **plan),  # type: ignore[arg-type]
        )
        self.write()

    def write(self) -> None:
        """Writes what is to be live, in one step."""
        content = {"deployments": list(self.deployments.values()), "folders": self.folders}
        (self.home / "new.json").write_bytes(msgspec.json.encode(content))
        (self.home / "new.json").rename(self.home / "live.json")

    def start(self, gateways: int = 1, module: str = "tidemill.serving.gateway") -> None:
        """Starts the server and waits until it answers."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.home), str(gateways), "0", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.home)},
        )
        self.port = self._heard()["ready"]

    @property
    def process(self) -> subprocess.Popen[str]:
        """The supervisor's process."""
        assert self._process is not None
        return self._process

    def status(self) -> dict[str, Any]:
        """Returns what the supervisor says of itself."""
        assert self.process.stdin
        self.process.stdin.write("status\n")
        self.process.stdin.flush()
        return self._heard()

    def wait_for(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Waits until the status is as wanted; returns it."""
        until = time.monotonic() + 15
        while not what(status := self.status()):
            assert time.monotonic() < until, status
            time.sleep(0.05)
        return status

    def ask(
        self, connection: http.client.HTTPConnection | None = None, application: str = "app"
    ) -> float:
        """Asks for the answer to x = 10; returns the version that was added."""
        own = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [10.0]}]}
        own.request("POST", f"/v2/models/{application}/infer", json.dumps(body))
        response = own.getresponse()
        text = response.read()
        if connection is None:
            own.close()
        assert response.status == 200, text
        return float(json.loads(text)["outputs"][0]["data"][0]) - 10.0

    def get(self, path: str) -> str:
        """Gets a page."""
        own = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        own.request("GET", path)
        text = own.getresponse().read().decode()
        own.close()
        return text

    def children(self) -> list[int]:
        """Returns the pids of gateways and workers."""
        status = self.status()
        return [each["pid"] for each in (*status["gateways"], *status["workers"])]

    def close(self) -> None:
        """Ends the server, if it still runs."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        finally:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the server ended"
        words: dict[str, Any] = json.loads(line)
        return words


@pytest.fixture
def server(tmp_path: Path, models: dict[int, Path]) -> Iterator[Server]:
    """A server that is not started yet, with models in the gateway."""
    made = Server(tmp_path, models, "gateway")
    yield made
    made.close()


@pytest.fixture
def with_workers(server: Server) -> Server:
    """The same, with models in workers."""
    server.placement = "worker"
    return server


class Client(threading.Thread):
    """Asks again and again on one connection, until it is told to stop."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._done = threading.Event()
        self.answers: list[float] = []
        self.failures: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
        while not self._done.is_set():
            try:
                self.answers.append(self._server.ask(connection))
            except (AssertionError, OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            time.sleep(0.002)
        connection.close()

    @property
    def last(self) -> float | None:
        """The newest answer."""
        return self.answers[-1] if self.answers else None

    def stop(self) -> None:
        """Stops asking."""
        self._done.set()
        self.join()


def gone(pid: int) -> bool:
    """Says whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_gone_within(pids: list[int], seconds: float) -> None:
    """Waits for processes to end."""
    until = time.monotonic() + seconds
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < until, [pid for pid in pids if not gone(pid)]
        time.sleep(0.02)


@pytest.mark.parametrize("placement", ["gateway", "worker"])
def test_a_new_revision_goes_live_without_a_failed_query(server: Server, placement: str) -> None:
    """While clients ask, versions are swapped: each answer is of a live version, none fails."""
    server.placement = placement
    server.deploy(1)
    server.start(gateways=2)
    assert server.ask() == 1.0
    old = {each["pid"] for each in server.status()["workers"]}
    clients = [Client(server) for _ in range(4)]
    for client in clients:
        client.start()
    for version in (2, 3):
        server.wait_for(lambda _: all(client.last == version - 1 for client in clients))  # noqa: B023
        server.deploy(version)
        server.wait_for(lambda status: status["revision_live"] == server.revision)
        assert server.ask() == version
    server.wait_for(lambda _: all(client.last == 3.0 for client in clients))
    for client in clients:
        client.stop()
        assert client.failures == []
        assert client.answers == sorted(client.answers)
    assert_gone_within(list(old), 5)


def test_a_bad_revision_changes_nothing(server: Server) -> None:
    """A folder that holds no model: the old version answers on, and the status says why."""
    server.deploy(1)
    server.start()
    server.folders["add:9"] = str(server.home)
    server.deploy(9)
    status = server.wait_for(lambda status: status["refused"])
    assert status["revision_live"] == 1
    assert status["revision_wanted"] == 2
    (refused,) = status["refused"]
    assert (refused["application"], refused["revision"]) == ("app", 2)
    assert "model.json" in refused["reason"] or "no model" in refused["reason"]
    assert server.ask() == 1.0
    server.deploy(2)
    status = server.wait_for(lambda status: status["revision_live"] == 3)
    assert status["refused"] == []
    assert server.ask() == 2.0


@pytest.mark.parametrize("placement", ["gateway", "worker"])
def test_a_damaged_model_holds_up_only_its_own_application(server: Server, placement: str) -> None:
    """What is wrong with one application's files does not keep the others from going live."""
    server.placement = placement
    damaged = server.home / "damaged"
    shutil.copytree(server.models[3], damaged)
    (damaged / "model.onnx").write_bytes(b"junk")
    server.folders["add:8"] = str(damaged)
    server.deploy(8, application="bad")
    server.deploy(1, application="app")
    server.deploy(2, application="other")
    server.start()
    status = server.wait_for(lambda status: status["refused"])
    server.wait_for(lambda status: set(status["applications"]) == {"app", "other"})
    assert status["refused"][0]["application"] == "bad"
    assert server.ask() == 1.0
    assert server.ask(application="other") == 2.0
    server.deploy(3, application="bad")
    server.wait_for(lambda status: status["revision_live"] == 4)
    assert server.ask(application="bad") == 3.0


def test_a_removed_application_is_gone(server: Server) -> None:
    """What the source no longer holds is no longer answered."""
    server.deploy(1)
    server.deploy(2, application="other")
    server.start()
    del server.deployments["app"]
    server.deploy(2, application="other")
    server.wait_for(lambda status: status["revision_live"] == 3)
    with pytest.raises(AssertionError, match="unknown model"):
        server.ask()
    assert server.ask(application="other") == 2.0


def test_a_killed_gateway_is_replaced(server: Server) -> None:
    """Connections that come meanwhile wait, and are answered by the next one."""
    server.deploy(1)
    server.start()
    (gateway,) = server.status()["gateways"]
    os.kill(gateway["pid"], signal.SIGKILL)
    assert_gone_within([gateway["pid"]], 2)
    assert server.ask() == 1.0
    (after,) = server.status()["gateways"]
    assert after["pid"] != gateway["pid"]
    assert after["restarts"] == 1


def test_a_killed_gateway_costs_the_others_nothing(server: Server) -> None:
    """While one of two gateways is replaced, the other answers; the new one serves what is live."""
    server.deploy(1)
    server.start(gateways=2)
    server.deploy(2)
    server.wait_for(lambda status: status["revision_live"] == 2)
    for pid in [each["pid"] for each in server.status()["gateways"]]:
        os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            assert server.ask() == 2.0
        server.wait_for(lambda status: all(g["revision"] == 2 for g in status["gateways"]))


def test_a_killed_worker_is_replaced(with_workers: Server) -> None:
    """The next query after a worker's death is answered, within its deadline."""
    server = with_workers
    server.deploy(1)
    server.start()
    assert server.ask() == 1.0
    (worker,) = server.status()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    assert_gone_within([worker["pid"]], 2)
    status = server.wait_for(
        lambda status: status["workers"] and status["workers"][0]["pid"] != worker["pid"]
    )
    assert status["workers"][0]["restarts"] == 1
    server.wait_for(lambda status: answers(server))


def answers(server: Server) -> bool:
    """Says whether the first version answers."""
    with contextlib.suppress(AssertionError):
        return server.ask() == 1.0
    return False


def test_another_replica_answers_while_a_worker_is_replaced(with_workers: Server) -> None:
    """With two workers, killing one fails no query."""
    server = with_workers
    server.deploy(1, replicas=2)
    server.start()
    client = Client(server)
    client.start()
    first = server.wait_for(lambda status: len(status["workers"]) == 2)["workers"][0]["pid"]
    os.kill(first, signal.SIGKILL)
    server.wait_for(
        lambda status: (
            len(status["workers"]) == 2 and first not in [w["pid"] for w in status["workers"]]
        )
    )
    client.stop()
    assert client.failures == []
    assert len(client.answers) > 10


@pytest.mark.parametrize("kind", ["workers", "gateways"])
def test_a_stopped_process_is_replaced(with_workers: Server, kind: str) -> None:
    """One that was stopped by a signal is ended within seconds, whether or not it is asked."""
    server = with_workers
    server.deploy(1)
    server.start()
    assert server.ask() == 1.0
    pid = server.status()[kind][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert_gone_within([pid], 5)
    server.wait_for(lambda status: status[kind] and status[kind][0]["pid"] not in (None, pid))
    server.wait_for(lambda status: answers(server))


def test_a_stopped_worker_costs_no_query_where_there_is_another(with_workers: Server) -> None:
    """Under load: what it had is asked of the other one long before its deadline."""
    server = with_workers
    server.deploy(1, replicas=2)
    server.start()
    client = Client(server)
    client.start()
    first = server.wait_for(
        lambda status: len(status["workers"]) == 2 and len(client.answers) > 50
    )["workers"][0]["pid"]
    os.kill(first, signal.SIGSTOP)
    server.wait_for(
        lambda status: (
            len(status["workers"]) == 2 and first not in [w["pid"] for w in status["workers"]]
        )
    )
    client.stop()
    assert client.failures == []
    assert set(client.answers) == {1.0}


def test_a_gateway_and_its_worker_may_die_together(with_workers: Server) -> None:
    """Both are replaced, and answer."""
    server = with_workers
    server.deploy(1)
    server.start()
    pids = server.children()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.wait_for(lambda status: not set(pids) & {g["pid"] for g in status["gateways"]})
    server.wait_for(lambda status: status["gateways"][0]["revision"] == 1)
    server.wait_for(lambda status: answers(server))


def test_nothing_outlives_a_killed_supervisor(with_workers: Server) -> None:
    """When the supervisor is killed, its processes are gone within seconds."""
    server = with_workers
    server.deploy(1)
    server.start(gateways=2)
    children = server.children()
    assert len(children) == 3
    server.process.kill()
    server.process.wait()
    assert_gone_within(children, 4)
    with pytest.raises(ConnectionRefusedError):
        server.ask()


def test_asked_to_stop_it_finishes_what_is_in_flight(with_workers: Server) -> None:
    """On SIGTERM every query gets its answer; then no process is left, and the status is 0."""
    server = with_workers
    server.deploy(1)
    server.start(gateways=2)
    children = server.children()
    clients = [Client(server) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.3)
    server.process.terminate()
    assert server.process.wait(10) == 0
    for client in clients:
        client.stop()
        assert len(client.answers) > 3
        # An idle connection may be closed while its client sends: that query was never taken.
        lost = [failure for failure in client.failures if "ConnectionRefused" not in failure]
        assert len(lost) <= 1
        assert not [failure for failure in lost if "AssertionError" in failure]
    assert_gone_within(children, 1)
    assert list((server.home / "run").iterdir()) == []
    assert not list((server.home / "ledger").rglob("*.open"))


def test_metrics_are_of_all_gateways(server: Server) -> None:
    """Whichever gateway is scraped, it tells the queries that all of them answered."""
    server.deploy(1)
    server.start(gateways=2)
    for _ in range(40):
        server.ask()
    for _ in range(6):
        text = server.get("/metrics")
        counts = re.findall(r"^tidemill_queries_total\{[^}]*\} (\S+)$", text, re.MULTILINE)
        assert sum(map(float, counts)) == 40.0, text
        assert "tidemill_revision 1.0" in text


def test_a_server_starts_although_its_deployment_cannot(server: Server) -> None:
    """Without a single good deployment the server is up, and says what is wrong."""
    server.folders["add:9"] = str(server.home)
    server.deploy(9)
    server.start()
    assert server.status()["refused"][0]["application"] == "app"
    assert server.status()["revision_live"] == 0
    server.deploy(1)
    server.wait_for(lambda status: status["revision_live"] == 2)
    assert server.ask() == 1.0


DEADLY = """
import os
from tidemill.serving import gateway

prepare = gateway.Gateway._prepare

async def die_of_it(self, assignment):
    if any(v.folder.endswith("deadly") for a in assignment.applications for v in a.versions):
        os.abort()
    await prepare(self, assignment)

gateway.Gateway._prepare = die_of_it
gateway.main()
"""


def test_a_model_that_kills_the_gateway_is_refused(server: Server) -> None:
    """A deployment that no gateway survives is refused; what was live answers on."""
    (server.home / "deadly_gateway.py").write_text(DEADLY)
    shutil.copytree(server.models[3], server.home / "deadly")
    server.folders["add:6"] = str(server.home / "deadly")
    server.deploy(1)
    server.start(module="deadly_gateway")
    server.deploy(6)
    (refused,) = server.wait_for(lambda status: status["refused"])["refused"]
    assert "died" in refused["reason"]
    server.wait_for(lambda status: answers(server))
    assert server.status()["revision_live"] == 1


def test_gateways_that_cannot_start_are_an_error(server: Server) -> None:
    """A server whose gateways all die at once does not try for ever."""
    (server.home / "broken_gateway.py").write_text("raise SystemExit(7)")
    server.deploy(1)
    with pytest.raises(AssertionError, match="the server ended"):
        server.start(module="broken_gateway")
    assert server.process.wait(5) == 1


def test_a_port_in_use_is_said_plainly() -> None:
    """The error names the port and what to do."""
    with open_listener(ServeSettings(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=rf"port {port} .* is in use.*serve\.port"):
            open_listener(ServeSettings(port=port))


def test_other_machines_are_kept_out_unless_said() -> None:
    """An address that is not loopback is refused, unless the settings allow it."""
    with pytest.raises(Refused, match="other machines"):
        open_listener(ServeSettings(host="0.0.0.0", port=0))
    with open_listener(ServeSettings(host="0.0.0.0", port=0, allow_public=True)) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    with open_listener(ServeSettings(host="localhost", port=0)) as listener:
        assert listener.type & socket.SOCK_STREAM
    with pytest.raises(InvalidSettings, match=r"host 'no\.such\.host\.invalid'"):
        open_listener(ServeSettings(host="no.such.host.invalid", port=0))
