"""gRPC as its best-known client speaks it: the official Triton client, against real processes."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from tidemill.data.ledger import read_ledger
from tidemill.models.signature import Array
from tidemill.serving.rpc.schema import messages

DATATYPES = {"carrier": "BYTES", "month": "INT64", "distance": "INT64", "temperature": "FP64"}
CONTENTS = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP64": "fp64_contents"}


@pytest.fixture
def official(grpc_server: Any) -> Iterator[triton.InferenceServerClient]:
    """The official client."""
    client = triton.InferenceServerClient(f"127.0.0.1:{grpc_server.grpc_port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def patient(grpc_server: Any) -> str:
    """The slow model with a promise that it can always keep."""
    plan = {"placement": "worker", "cache_bytes": 0}
    grpc_server.deploy("patient", "slow", plan=plan, slo_ms=20_000.0)
    return "patient"


@pytest.fixture
def channel(grpc_server: Any) -> Iterator[grpc.Channel]:
    """A connection that sends what it is told, and no more."""
    with grpc.insecure_channel(f"127.0.0.1:{grpc_server.grpc_port}") as opened:
        yield opened


def tensor(name: str, datatype: str, array: Array) -> triton.InferInput:
    """An input as the client makes it: raw."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def text(array: Array | None) -> list[str]:
    """Strings as the client gives them: bytes."""
    assert array is not None
    return [each.decode() for each in array.ravel()]


def call(channel: grpc.Channel, method: str, request: Any, **more: Any) -> Any:
    """Calls a method with a message of the client's own classes."""
    path = f"/inference.GRPCInferenceService/{method}"
    kind = getattr(service_pb2, f"{method}Response")
    send = channel.unary_unary(path, lambda sent: sent.SerializeToString(), kind.FromString)
    return send(request, timeout=20, **more)


def slow(ms: float) -> list[triton.InferInput]:
    """A question that takes so long to answer."""
    return [tensor("x", "FP64", np.array([[ms]]))]


def test_our_messages_are_the_protocols() -> None:
    """Every field that we know has the name, number and type that Triton's clients give it."""
    ours = messages("inference.proto")
    assert len(ours) > 30
    checked = 0
    for name, kind in ours.items():
        theirs = getattr(service_pb2, name, None) or getattr(model_config_pb2, name)
        pairs = [(kind.DESCRIPTOR, theirs.DESCRIPTOR)]
        for mine, other in pairs:
            for field in mine.fields:
                same = other.fields_by_name[field.name]
                assert (field.number, field.type, field.is_repeated) == (
                    same.number,
                    same.type,
                    same.is_repeated,
                ), field.full_name
                checked += 1
            nested = other.nested_types_by_name
            pairs += [(each, nested[each.name]) for each in mine.nested_types]
            if mine.enum_types:
                pytest.fail("compare enums, too")
    assert checked > 100


def test_health_and_metadata(grpc_server: Any, official: triton.InferenceServerClient) -> None:
    """Live, ready, and what the server and its models are."""
    assert official.is_server_live()
    assert official.is_server_ready()
    assert official.is_model_ready("digits")
    assert official.is_model_ready("digits", "1")
    assert not official.is_model_ready("digits", "9")
    assert not official.is_model_ready("none")
    assert official.get_server_metadata().name == "tidemill"
    described = official.get_model_metadata("delays", "1", as_json=True)
    assert {each["name"]: each["datatype"] for each in described["inputs"]} == DATATYPES
    outputs = official.get_model_metadata("digits").outputs
    assert [(each.name, each.datatype, list(each.shape)) for each in outputs] == [
        ("label", "INT64", [-1]),
        ("probabilities", "FP32", [-1, 10]),
    ]
    config = official.get_model_config("digits").config
    assert config.name == "digits"
    assert config.max_batch_size > 0
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        ("x", model_config_pb2.TYPE_FP64, [64])
    ]


