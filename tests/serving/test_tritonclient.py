"""The protocol as its best-known client speaks it: the official Triton client, over HTTP."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
import tritonclient.http.aio as asynchronous  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from tidemill.models.signature import Array

DATATYPES = {"carrier": "BYTES", "month": "INT64", "distance": "INT64", "temperature": "FP64"}


@pytest.fixture
def official(server: Any) -> Iterator[triton.InferenceServerClient]:
    """The official client."""
    client = triton.InferenceServerClient(server.address, network_timeout=20.0)
    yield client
    client.close()


def tensor(name: str, datatype: str, array: Array, *, binary: bool = True) -> triton.InferInput:
    """An input as the client makes it."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def text(array: Array | None) -> list[str]:
    """Strings as the client gives them: bytes from binary answers, text from JSON."""
    assert array is not None
    return [each.decode() if isinstance(each, bytes) else each for each in array.ravel()]


def test_health_and_metadata(official: triton.InferenceServerClient) -> None:
    """Live, ready, and what the server and its models are."""
    assert official.is_server_live()
    assert official.is_server_ready()
    assert official.is_model_ready("digits")
    assert official.is_model_ready("digits", "1")
    assert not official.is_model_ready("digits", "9")
    assert not official.is_model_ready("none")
    assert official.get_server_metadata()["name"] == "tidemill"
    described = official.get_model_metadata("delays", "1")
    assert {each["name"]: each["datatype"] for each in described["inputs"]} == DATATYPES
    assert official.get_model_metadata("digits")["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_a_vector(server: Any, official: triton.InferenceServerClient, *, binary: bool) -> None:
    """In binary, as the client does by itself, or in JSON, a batch is answered by the model."""
    model = server.models["digits"]
    x = tensor("x", "FP64", model.rows["x"], binary=binary)
    query = {"test_1": 1, "test_2": 2}
    answer = official.infer("digits", [x], request_id="7", query_params=query)
    assert answer.get_response()["id"] == "7"
    assert answer.get_response()["model_version"] == "1"
    for name, expected in model.outputs.items():
        given = answer.as_numpy(name)
        assert given.dtype == expected.dtype
        assert np.array_equal(given, expected)


@pytest.mark.parametrize("binary_inputs", [set(), {"carrier", "temperature"}, set(DATATYPES)])
def test_strings_and_numbers(
    server: Any, official: triton.InferenceServerClient, binary_inputs: set[str]
) -> None:
    """Strings and numbers, each in binary or JSON; outputs asked for by name, each in its form."""
    model = server.models["delays"]
    inputs = [
        tensor(name, DATATYPES[name], array, binary=name in binary_inputs)
        for name, array in model.rows.items()
    ]
    asked = [
        triton.InferRequestedOutput("probabilities", binary_data=bool(binary_inputs)),
        triton.InferRequestedOutput("label", binary_data=not binary_inputs),
    ]
    answer = official.infer("delays", inputs, model_version="1", outputs=asked)
    said = answer.get_response()["outputs"]
    assert [each["name"] for each in said] == ["probabilities", "label"]
    assert ["data" in each for each in said] == [not binary_inputs, bool(binary_inputs)]
    assert text(answer.as_numpy("label")) == model.outputs["label"].tolist()
    assert np.array_equal(answer.as_numpy("probabilities"), model.outputs["probabilities"])
    only = official.infer("delays", inputs, outputs=asked[1:])
    assert only.as_numpy("probabilities") is None
    assert text(only.as_numpy("label")) == model.outputs["label"].tolist()


def test_strings_come_back_in_binary(server: Any, official: triton.InferenceServerClient) -> None:
    """A client that asks for no output by name gets all of them, in binary."""
    model = server.models["delays"]
    inputs = [tensor(name, DATATYPES[name], array) for name, array in model.rows.items()]
    answer = official.infer("delays", inputs)
    for output in answer.get_response()["outputs"]:
        assert "binary_data_size" in output["parameters"]
    assert text(answer.as_numpy("label")) == model.outputs["label"].tolist()


@pytest.mark.parametrize("asked", ["gzip", "deflate", None])
@pytest.mark.parametrize("sent", ["gzip", "deflate", None])
def test_compressed_both_ways(
    server: Any, official: triton.InferenceServerClient, sent: str | None, asked: str | None
) -> None:
    """Whatever of the two is compressed, and however, it is the same question and answer."""
    model = server.models["digits"]
    rows = np.concatenate([model.rows["x"]] * 5)
    plain = official.infer("digits", [tensor("x", "FP64", rows)])
    for binary in (True, False):
        x = tensor("x", "FP64", rows, binary=binary)
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in model.outputs]
        answer = official.infer(
            "digits",
            [x],
            outputs=outputs,
            request_compression_algorithm=sent,
            response_compression_algorithm=asked,
        )
        for name in model.outputs:
            assert np.array_equal(answer.as_numpy(name), plain.as_numpy(name))


