"""Who may come to the gRPC port, and what stands in the way: keys, TLS, ports, the extra."""

from __future__ import annotations

import datetime as dt
import importlib.util
import ipaddress
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from tidemill.control.keys import create_key, revoke_key
from tidemill.data.ledger import read_ledger
from tidemill.foundation.errors import Conflict, Refused, Unavailable
from tidemill.foundation.home import Home
from tidemill.foundation.settings import ServeSettings
from tidemill.serving import supervisor
from tidemill.serving.listening import reserve_port

ON = {"TIDEMILL_SERVE_GRPC_PORT": "0"}


def question() -> list[triton.InferInput]:
    """What the model that is live answers."""
    made = triton.InferInput("x", [2], "INT64")
    made.set_data_from_numpy(np.array([5, 6]))
    return [made]


def status_of(ask: Callable[[], object]) -> str:
    """The status that a call ends with."""
    try:
        ask()
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def eventually(said: Callable[[], str], wanted: str) -> None:
    """Waits for a status: keys reach gateways within a second or so."""
    deadline = time.monotonic() + 20.0
    while (found := said()) != wanted:
        assert time.monotonic() < deadline, (found, wanted)
        time.sleep(0.05)


def test_keys_are_asked_for_before_a_message_is_read(launch: Callable[..., Any]) -> None:
    """Without a key that counts nothing is answered; scopes and applications hold; revoked ends."""
    made: dict[str, str] = {}

    def before(home: Home) -> None:
        for name, scopes, applications in (
            ("asks", ["query"], None),
            ("elsewhere", ["query"], ["other"]),
            ("labels", ["feedback"], None),
        ):
            key = create_key(home, name, scopes=scopes, applications=applications, by="tests")
            made[name] = key.key

    with launch(before, **ON) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")

        def infer(key: str | None) -> str:
            headers = None if key is None else {"authorization": f"Bearer {key}"}
            return status_of(lambda: client.infer("add", question(), headers=headers))

        eventually(lambda: infer(made["asks"]), "OK")
        assert infer(None) == "UNAUTHENTICATED"
        assert infer("tidemill_nonsense") == "UNAUTHENTICATED"
        assert infer(made["labels"]) == "PERMISSION_DENIED"
        assert infer(made["elsewhere"]) == "PERMISSION_DENIED"
        headers = {"authorization": f"Bearer {made['asks']}"}
        assert client.is_server_live()
        assert status_of(client.get_server_metadata) == "UNAUTHENTICATED"
        assert status_of(lambda: client.get_server_metadata(headers=headers)) == "OK"
        index = status_of(lambda: client.get_model_repository_index(headers=headers))
        assert index == "PERMISSION_DENIED"
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            send = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            huge = bytes(4 << 20)  # nobody unpacks it, or even says that it is no message
            assert status_of(lambda: send(huge, timeout=20)) == "UNAUTHENTICATED"
        said: list[str] = []
        client.start_stream(
            lambda result, error: said.append(str(error or result.get_response().id)),
            headers=headers,
        )
        client.async_stream_infer("add", question(), request_id="mine")
        eventually(lambda: said[0] if said else "", "mine")
        client.stop_stream()
        revoke_key(server.home, "asks", by="tests", reason="a test")
        eventually(lambda: infer(made["asks"]), "UNAUTHENTICATED")
        client.close()


def certificate(folder: Path) -> bytes:
    """Makes a certificate for this machine; returns it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for file, data in (("key.pem", private), ("cert.pem", pem)):
        fresh = folder / f"{file}.new"
        fresh.write_bytes(data)
        fresh.replace(folder / file)
    return pem


def test_tls_is_that_of_the_settings_and_follows_its_files(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    """With a certificate the port speaks TLS alone; a new certificate is used without a restart."""
    first = certificate(tmp_path)
    secured = {
        "TIDEMILL_SERVE_TLS_CERT": str(tmp_path / "cert.pem"),
        "TIDEMILL_SERVE_TLS_KEY": str(tmp_path / "key.pem"),
    }
    with launch(None, **ON, **secured) as server:

        def live(root: bytes | None) -> str:
            address = f"127.0.0.1:{server.grpc_port}"
            trusted = None if root is None else grpc.ssl_channel_credentials(root)
            with (
                grpc.insecure_channel(address)
                if trusted is None
                else grpc.secure_channel(address, trusted)
            ) as channel:
                send = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                return status_of(lambda: send(b"", timeout=5))

        assert live(first) == "OK"
        assert live(None) == "UNAVAILABLE"
        second = certificate(tmp_path)
        eventually(lambda: live(second), "OK")
        assert live(first) == "UNAVAILABLE"


def test_a_port_is_kept_for_one_server() -> None:
    """While it is kept, or somebody listens there, nobody else gets it; closed, it is free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = ServeSettings(grpc_port=taken.getsockname()[1])
        with pytest.raises(Conflict, match=r"is in use.*serve\.grpc_port"):
            reserve_port(busy)
    kept = reserve_port(ServeSettings(grpc_port=0))
    assert kept is not None
    again = ServeSettings(grpc_port=kept.getsockname()[1])
    with kept, pytest.raises(Conflict):
        reserve_port(again)
    free = reserve_port(again)
    assert free is not None
    free.close()
    assert reserve_port(ServeSettings()) is None


