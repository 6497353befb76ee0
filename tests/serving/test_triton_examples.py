"""What the examples of Triton's Python client do, each by its name, done to our server.

They ask models named as theirs, and check what they are told. Those that cannot end as against
Triton are here too: each is told so by the first request that is refused.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as rpc  # type: ignore[import-untyped]
import tritonclient.grpc.aio as asynchronous_rpc  # type: ignore[import-untyped]
import tritonclient.http as rest  # type: ignore[import-untyped]
import tritonclient.http.aio as asynchronous_rest  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
    deserialize_bytes_tensor,
)

from tidemill.models.signature import Array

FIRST = np.arange(16, dtype=np.int32).reshape(1, 16)
SECOND = np.full((1, 16), -1, np.int32)
QUERY = {"test_1": 1, "test_2": 2}
CODINGS = [None, "gzip", "deflate"]


@pytest.fixture
def http(controlled: Any) -> Iterator[rest.InferenceServerClient]:
    """The official client over HTTP."""
    client = rest.InferenceServerClient(controlled.address, concurrency=2, network_timeout=20.0)
    yield client
    client.close()


@pytest.fixture
def grpc_client(controlled: Any) -> Iterator[rpc.InferenceServerClient]:
    """The official client over gRPC."""
    with rpc.InferenceServerClient(f"127.0.0.1:{controlled.grpc_port}") as client:
        yield client


@pytest.fixture
def stub(controlled: Any) -> Iterator[Any]:
    """The service as generated from the protocol's own file."""
    with grpc.insecure_channel(f"127.0.0.1:{controlled.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def asked(module: Any, *, binary: tuple[bool, bool] = (True, True)) -> list[Any]:
    """The two inputs of ``simple``."""
    inputs = []
    for name, array, is_binary in zip(("INPUT0", "INPUT1"), (FIRST, SECOND), binary, strict=True):
        made = module.InferInput(name, [1, 16], "INT32")
        if module is rpc or module is asynchronous_rpc:
            made.set_data_from_numpy(array)
        else:
            made.set_data_from_numpy(array, binary_data=is_binary)
        inputs.append(made)
    return inputs


def wanted(module: Any, *, binary: tuple[bool, bool] = (True, True)) -> list[Any]:
    """The two outputs of ``simple``."""
    if module is rpc or module is asynchronous_rpc:
        return [module.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    return [
        module.InferRequestedOutput(name, binary_data=is_binary)
        for name, is_binary in zip(("OUTPUT0", "OUTPUT1"), binary, strict=True)
    ]


def check(answer: Any, second: Array = SECOND) -> None:
    """A sum and a difference."""
    assert np.array_equal(answer.as_numpy("OUTPUT0"), FIRST + second)
    assert np.array_equal(answer.as_numpy("OUTPUT1"), FIRST - second)


def refused(ask: Callable[[], Any]) -> InferenceServerException:
    """The client's exception."""
    with pytest.raises(InferenceServerException) as error:
        ask()
    return error.value


# simple_http_infer_client, simple_http_aio_infer_client


@pytest.mark.parametrize("coding", CODINGS)
def test_simple_http_infer_client(http: rest.InferenceServerClient, coding: str | None) -> None:
    """JSON and binary mixed, compressed or not; statistics of one model; an unknown model."""
    coded = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    mixed = asked(rest, binary=(False, True))
    outputs = wanted(rest, binary=(True, False))
    check(http.infer("simple", mixed, outputs=outputs, query_params=QUERY, **coded))
    assert len(http.get_inference_statistics(model_name="simple")["model_stats"]) == 1
    check(http.infer("simple", mixed, outputs=None, query_params=QUERY, **coded))
    error = refused(lambda: http.infer("wrong_model_name", mixed, outputs=outputs))
    assert error.message().startswith("Request for unknown model")


@pytest.mark.parametrize("coding", CODINGS)
def test_simple_http_aio_infer_client(controlled: Any, coding: str | None) -> None:
    """The same by aiohttp, with two requests under way together."""
    coded = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}

    async def main() -> None:
        async with asynchronous_rest.InferenceServerClient(controlled.address) as client:
            mixed = asked(asynchronous_rest, binary=(False, True))
            outputs = wanted(asynchronous_rest, binary=(True, False))
            statistics = await client.get_inference_statistics(model_name="simple")
            assert len(statistics["model_stats"]) == 1
            first, second = await asyncio.gather(
                client.infer("simple", mixed, outputs=outputs, query_params=QUERY, **coded),
                client.infer("simple", mixed, query_params=QUERY, **coded),
            )
            check(first)
            check(second)
            with pytest.raises(InferenceServerException, match="Request for unknown model"):
                await client.infer("wrong_model_name", mixed)

    asyncio.run(main())


def test_simple_http_async_infer_client(http: rest.InferenceServerClient) -> None:
    """Two requests at once, each with its own answer."""
    sent = [http.async_infer("simple", asked(rest), outputs=wanted(rest)) for _ in range(2)]
    for each in sent:
        check(each.get_result())


def test_simple_http_health_metadata(http: rest.InferenceServerClient) -> None:
    """With ``serve.server_name`` as that example wants it, all of it is as against Triton."""
    assert http.is_server_live(query_params=QUERY)
    assert http.is_server_ready()
    assert http.is_model_ready("simple")
    assert http.get_server_metadata()["name"] == "triton"
    assert http.get_model_metadata("simple", query_params=QUERY)["name"] == "simple"
    error = refused(lambda: http.get_model_metadata("wrong_model_name"))
    assert "Request for unknown model" in error.message()


# simple_http_string_infer_client, simple_grpc_string_infer_client


def texts(numbers: Array) -> Array:
    """Numbers as the text that the models of text take."""
    return np.array([str(each).encode() for each in numbers.ravel()], object).reshape(1, 16)


def test_simple_http_string_infer_client(http: rest.InferenceServerClient) -> None:
    """Text in binary and JSON, with noughts inside, and text that is really bytes."""
    one = rest.InferInput("INPUT0", [1, 16], "BYTES")
    one.set_data_from_numpy(texts(FIRST), binary_data=True)
    other = rest.InferInput("INPUT1", [1, 16], "BYTES")
    other.set_data_from_numpy(texts(SECOND), binary_data=False)
    outputs = wanted(rest, binary=(True, False))
    answer = http.infer("simple_string", [one, other], outputs=outputs)
    assert [int(each) for each in answer.as_numpy("OUTPUT0")[0]] == (FIRST + SECOND)[0].tolist()
    assert [int(each) for each in answer.as_numpy("OUTPUT1")[0]] == (FIRST - SECOND)[0].tolist()
    for array in (
        np.array([b"he\x00llo"] * 16, object).reshape(1, 16),
        np.array([b"\x00\x01\x02\x03"] * 16, np.bytes_).reshape(1, 16),
    ):
        for binary in (True, False):
            sent = rest.InferInput("INPUT0", [1, 16], "BYTES")
            sent.set_data_from_numpy(array, binary_data=binary)
            output = rest.InferRequestedOutput("OUTPUT0", binary_data=binary)
            given = http.infer("simple_identity", [sent], outputs=[output]).as_numpy("OUTPUT0")
            back = [each if isinstance(each, bytes) else each.encode() for each in given.ravel()]
            assert back == [bytes(each) for each in array.ravel()]


def test_simple_grpc_string_infer_client(grpc_client: rpc.InferenceServerClient) -> None:
    """The same over gRPC."""
    inputs = []
    for name, array in (("INPUT0", texts(FIRST)), ("INPUT1", texts(SECOND))):
        inputs.append(rpc.InferInput(name, [1, 16], "BYTES"))
        inputs[-1].set_data_from_numpy(array)
    answer = grpc_client.infer("simple_string", inputs, outputs=wanted(rpc))
    assert [int(each) for each in answer.as_numpy("OUTPUT0")[0]] == (FIRST + SECOND)[0].tolist()
    for array in (
        np.array([b"he\x00llo"] * 16, object).reshape(1, 16),
        np.array([b"\x00\x01\x02\x03"] * 16, np.bytes_).reshape(1, 16),
    ):
        sent = rpc.InferInput("INPUT0", [1, 16], "BYTES")
        sent.set_data_from_numpy(array)
        given = grpc_client.infer("simple_identity", [sent]).as_numpy("OUTPUT0")
        assert given.ravel().tolist() == [bytes(each) for each in array.ravel()]


# The model repository


def control(client: Any, name: str, size_of: Callable[[], int]) -> None:
    """Loads with a wrong configuration, with a right one, unloads, and loads what is not there."""
    client.load_model(name)
    assert client.is_model_ready(name)
    wrong = '"parameters": {"config": {{"max_batch_size": "16"}}}'
    assert "failed to load" in refused(lambda: client.load_model(name, config=wrong)).message()
    client.load_model(name, config='{"max_batch_size":"16"}')
    assert size_of() == 16
    client.unload_model(name)
    assert not client.is_model_ready(name)
    error = refused(lambda: client.load_model("wrong_model_name"))
    assert "failed to load" in error.message()
    client.load_model(name)
    assert client.is_model_ready(name)


def test_simple_http_model_control(http: rest.InferenceServerClient) -> None:
    """Seven models, as in the example's repository; load, unload and their errors."""
    assert len(http.get_model_repository_index()) == 7
    control(http, "simple_int8", lambda: http.get_model_config("simple_int8")["max_batch_size"])


def test_simple_grpc_model_control(grpc_client: rpc.InferenceServerClient) -> None:
    """All but its last step: a file that comes with a load is refused by another status."""

    def size() -> int:
        found: int = grpc_client.get_model_config("simple_int8").config.max_batch_size
        return found

    assert len(grpc_client.get_model_repository_index().models) == 7
    control(grpc_client, "simple_int8", size)
    files = {"file:" + "A" * 256: b"a"}
    error = refused(lambda: grpc_client.load_model("simple_int8", config="{}", files=files))
    assert error.status() == "StatusCode.PERMISSION_DENIED"
    assert grpc_client.is_server_live()


# Over gRPC


def test_simple_grpc_infer_client(grpc_client: rpc.InferenceServerClient) -> None:
    """Outputs by name and not; metadata that nobody knows; statistics of one model."""
    outputs = wanted(rpc)
    check(
        grpc_client.infer(
            "simple", asked(rpc), outputs=outputs, client_timeout=20.0, headers={"test": "1"}
        )
    )
    assert len(grpc_client.get_inference_statistics(model_name="simple").model_stats) == 1
    check(grpc_client.infer("simple", asked(rpc), outputs=None))


def test_simple_grpc_infer_client_compressed(grpc_client: rpc.InferenceServerClient) -> None:
    """Its option ``-C``, which it does not use by itself, is refused as what it is."""
    ask = partial(grpc_client.infer, "simple", asked(rpc), compression_algorithm="gzip")
    assert refused(ask).status() == "StatusCode.UNIMPLEMENTED"


def test_simple_grpc_async_infer_client(grpc_client: rpc.InferenceServerClient) -> None:
    """The answer comes to a callback."""
    came: queue.Queue[Any] = queue.Queue()
    grpc_client.async_infer(
        "simple",
        asked(rpc),
        lambda result, error: came.put((result, error)),
        outputs=wanted(rpc),
        client_timeout=20.0,
    )
    result, error = came.get(timeout=20)
    assert error is None
    check(result)


def test_simple_grpc_aio_infer_client(controlled: Any) -> None:
    """The asynchronous client asks and is answered, twice at once."""

    async def main() -> None:
        url = f"127.0.0.1:{controlled.grpc_port}"
        async with asynchronous_rpc.InferenceServerClient(url) as client:
            inputs, outputs = asked(asynchronous_rpc), wanted(asynchronous_rpc)
            for answer in await asyncio.gather(
                client.infer("simple", inputs, outputs=outputs),
                client.infer("simple", inputs),
            ):
                check(answer)
            statistics = await client.get_inference_statistics(model_name="simple")
            assert len(statistics.model_stats) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"keepalive_options": rpc.KeepAliveOptions(2**31 - 1, 20_000, False, 2)},
        {
            "channel_args": [
                ("grpc.primary_user_agent", "myagent"),
                ("grpc.keepalive_time_ms", 9999),
            ]
        },
    ],
    ids=["simple_grpc_keepalive_client", "simple_grpc_custom_args_client"],
)
def test_options_of_the_channel(controlled: Any, options: dict[str, Any]) -> None:
    """Keepalive and other arguments of the channel change no answer."""
    with rpc.InferenceServerClient(f"127.0.0.1:{controlled.grpc_port}", **options) as client:
        check(client.infer("simple", asked(rpc), outputs=wanted(rpc)))