def test_the_standard_health_check(channel: grpc.Channel) -> None:
    """What orchestrators ask is answered: SERVING, and NOT_FOUND for what is not here."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=20) == b"\x08\x01"
    with pytest.raises(grpc.RpcError) as refused:
        check(b"\n\x04none", timeout=20)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_vector(grpc_server: Any, official: triton.InferenceServerClient) -> None:
    """A raw batch is answered by the model; id, version and where it came from are told."""
    model = grpc_server.models["digits"]
    x = tensor("x", "FP64", model.rows["x"])
    answer = official.infer("digits", [x], request_id="7")
    assert answer.get_response().id == "7"
    assert answer.get_response().model_version == "1"
    said = answer.get_response().parameters
    assert len(said["prediction_id"].string_param) >= 32
    assert said["version"].int64_param == 1
    assert said["source"].string_param in {"model", "cache"}
    for name, expected in model.outputs.items():
        given = answer.as_numpy(name)
        assert given.dtype == expected.dtype
        assert np.array_equal(given, expected)


def test_strings_and_numbers(grpc_server: Any, official: triton.InferenceServerClient) -> None:
    """Strings and numbers in raw tensors; outputs asked for by name come in that order."""
    model = grpc_server.models["delays"]
    inputs = [tensor(name, DATATYPES[name], array) for name, array in model.rows.items()]
    asked = [triton.InferRequestedOutput(name) for name in ("probabilities", "label")]
    answer = official.infer("delays", inputs, model_version="1", outputs=asked)
    assert [each.name for each in answer.get_response().outputs] == ["probabilities", "label"]
    assert text(answer.as_numpy("label")) == model.outputs["label"].tolist()
    assert np.array_equal(answer.as_numpy("probabilities"), model.outputs["probabilities"])
    only = official.infer("delays", inputs, outputs=asked[1:])
    assert only.as_numpy("probabilities") is None
    assert text(only.as_numpy("label")) == model.outputs["label"].tolist()


def test_contents_are_taken_and_given(grpc_server: Any, channel: grpc.Channel) -> None:
    """Tensors in their typed fields are taken; answers are raw, or typed if that is asked for."""
    model = grpc_server.models["delays"]
    request = service_pb2.ModelInferRequest(model_name="delays")
    for name, array in model.rows.items():
        sent = request.inputs.add(name=name, datatype=DATATYPES[name], shape=array.shape)
        values = [each.encode() if isinstance(each, str) else each for each in array.ravel()]
        getattr(sent.contents, CONTENTS[DATATYPES[name]]).extend(values)
    usual = call(channel, "ModelInfer", request)
    assert len(usual.raw_output_contents) == len(usual.outputs)
    request.parameters["binary_data_output"].bool_param = False
    answer = call(channel, "ModelInfer", request)
    assert not answer.raw_output_contents
    given = {each.name: each.contents for each in answer.outputs}
    labels = [each.decode() for each in given["label"].bytes_contents]
    assert labels == model.outputs["label"].tolist()
    probabilities = list(given["probabilities"].fp32_contents)
    assert probabilities == model.outputs["probabilities"].ravel().tolist()


WRONG_CONTENTS: list[tuple[dict[str, Any], str]] = [
    ({"datatype": "FP64", "shape": [1, 64], "fp32_contents": [0.5] * 64}, "Send FP64 in fp64_"),
    ({"datatype": "FP64", "shape": [1, 64], "fp64_contents": [0.5] * 63}, "has 504 bytes"),
    ({"datatype": "FP64", "shape": [1, 64], "fp64_contents": [float("nan")] * 64}, "holds nan"),
    ({"datatype": "FP16", "shape": [1, 64], "fp32_contents": [0.5] * 64}, "raw_input_contents"),
    ({"datatype": "INT8", "shape": [1, 64], "int_contents": [300] * 64}, "300"),
    ({"datatype": "BF99", "shape": [1, 64], "fp32_contents": [0.5] * 64}, "The model expects FP64"),
    ({"datatype": "BYTES", "shape": [1], "bytes_contents": [b"\xff"]}, "not UTF-8"),
    ({"datatype": "FP64", "shape": [-1, 64], "fp64_contents": []}, "has shape [-1, 64]"),
    ({"datatype": "FP64", "shape": [1 << 62, 64], "fp64_contents": []}, "4611686018427387904"),
]


@pytest.mark.parametrize(("sent", "said"), WRONG_CONTENTS)
def test_wrong_contents_are_refused(channel: grpc.Channel, sent: dict[str, Any], said: str) -> None:
    """What does not fit its datatype, its shape or the signature is refused, and why is said."""
    request = service_pb2.ModelInferRequest(model_name="digits")
    field = next(each for each in sent if each.endswith("_contents"))
    made = request.inputs.add(name="x", datatype=sent["datatype"], shape=sent["shape"])
    getattr(made.contents, field).extend(sent[field])
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, "ModelInfer", request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert said in refused.value.details()


def test_raw_and_contents_do_not_mix(channel: grpc.Channel) -> None:
    """All tensors are raw, or each is in its contents; a shared-memory region is neither."""
    request = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[b"", b""])
    made = request.inputs.add(name="x", datatype="FP64", shape=[1, 64])
    for change, said in (
        (lambda: None, "raw_input_contents has 2 tensors"),
        (request.raw_input_contents.pop, "has 0 bytes"),
        (lambda: made.contents.fp64_contents.append(1.0), "has contents"),
        (lambda: made.parameters["shared_memory_region"].MergeFrom(text_of("a")), "shared memory"),
    ):
        change()
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, "ModelInfer", request)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert said in refused.value.details()


def text_of(value: str) -> Any:
    """A parameter that is text."""
    return service_pb2.InferParameter(string_param=value)


def test_errors_have_their_status(
    grpc_server: Any, official: triton.InferenceServerClient, patient: str
) -> None:
    """The client raises its exception with the server's sentence and the right status."""
    row = grpc_server.models["digits"].rows["x"][:1]
    good = tensor("x", "FP64", row)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("NOT_FOUND", {"model_name": "none", "inputs": [good]}, "Request for unknown model"),
        (
            "NOT_FOUND",
            {"model_name": "digits", "inputs": [good], "model_version": "5"},
            "version 5 is not live",
        ),
        (
            "INVALID_ARGUMENT",
            {"model_name": "digits", "inputs": [good], "model_version": "five"},
            "is not a number",
        ),
        (
            "INVALID_ARGUMENT",
            {"model_name": "digits", "inputs": [tensor("z", "FP64", row)]},
            "input 'x' is missing and input 'z' is not known",
        ),
        (
            "INVALID_ARGUMENT",
            {
                "model_name": "digits",
                "inputs": [good],
                "outputs": [triton.InferRequestedOutput("z")],
            },
            "output 'z' is not known",
        ),
        (
            "INVALID_ARGUMENT",
            {"model_name": "digits", "inputs": [good], "sequence_id": 5},
            "keep no state",
        ),
        (
            "INVALID_ARGUMENT",
            {"model_name": "digits", "inputs": [good], "parameters": {"event_time": "noon"}},
            "'event_time' is 'noon'",
        ),
        ("INTERNAL", {"model_name": patient, "inputs": slow(-1.0)}, "less than nothing"),
        (
            "DEADLINE_EXCEEDED",
            {"model_name": patient, "inputs": slow(250.0), "timeout": 20_000},
            "within 20.0 ms",
        ),
    ]
    for status, request, said in wrong:
        with pytest.raises(InferenceServerException) as refused:
            official.infer(**request)
        assert refused.value.status() == f"StatusCode.{status}", request
        assert said in refused.value.message()
    assert official.infer("digits", [good], priority=1, timeout=5_000_000) is not None