def test_the_asynchronous_client_is_answered_compressed(server: Any) -> None:
    """Aiohttp's client accepts both codings by itself, and unfolds what comes."""

    async def main() -> None:
        model = server.models["digits"]
        rows = np.concatenate([model.rows["x"]] * 5)
        async with asynchronous.InferenceServerClient(server.address) as client:
            answer = await client.infer(
                "digits",
                [tensor("x", "FP64", rows)],
                request_compression_algorithm="gzip",
                response_compression_algorithm="deflate",
            )
        expected = np.concatenate([model.outputs["label"]] * 5)
        assert np.array_equal(answer.as_numpy("label"), expected)

    asyncio.run(main())


def test_the_best_classes_have_their_labels(
    server: Any, official: triton.InferenceServerClient
) -> None:
    """From the model, its cache and a table, rows get their classes by name."""
    for name, labels in (("delays", ["late", "on time"]), ("digits", [*map(str, range(10))])):
        model = server.models[name]
        kinds = DATATYPES if name == "delays" else {"x": "FP64"}
        inputs = [tensor(each, kinds[each], array) for each, array in model.rows.items()]
        outputs = [
            triton.InferRequestedOutput("probabilities", class_count=2),
            triton.InferRequestedOutput("label"),
        ]
        expected = [
            f"{row[at]:f}:{at}:{labels[at]}"
            for row in model.outputs["probabilities"].tolist()
            for at in sorted(range(len(row)), key=lambda at: (-row[at], at))[:2]
        ]
        for _ in range(2):
            answer = official.infer(name, inputs, outputs=outputs)
            assert text(answer.as_numpy("probabilities")) == expected
            assert answer.as_numpy("probabilities").shape == (len(expected) // 2, 2)
        plain = official.infer(name, inputs)
        assert np.array_equal(plain.as_numpy("probabilities"), model.outputs["probabilities"])
    with pytest.raises(InferenceServerException, match="unsupported type 'BYTES'") as refused:
        outputs = [triton.InferRequestedOutput("label", class_count=1)]
        rows = server.models["delays"].rows.items()
        official.infer(
            "delays",
            [tensor(each, DATATYPES[each], array) for each, array in rows],
            outputs=outputs,
        )
    assert refused.value.status() == "400"


@pytest.mark.parametrize("coding", [None, "gzip"])
def test_a_row_as_bare_bytes(server: Any, coding: str | None) -> None:
    """A body with no JSON is one row; what comes back is read by the client as any answer."""
    model = server.models["digits"]
    connection = server.connection()
    for at in range(3):
        body = model.rows["x"][at].tobytes()
        headers = {"Inference-Header-Content-Length": "0"}
        if coding is not None:
            headers["Content-Encoding"] = coding
            body = gzip.compress(body)
        connection.request("POST", "/v2/models/digits/infer", body, headers)
        answer = connection.getresponse()
        header = int(answer.headers["Inference-Header-Content-Length"])
        found = triton.InferResult.from_response_body(answer.read(), header_length=header)
        assert [each["name"] for each in found.get_response()["outputs"]] == [*model.outputs]
        for name, expected in model.outputs.items():
            assert np.array_equal(found.as_numpy(name), expected[at : at + 1])
    connection.request("POST", "/v2/models/delays/infer", body, headers)
    answer = connection.getresponse()
    assert answer.status == 400
    assert b"must only have 1 input" in answer.read()
    connection.close()


@pytest.mark.parametrize("binary", [True, False])
def test_a_table_as_one_matrix(official: triton.InferenceServerClient, *, binary: bool) -> None:
    """One matrix of all columns is answered as one tensor for each."""
    rows = np.array([[41.0, 7.25], [36.0, 8.05], [28.0, 0.5]])
    columns = [
        tensor("age", "INT64", rows[:, 0].astype(np.int64), binary=binary),
        tensor("fare", "FP64", rows[:, 1].copy(), binary=binary),
    ]
    whole = official.infer("fares", [tensor("rows", "FP64", rows, binary=binary)])
    assert np.array_equal(whole.as_numpy("y"), rows.sum(axis=1))
    assert np.array_equal(official.infer("fares", columns).as_numpy("y"), whole.as_numpy("y"))
    rows[1, 0] = 36.5
    with pytest.raises(InferenceServerException, match=r"'age' holds 36.5 in row 1"):
        official.infer("fares", [tensor("rows", "FP64", rows, binary=binary)])


def test_bfloat16(official: triton.InferenceServerClient) -> None:
    """What the client makes of ml_dtypes' type is taken for a column of floats."""
    fares = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    inputs = [tensor("age", "INT64", np.array([1, 2])), tensor("fare", "BF16", fares)]
    assert official.infer("fares", inputs).as_numpy("y").tolist() == [2.5, 0.0]


def test_many_at_once(server: Any) -> None:
    """Requests that the client has under way together each get their own answer."""
    rows = server.models["digits"].rows["x"]
    expected = server.models["digits"].outputs["label"]
    client = triton.InferenceServerClient(server.address, concurrency=8, network_timeout=20.0)
    sent = [
        client.async_infer("digits", [tensor("x", "FP64", rows[at : at + 1])]) for at in range(24)
    ]
    given = [each.get_result(timeout=20).as_numpy("label")[0] for each in sent]
    client.close()
    assert given == expected[:24].tolist()


def test_errors_are_ours(server: Any, official: triton.InferenceServerClient) -> None:
    """The client raises its exception with the server's sentence and status."""
    row = server.models["digits"].rows["x"][:1]
    good = tensor("x", "FP64", row)
    wrong: list[tuple[str, dict[str, Any], str, str]] = [
        ("404", {"model_name": "none", "inputs": [good]}, "Request for unknown model", "digits"),
        (
            "404",
            {"model_name": "digits", "inputs": [good], "model_version": "5"},
            "version 5 is not live",
            "Live versions: 1",
        ),
        (
            "400",
            {"model_name": "digits", "inputs": [tensor("x", "FP64", row[:, :9])]},
            "input 'x' has shape [1, 9]",
            "The model expects [-1, 64]",
        ),
        (
            "400",
            {"model_name": "digits", "inputs": [tensor("z", "FP64", row)]},
            "input 'x' is missing and input 'z' is not known",
            "The model expects: x.",
        ),
        (
            "400",
            {
                "model_name": "digits",
                "inputs": [good],
                "outputs": [triton.InferRequestedOutput("z")],
            },
            "output 'z' is not known",
            "label, probabilities",
        ),
        (
            "504",
            {"model_name": "digits", "inputs": [tensor("x", "FP64", row + 0.0625)], "timeout": 1},
            "within 0.0 ms",
            "Allow more time",
        ),
    ]
    for status, request, what, remedy in wrong:
        with pytest.raises(InferenceServerException) as refused:
            official.infer(**request)
        assert refused.value.status() == status
        assert what in refused.value.message()
        assert remedy in refused.value.message()
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        official.get_model_metadata("none")
    assert np.array_equal(
        official.infer("digits", [good]).as_numpy("label"),
        server.models["digits"].outputs["label"][:1],
    )