def test_simple_grpc_health_metadata(grpc_client: rpc.InferenceServerClient) -> None:
    """As over HTTP, with headers that nobody knows, and the configuration."""
    headers = {"test": "1", "dummy": "2"}
    assert grpc_client.is_server_live(headers=headers)
    assert grpc_client.is_server_ready()
    assert grpc_client.is_model_ready("simple")
    assert grpc_client.get_server_metadata().name == "triton"
    assert grpc_client.get_model_metadata("simple", headers=headers).name == "simple"
    error = refused(lambda: grpc_client.get_model_metadata("wrong_model_name"))
    assert "Request for unknown model" in error.message()
    assert grpc_client.get_model_config("simple").config.name == "simple"


@pytest.mark.parametrize(
    ("model", "datatype", "field"),
    [
        ("simple", "INT32", "int_contents"),
        ("simple_int8", "INT8", "int_contents"),
        ("simple_string", "BYTES", "bytes_contents"),
    ],
    ids=[
        "grpc_explicit_int_content_client",
        "grpc_explicit_int8_content_client",
        "grpc_explicit_byte_content_client",
    ],
)
def test_grpc_explicit_contents(stub: Any, model: str, datatype: str, field: str) -> None:
    """Inputs in their typed contents are answered raw, in the order that was asked for."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, numbers in (("INPUT0", range(16)), ("INPUT1", [1] * 16)):
        sent = request.inputs.add(name=name, datatype=datatype, shape=[1, 16])
        told = [str(each).encode() if datatype == "BYTES" else each for each in numbers]
        getattr(sent.contents, field).extend(told)
    for name in ("OUTPUT0", "OUTPUT1"):
        request.outputs.add(name=name)
    answer = stub.ModelInfer(request, timeout=20)
    assert [list(each.shape) for each in answer.outputs] == [[1, 16], [1, 16]]
    for raw, difference in zip(answer.raw_output_contents, (1, -1), strict=True):
        if datatype == "BYTES":
            given = [int(each) for each in deserialize_bytes_tensor(raw)]
        else:
            given = np.frombuffer(raw, datatype.lower()).tolist()
        assert given == [number + difference for number in range(16)]


def test_memory_growth_test(controlled: Any) -> None:
    """A client after another, over either protocol, gets its numbers back."""
    for module, port in ((rest, controlled.port), (rpc, controlled.grpc_port)):
        for _ in range(5):
            client = module.InferenceServerClient(f"127.0.0.1:{port}")
            sent = module.InferInput("INPUT0", [1, 16], "INT32")
            sent.set_data_from_numpy(FIRST)
            output = module.InferRequestedOutput("OUTPUT0")
            given = client.infer("custom_identity_int32", [sent], outputs=[output])
            assert given.as_numpy("OUTPUT0").dtype == np.int32
            assert np.array_equal(given.as_numpy("OUTPUT0"), FIRST)
            client.close()


# What image_client and its like ask for, beside their images


@pytest.mark.parametrize("module", [rest, rpc], ids=["http", "grpc"])
def test_class_count(controlled: Any, module: Any) -> None:
    """The best classes come as text, of several rows, in binary or JSON."""
    port = controlled.port if module is rest else controlled.grpc_port
    rows = np.array([[0.25, 1.5, -2.0], [7.0, 7.0, 8.125]], np.float32)
    sent = module.InferInput("INPUT0", [2, 3], "FP32")
    sent.set_data_from_numpy(rows)
    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    kinds = [{"binary_data": True}, {"binary_data": False}] if module is rest else [{}]
    for kind in kinds:
        output = module.InferRequestedOutput("OUTPUT0", class_count=2, **kind)
        given = client.infer("scores", [sent], outputs=[output]).as_numpy("OUTPUT0")
        assert given.shape == (2, 2)
        assert [each.decode() if isinstance(each, bytes) else each for each in given.ravel()] == [
            "1.500000:1",
            "0.250000:0",
            "8.125000:2",
            "7.000000:0",
        ]
    plain = client.infer("scores", [sent])  # the cache holds numbers, whoever asked before
    assert np.array_equal(plain.as_numpy("OUTPUT0"), rows)
    client.close()


# What is not offered


def sequences(client: Any, module: Any, sequence: int | str) -> Any:
    """The first request of a sequence."""
    return client.infer(
        "simple", asked(module), sequence_id=sequence, sequence_start=True, sequence_end=False
    )


@pytest.mark.parametrize("sequence", [1000, "a-b-c"])
def test_simple_http_sequence_sync_infer_client(
    http: rest.InferenceServerClient, sequence: int | str
) -> None:
    """A sequence is refused as such, with the reason."""
    error = refused(lambda: sequences(http, rest, sequence))
    assert error.status() == "400"
    assert "models here keep no state between requests" in error.message()


@pytest.mark.parametrize("sequence", [1000, "a-b-c"])
def test_simple_grpc_sequence_sync_infer_client(
    grpc_client: rpc.InferenceServerClient, sequence: int | str
) -> None:
    """So it is over gRPC."""
    error = refused(lambda: sequences(grpc_client, rpc, sequence))
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    assert "models here keep no state between requests" in error.message()


def test_simple_grpc_sequence_stream_infer_client(grpc_client: rpc.InferenceServerClient) -> None:
    """In a stream the request is refused, and the stream goes on."""
    came: queue.Queue[Any] = queue.Queue()
    grpc_client.start_stream(lambda result, error: came.put((result, error)))
    grpc_client.async_stream_infer("simple", asked(rpc), sequence_id=7, sequence_start=True)
    grpc_client.async_stream_infer("simple", asked(rpc))
    _, error = came.get(timeout=20)
    assert "models here keep no state between requests" in error.message()
    result, error = came.get(timeout=20)
    assert error is None
    check(result)
    grpc_client.stop_stream()


def test_simple_grpc_aio_sequence_stream_infer_client(controlled: Any) -> None:
    """So it is for the asynchronous client."""

    async def main() -> None:
        url = f"127.0.0.1:{controlled.grpc_port}"
        async with asynchronous_rpc.InferenceServerClient(url) as client:
            inputs = asked(asynchronous_rpc)

            async def requests() -> AsyncIterator[dict[str, Any]]:
                yield {
                    "model_name": "simple",
                    "inputs": inputs,
                    "sequence_id": 7,
                    "sequence_start": True,
                }

            async for result, error in client.stream_infer(requests()):
                assert result is None
                assert "models here keep no state between requests" in error.message()

    asyncio.run(main())


SHARED = [
    lambda client: client.unregister_system_shared_memory(),
    lambda client: client.register_system_shared_memory("input_data", "/input_simple", 128),
    lambda client: client.unregister_cuda_shared_memory(),
    lambda client: client.register_cuda_shared_memory("input_data", b"AAAA", 0, 64),
]


@pytest.mark.parametrize("ask", SHARED)
def test_shared_memory_clients(
    http: rest.InferenceServerClient,
    grpc_client: rpc.InferenceServerClient,
    ask: Callable[[Any], Any],
) -> None:
    """All with ``shm`` in their name, and ``reuse_infer_objects_client``.

    They are told what Triton tells where client shared memory is off, which it is by default.
    """
    assert refused(partial(ask, http)).status() == "501"
    assert refused(partial(ask, grpc_client)).status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize("module", [rest, rpc], ids=["http", "grpc"])
def test_a_region_is_not_taken_for_a_tensor(controlled: Any, module: Any) -> None:
    """A request whose tensors would lie in shared memory is refused, and says which."""
    port = controlled.port if module is rest else controlled.grpc_port
    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    inputs = asked(module)
    inputs[1].set_shared_memory("input_data", 64)
    error = refused(lambda: client.infer("simple", inputs))
    assert "input 'INPUT1' is in shared memory" in error.message()
    outputs = wanted(module)
    outputs[0].set_shared_memory("output_data", 64)
    error = refused(lambda: client.infer("simple", asked(module), outputs=outputs))
    assert "output 'OUTPUT0' is in shared memory" in error.message()
    client.close()