def test_the_deadline_of_the_call_bounds_the_query(
    official: triton.InferenceServerClient, patient: str
) -> None:
    """Who waits for at most so long is told in time; the query is counted as missed, not lost."""
    began = time.monotonic()
    with pytest.raises(InferenceServerException) as late:
        official.infer(patient, slow(280.0), client_timeout=0.05)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert time.monotonic() - began < 10.0
    assert official.infer(patient, slow(1.0)).as_numpy("value")[0] == 2.0


def test_a_key_alone_is_asked_for_as_over_http(
    grpc_server: Any, official: triton.InferenceServerClient, channel: grpc.Channel
) -> None:
    """Raw, typed and in a stream: the answers, sources, ids and refusals of REST."""
    model = grpc_server.models["delays"]
    carriers, months = model.rows["carrier"][:2].astype(object), model.rows["month"][:2]
    key = [tensor("month", "INT64", months), tensor("carrier", "BYTES", carriers)]
    answer = official.infer("delays", key)
    with grpc_server.client() as client:
        columns = [("carrier", "BYTES", carriers.tolist()), ("month", "INT64", months.tolist())]
        sent = [
            {"name": name, "shape": [2], "datatype": kind, "data": data}
            for name, kind, data in columns
        ]
        rest = client.post("/v2/models/delays/infer", json={"inputs": sent}).json()
        lacking = client.get("/v1/models/delays:lookup?carrier=UA&month=12").json()["error"]
    assert rest["parameters"]["source"] == "table"
    said = {each["name"]: each["data"] for each in rest["outputs"]}
    assert text(answer.as_numpy("label")) == said["label"] == list(model.outputs["label"][:2])
    assert answer.as_numpy("probabilities").ravel().tolist() == pytest.approx(said["probabilities"])
    told = answer.get_response().parameters
    assert told["source"].string_param == "table"
    identity = told["prediction_id"].string_param
    kept = read_ledger(grpc_server.home.ledger_path, "delays").predictions
    assert {f"{identity}-0", f"{identity}-1"} <= set(kept["prediction_id"].to_pylist())

    def typed(*names: str, month: int) -> Any:
        request = service_pb2.ModelInferRequest(model_name="delays")
        for name in names:
            made = request.inputs.add(name=name, datatype=DATATYPES[name], shape=[1])
            value = [b"UA"] if name == "carrier" else [month]
            getattr(made.contents, CONTENTS[DATATYPES[name]]).extend(value)
        return request

    answered = call(channel, "ModelInfer", typed("carrier", "month", month=1))
    assert answered.parameters["source"].string_param == "table"
    for request, status, why in (
        (typed("carrier", "month", month=12), grpc.StatusCode.NOT_FOUND, lacking),
        (typed("carrier", month=1), grpc.StatusCode.INVALID_ARGUMENT, "is missing"),
        (typed("carrier", "month", "distance", month=1), grpc.StatusCode.INVALID_ARGUMENT,
         "'temperature' is missing"),
    ):  # fmt: skip
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, "ModelInfer", request)
        assert refused.value.code() == status
        assert why in refused.value.details()
    send = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        lambda sent: sent.SerializeToString(),
        service_pb2.ModelStreamInferResponse.FromString,
    )
    asked = [typed("carrier", "month", month=month) for month in (1, 12, 1)]
    found = list(send(iter(asked), timeout=20))
    assert [bool(each.error_message) for each in found] == [False, True, False]
    assert lacking in found[1].error_message