def test_only_a_guarded_port_is_public() -> None:
    """As over HTTP, other machines reach it only with keys and TLS, or if somebody says so."""
    with pytest.raises(Refused, match="can be reached from other machines"):
        reserve_port(ServeSettings(host="0.0.0.0", grpc_port=0))
    for settings, guarded in (
        (ServeSettings(host="0.0.0.0", grpc_port=0), True),
        (ServeSettings(host="0.0.0.0", grpc_port=0, allow_public=True), False),
    ):
        kept = reserve_port(settings, guarded=guarded)
        assert kept is not None
        kept.close()


@pytest.mark.parametrize("missing", ["grpc", "google", "google.protobuf"])
def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The extra that is asked for and not installed is an error that says what to install."""

    def find_spec(name: str) -> object:
        return None if name == missing else importlib.util.find_spec(name)

    monkeypatch.setattr(supervisor, "find_spec", find_spec)
    supervisor.check_grpc(ServeSettings())
    with pytest.raises(Unavailable, match=r"pip install 'tidemill\[grpc\]'"):
        supervisor.check_grpc(ServeSettings(grpc_port=0))


def test_draining_answers_what_is_under_way(launch: Callable[..., Any]) -> None:
    """Told to end, the server answers every query that it has taken, and lets its port go.

    What gRPC's library has accepted and not handed over by then is cancelled: nobody worked on it.
    """
    with launch(None, **ON, TIDEMILL_SERVE_GRPC_GATEWAYS="2") as server:
        names = [each["name"] for each in server.health()["gateways"]]
        assert names == ["gateway-0", "grpc-0", "grpc-1"]
        ended: list[str] = []
        stop = threading.Event()

        def ask() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                send = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                request = service_pb2.ModelInferRequest(model_name="add")
                made = request.inputs.add(name="x", datatype="INT64", shape=[1])
                made.contents.int64_contents.append(5)
                while not stop.is_set():
                    said = status_of(lambda: send(request.SerializeToString(), timeout=20))
                    ended.append(said)
                    if said != "OK":
                        return  # the port is closed: nobody took this one

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        stop.set()
        for thread in threads:
            thread.join(30)
        assert ended.count("OK") > 6
        assert set(ended) <= {"OK", "UNAVAILABLE", "CANCELLED"}
        taken = read_ledger(server.home.ledger_path, "add").predictions.num_rows
        assert ended.count("OK") == taken
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", server.grpc_port))


def test_a_message_that_does_not_come_ends_its_call(launch: Callable[..., Any]) -> None:
    """A call that sends nothing, or too slowly, is ended in time; an idle stream may wait."""
    with launch(None, **ON, TIDEMILL_SERVE_READ_TIMEOUT_S="0.5") as server:
        address = f"127.0.0.1:{server.grpc_port}"
        silence = threading.Event()

        def nothing() -> Any:
            silence.wait(30)
            yield from ()

        with grpc.insecure_channel(address) as channel:
            idle = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            waiting = idle(nothing())
            for method in ("ModelInfer", "ServerLive"):
                send = channel.stream_unary(f"/inference.GRPCInferenceService/{method}")
                with pytest.raises(grpc.RpcError) as late:
                    send(nothing(), timeout=25)
                assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                assert "has not arrived within 0.5 s" in late.value.details()
            assert waiting.is_active()
            silence.set()
            assert list(waiting) == []
            send = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
            assert status_of(lambda: send(iter(()), timeout=20)) == "INVALID_ARGUMENT"