def test_a_cancelled_call_harms_nobody(
    official: triton.InferenceServerClient, patient: str
) -> None:
    """Calls that are given up are forgotten; the ones beside and after them are answered."""
    ended: queue.Queue[Any] = queue.Queue()
    for _ in range(8):
        given_up = official.async_infer(
            patient, slow(30.0), lambda result, error: ended.put(error or result)
        )
        given_up.cancel()
    for _ in range(8):
        assert isinstance(ended.get(timeout=20), InferenceServerException)
    assert official.infer(patient, slow(2.0)).as_numpy("value")[0] == 4.0


def test_a_stream_goes_on_after_an_error(
    official: triton.InferenceServerClient, patient: str
) -> None:
    """Every request of a stream gets its answer, in their order; a failed one ends nothing."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    official.start_stream(lambda result, error: answers.put((result, error)))
    sent = [3.0, -1.0, 1.0, 2.0]
    for at, ms in enumerate(sent):
        official.async_stream_infer(
            patient, slow(ms), request_id=str(at), enable_empty_final_response=at == 0
        )
    official.async_stream_infer("none", slow(1.0), request_id="x")
    official.async_stream_infer(patient, slow(4.0), request_id="last")
    given = [answers.get(timeout=20) for _ in range(6)]
    official.stop_stream()
    results = [result for result, _ in given]
    assert "less than nothing" in str(given[1][1])
    assert "Request for unknown model" in str(given[4][1])
    for at, value in ((0, 6.0), (2, 2.0), (3, 4.0), (5, 8.0)):
        assert given[at][1] is None
        assert results[at].as_numpy("value")[0] == value
    assert [results[at].get_response().id for at in (0, 2, 3, 5)] == ["0", "2", "3", "last"]
    assert results[0].get_response().parameters["triton_final_response"].bool_param


def test_many_at_once(grpc_server: Any) -> None:
    """Requests that are under way together each get their own answer."""
    rows = grpc_server.models["digits"].rows["x"]
    expected = grpc_server.models["digits"].outputs["label"]
    client = triton.InferenceServerClient(f"127.0.0.1:{grpc_server.grpc_port}")
    with ThreadPoolExecutor(16) as threads:
        given = list(
            threads.map(
                lambda at: client.infer(
                    "digits", [tensor("x", "FP64", rows[at % 24 : at % 24 + 1])]
                ).as_numpy("label")[0],
                range(240),
            )
        )
    client.close()
    assert given == [expected[at % 24] for at in range(240)]


def test_statistics_and_index(official: triton.InferenceServerClient, patient: str) -> None:
    """Statistics are those of all gateways; the index lists what is known; one can be unloaded."""
    before = official.get_inference_statistics(patient).model_stats[0]
    official.infer(patient, slow(1.5))
    after = official.get_inference_statistics(patient, "1").model_stats[0]
    assert (after.name, after.version) == (patient, "1")
    gained = after.inference_stats.success.count - before.inference_stats.success.count
    assert gained >= 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    names = {each.name for each in official.get_inference_statistics().model_stats}
    assert {"digits", patient} <= names
    index = {each.name: each.state for each in official.get_model_repository_index().models}
    assert index["digits"] == "READY"
    official.unload_model("slow-default")
    assert not official.is_model_ready("slow-default")
    official.load_model("slow-default")
    assert official.is_model_ready("slow-default")
    with pytest.raises(InferenceServerException, match="failed to load"):
        official.load_model("nobody-knows")


def test_what_is_not_served_says_why(
    official: triton.InferenceServerClient, channel: grpc.Channel
) -> None:
    """Shared memory, trace and log settings are refused as such; unknown methods are unknown."""
    for ask, said in (
        (official.get_system_shared_memory_status, "shared memory"),
        (official.get_trace_settings, "serve.otlp_endpoint"),
        (official.get_log_settings, "logs.level"),
    ):
        with pytest.raises(InferenceServerException) as refused:
            ask()
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
        assert said in refused.value.message()
    for path in ("/inference.GRPCInferenceService/Nothing", "/other.Service/ServerLive"):
        with pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary(path)(b"", timeout=20)
        assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_garbage_harms_nobody(
    grpc_server: Any, channel: grpc.Channel, official: triton.InferenceServerClient
) -> None:
    """Bytes that are no HTTP/2, no message, or far too much of one end what they came on."""
    for junk in (
        b"\x00" * 4096,
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxx",
    ):
        with socket.create_connection(("127.0.0.1", grpc_server.grpc_port), 10) as raw:
            raw.sendall(junk)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(10)
            try:
                while raw.recv(4096):
                    pass
            except OSError:
                pass
    for method in ("ModelInfer", "ModelMetadata", "RepositoryIndex", "ModelReady"):
        send = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            send(b"\xff\xff\xff\xff", timeout=20)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    huge = tensor("x", "FP64", np.zeros((4096, 64)))
    with pytest.raises(InferenceServerException) as refused_huge:
        official.infer("digits", [huge])
    assert refused_huge.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    for compression in ("gzip", "deflate"):
        with pytest.raises(InferenceServerException) as bomb:
            official.infer("digits", [huge], compression_algorithm=compression)
        assert bomb.value.status() in {
            "StatusCode.RESOURCE_EXHAUSTED",
            "StatusCode.UNIMPLEMENTED",
        }
    assert official.is_server_live()


def gateways(server: Any) -> dict[str, int]:
    """The gateways' names and process ids."""
    return {each["name"]: each["pid"] for each in server.health()["gateways"]}


def test_the_gateway_is_killed_and_comes_back(grpc_server: Any) -> None:
    """After kill -9 the supervisor starts another one at the same port; HTTP has not noticed."""
    before = gateways(grpc_server)
    assert set(before) == {"gateway-0", "grpc-0"}
    os.kill(before["grpc-0"], signal.SIGKILL)

    def back() -> bool:
        client = triton.InferenceServerClient(f"127.0.0.1:{grpc_server.grpc_port}")
        try:
            return bool(client.is_server_ready())
        except InferenceServerException:
            return False
        finally:
            client.close()

    grpc_server.until(lambda: gateways(grpc_server)["grpc-0"] not in {None, before["grpc-0"]}, "")
    grpc_server.until(back, "the gateway's return")
    assert gateways(grpc_server)["gateway-0"] == before["gateway-0"]
    with grpc_server.client() as client:
        assert 'tidemill_process_restarts_total{kind="gateway"} 1' in client.get("/metrics").text


def test_a_swap_under_load_fails_nothing(grpc_server: Any) -> None:
    """While versions change, every call is answered, by one version whole, over both protocols."""
    wrong: list[str] = []
    versions: set[int] = set()
    stop = threading.Event()
    x = np.arange(4, dtype=np.int64)

    def ask(seed: int) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{grpc_server.grpc_port}")
        at = seed
        while not stop.is_set():
            at += 7
            try:
                answer = client.infer("swapped", [tensor("x", "INT64", x + at)])
            except InferenceServerException as error:
                wrong.append(str(error))
                continue
            version = int(answer.get_response().model_version)
            versions.add(version)
            if (answer.as_numpy("y") != x + at + 1000 * version).any():
                wrong.append(f"version {version}")
        client.close()

    grpc_server.deploy("swapped", "add", 1, slo_ms=10_000.0)
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for version in (2, 3, 1):
        grpc_server.deploy("swapped", "add", version, slo_ms=10_000.0)
        grpc_server.until(lambda v=version: v in versions, f"an answer by {version}")
        with grpc_server.client() as client:
            body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT64","data":[5]}]}'
            said = client.post("/v2/models/swapped/infer", content=body).json()
            assert said["model_version"] == str(version)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert versions == {1, 2, 3}
