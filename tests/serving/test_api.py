"""The protocols, spoken to a real server: v2, v1, feedback, metrics and every kind of refusal."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidemill import __version__
from tidemill.data.ledger import read_ledger
from tidemill.models.signature import Array

DIGITS = "/v2/models/digits/infer"
ID = "0123456789abcdef" * 2


def row_of(server: Any, model: str, at: int) -> dict[str, Any]:
    """One row of a model's, as JSON."""
    return {
        name: array[at : at + 1].tolist()[0] for name, array in server.models[model].rows.items()
    }


def digits(x: Array, **more: Any) -> dict[str, Any]:
    """A v2 request for the forest."""
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
    return {"inputs": [tensor], **more}


def delays(rows: dict[str, Array], **more: Any) -> dict[str, Any]:
    """A v2 request for delays."""
    types = {"carrier": "BYTES", "temperature": "FP64"}
    tensors = [
        {"name": name, "shape": [len(array)], "datatype": types.get(name, "INT64")}
        | {"data": array.tolist()}
        for name, array in rows.items()
    ]
    return {"inputs": tensors, **more}


def check_error(answer: httpx.Response, status: int, what: str) -> None:
    """An error is one JSON object with one sentence, as clients of the protocol want it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert what in body["error"], body


def counted(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample of /metrics by name and label values."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


# Metadata


def test_the_server_describes_itself(client: httpx.Client) -> None:
    """Name, version and extensions; live and ready say so in fields that clients look for."""
    for path in ("/v2", "/v2/"):
        described = client.get(path).json()
        assert described["name"] == "tidemill"
        assert described["version"] == __version__
        assert "binary_tensor_data" in described["extensions"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert {"digits", "delays", "add"} <= set(client.get("/v2/models").json()["models"])
    head = client.head("/v2/health/live")
    assert (head.status_code, head.content) == (200, b"")


def test_a_model_is_described_and_ready(client: httpx.Client) -> None:
    """Names, datatypes and shapes of inputs and outputs, with and without a version."""
    for path in ("/v2/models/delays", "/v2/models/delays/versions/1"):
        described = client.get(path).json()
        assert described["name"] == "delays"
        assert described["versions"] == ["1"]
        assert described["platform"] == "tidemill_onnx"
        assert described["inputs"][0] == {"name": "carrier", "datatype": "BYTES", "shape": [-1]}
        assert described["outputs"][1] == {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [-1, 2],
        }
        assert client.get(f"{path}/ready").json() == {"name": "delays", "ready": True}
    assert client.get("/v1/models/delays").json() == {"name": "delays", "ready": True}


# Inference


@pytest.mark.parametrize("path", [DIGITS, "/v2/models/digits/versions/1/infer"])
def test_tensors_in_json(server: Any, client: httpx.Client, path: str) -> None:
    """A batch in JSON is answered with what the model says, with its id, version and source."""
    model = server.models["digits"]
    answer = client.post(path, json=digits(model.rows["x"], id="mine"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("digits", "1", "mine")
    assert body["parameters"]["version"] == 1
    assert body["parameters"]["source"] in {"model", "cache"}
    assert len(body["parameters"]["prediction_id"]) == 32
    for output in body["outputs"]:
        expected = model.outputs[output["name"]]
        assert output["shape"] == list(expected.shape)
        assert np.array_equal(np.array(output["data"], expected.dtype), expected.ravel())
    assert {output["name"]: output["datatype"] for output in body["outputs"]} == {
        "label": "INT64",
        "probabilities": "FP32",
    }


def test_tensors_in_binary(server: Any, client: httpx.Client) -> None:
    """A binary tensor is answered in binary where that is asked for, in JSON where not."""
    model = server.models["digits"]
    x = model.rows["x"]
    size = {"binary_data_size": x.nbytes}
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP64", "parameters": size}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    answer = client.post(
        DIGITS,
        content=head + x.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    split = int(answer.headers["inference-header-content-length"])
    probabilities, label = json.loads(answer.content[:split])["outputs"]
    assert "data" not in probabilities
    assert probabilities["parameters"] == {"binary_data_size": len(answer.content) - split}
    read = np.frombuffer(answer.content[split:], "<f4").reshape(probabilities["shape"])
    assert np.array_equal(read, model.outputs["probabilities"])
    assert label["data"] == model.outputs["label"].tolist()


def test_strings_from_a_worker_and_a_table(server: Any, client: httpx.Client) -> None:
    """Rows that the table knows and rows that it lacks are one answer, in the request's order."""
    model = server.models["delays"]
    body = client.post("/v2/models/delays/infer", json=delays(model.rows)).json()
    label, probabilities = body["outputs"]
    assert label["data"] == model.outputs["label"].tolist()
    expected = model.outputs["probabilities"]
    assert np.array_equal(np.array(probabilities["data"], np.float32), expected.ravel())
    known = model.rows["month"] <= 6
    assert body["parameters"]["source"] == "mixed"
    sources = body["parameters"]["sources"].split(",")
    assert sources == ["table" if each else "model" for each in known]


def test_the_source_of_an_answer_is_told(server: Any, client: httpx.Client) -> None:
    """A row from the table says table; another says model first, cache when it comes again."""
    path = "/v1/models/delays:predict"
    known, unknown = row_of(server, "delays", 0), row_of(server, "delays", 10)
    unknown["temperature"] = 1234.5
    seen = []
    for row in (known, unknown, unknown, known):
        seen += client.post(path, json={"instances": [row]}).json()["sources"]
    assert seen == ["table", "model", "cache", "table"]


def test_instances_as_objects_lists_and_bare_values(server: Any, client: httpx.Client) -> None:
    """The v1 forms give the same predictions; rows of several outputs are objects."""
    model = server.models["delays"]
    rows = [row_of(server, "delays", at) for at in range(8, 20)]
    expected = [
        {"label": label, "probabilities": probabilities.tolist()}
        for label, probabilities in zip(
            model.outputs["label"][8:20], model.outputs["probabilities"][8:20], strict=True
        )
    ]
    for instances in (rows, [list(row.values()) for row in rows]):
        answer = client.post("/v1/models/delays:predict", json={"instances": instances}).json()
        assert answer["predictions"] == expected
        assert answer["model_version"] == "1"
        ids = answer["prediction_ids"]
        assert ids == [f"{ids[0][:32]}-{row}" for row in range(12)]
    x = server.models["digits"].rows["x"]
    bare = client.post("/v1/models/digits:predict", json={"instances": x.tolist()}).json()
    labels = [prediction["label"] for prediction in bare["predictions"]]
    assert labels == server.models["digits"].outputs["label"].tolist()
    single = client.post("/v1/models/add:predict", json={"instances": [5]}).json()
    assert single["predictions"][0] % 1000 == 5
    assert len(single["prediction_ids"][0]) == 32


def test_names_may_be_escaped_and_query_strings_are_ignored(
    server: Any, client: httpx.Client
) -> None:
    """``%64igits`` is ``digits``; what follows a question mark says nothing."""
    request = digits(server.models["digits"].rows["x"][:1])
    connection = server.connection()
    for path in ("/v2/models/%64igits/infer?test_1=1&test_2=2", "/v2/models/digits/infer?"):
        connection.request("POST", path, body=json.dumps(request))
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["model_name"]) == (200, "digits")
    connection.close()
    assert client.get("/v2/health/ready?x=/v2/models/none").status_code == 200


# Refusals

ROW = json.dumps({"instances": [[0.0] * 64]})
WRONG: dict[str, tuple[str, str, str, int, str]] = {
    "not JSON": ("POST", DIGITS, "{", 400, "not JSON"),
    "no body": ("POST", DIGITS, "", 400, "not JSON"),
    "not UTF-8": ("POST", DIGITS, '{"id":"\udcff"}', 400, "not JSON"),
    "NaN": ("POST", "/v1/models/digits:predict", '{"instances":[NaN]}', 400, "NaN and Infinity"),
    "too deep": ("POST", "/v1/models/digits:predict", '{"instances":' + "[" * 9999, 400, "deep"),
    "not a request": ("POST", DIGITS, "{}", 400, "missing required field `inputs`"),
    "unknown model": ("POST", "/v2/models/none/infer", ROW, 404, "Request for unknown model: 'non"),
    "unknown in v1": ("POST", "/v1/models/none:predict", ROW, 404, "Request for unknown model"),
    "no feedback": ("POST", "/v1/models/none:feedback", "[]", 404, "Request for unknown model"),
    "unknown metadata": ("GET", "/v2/models/none", "", 404, "Request for unknown model"),
    "unknown ready": ("GET", "/v2/models/none/ready", "", 404, "Request for unknown model"),
    "unknown escaped": ("GET", "/v2/models/%ff%2F..", "", 404, "Request for unknown model"),
    "old version": (
        "POST",
        "/v2/models/digits/versions/9/infer",
        json.dumps(digits(np.zeros((1, 64)))),
        404,
        "version 9 is not live. Live versions: 1",
    ),
    "version metadata": ("GET", "/v2/models/digits/versions/9", "", 404, "version 9 is not live"),
    "version text": ("GET", "/v2/models/digits/versions/x", "", 400, "version 'x' is not a number"),
    "wrong shape": (
        "POST",
        DIGITS,
        json.dumps(digits(np.zeros((1, 63)))),
        400,
        "input 'x' has shape [1, 63]. The model expects [-1, 64]",
    ),
    "wrong width": ("POST", "/v1/models/digits:predict", '{"instances":[[1,2]]}', 400, "in row 0"),
    "wrong dtype": (
        "POST",
        DIGITS,
        json.dumps(digits(np.zeros((1, 64)))).replace("FP64", "BYTES"),
        400,
        "input 'x' has datatype 'BYTES'. The model expects FP64",
    ),
    "wrong output": (
        "POST",
        DIGITS,
        json.dumps(digits(np.zeros((1, 64)), outputs=[{"name": "z"}])),
        400,
        "output 'z' is not known",
    ),
    "no time": (
        "POST",
        DIGITS,
        json.dumps(digits(np.zeros((1, 64)), parameters={"timeout": 0})),
        400,
        "timeout is not positive",
    ),
    "GET for POST": ("GET", DIGITS, "", 405, "Use POST"),
    "POST for GET": ("POST", "/v2/health/live", "{}", 405, "Use GET"),
    "DELETE": ("DELETE", "/v1/models/digits:predict", "", 405, "Use POST"),
    "unknown path": ("GET", "/v3", "", 404, "nothing is served at '/v3'"),
    "unknown verb": ("POST", "/v1/models/digits:train", "{}", 404, "nothing is served"),
    "the root": ("GET", "/", "", 404, "nothing is served"),
    "wrong feedback": ("POST", "/v1/models/digits:feedback", "{}", 400, "prediction_id"),
    "foreign feedback": (
        "POST",
        "/v1/models/digits:feedback",
        '{"prediction_id": "x", "label": 1}',
        400,
        "prediction_id 'x' was not made by this server",
    ),
    "feedback for what was never predicted": (
        "POST",
        "/v1/models/digits:feedback",
        json.dumps([{"prediction_id": "0" * 32, "label": 1}]),
        400,
        f"prediction_id '{'0' * 32}' was not made by this installation",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused(server: Any, client: httpx.Client, case: str) -> None:
    """Each wrong request gets its status, a sentence, and a remedy; the next one is served."""
    method, path, body, status, what = WRONG[case]
    request = httpx.Request(method, client.base_url, content=body.encode(errors="surrogateescape"))
    request.url = client.base_url.copy_with(raw_path=path.encode("latin-1"))
    check_error(client.send(request), status, what)
    assert client.get("/v2/health/live").status_code == 200


def test_a_version_is_written_in_plain_digits(server: Any) -> None:
    """What Unicode calls a digit is no version, and no surprise to the server."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        target = b"/v2/models/digits/versions/\xb2"
        raw.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % target)
        received = b"".join(iter(lambda: raw.recv(4096), b""))
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n"), received


def test_a_wrong_binary_length_is_refused(server: Any, client: httpx.Client) -> None:
    """The header's length must lie within the body, and be a number."""
    body = json.dumps(digits(np.zeros((1, 64)))).encode()
    for length, what in (
        (str(len(body) + 1), f"the body has {len(body)} bytes"),
        ("0", f"{len(body)} bytes, its shape [1, 64] holds 512"),
        ("99999999999", "Content-Length is 99999999999"),
        ("-1", "not a number of bytes"),
        ("1e3", "not a number of bytes"),
    ):
        answer = client.post(
            DIGITS, content=body, headers={"Inference-Header-Content-Length": length}
        )
        check_error(answer, 400, what)


def test_a_timeout_is_kept(server: Any, client: httpx.Client) -> None:
    """A microsecond is too short for any model: 504; what is known already is answered anyway."""
    x = np.full((1, 64), 3.25)
    short = digits(x, parameters={"timeout": 1})
    check_error(client.post(DIGITS, json=short), 504, "within 0.0 ms")
    v1 = {"instances": x.tolist(), "timeout_ms": 0.001}
    check_error(client.post("/v1/models/digits:predict", json=v1), 504, "within 0.0 ms")
    assert client.post(DIGITS, json=digits(x)).status_code == 200
    from_cache = client.post(DIGITS, json=short)
    assert from_cache.json()["parameters"]["source"] == "cache"


# Labels, the ledger and metrics


def test_labels_are_durable_when_they_are_acknowledged(server: Any) -> None:
    """The gateway is killed right after its 200: label and prediction are in the ledger."""
    with server.client() as client:
        instances = [[0.125 * at for at in range(64)]]
        answer = client.post("/v1/models/digits:predict", json={"instances": instances}).json()
        (prediction_id,) = answer["prediction_ids"]
        (gateway,) = [each["pid"] for each in server.health()["gateways"]]
        label = {"prediction_id": prediction_id, "label": 7, "observed_at": 12.5}
        accepted = client.post("/v1/models/digits:feedback", json=[label])
        os.kill(gateway, signal.SIGKILL)
    assert (accepted.status_code, accepted.json()) == (200, {"accepted": 1})
    ledger = read_ledger(server.home.ledger_path, "digits")
    labels = [each for each in ledger.labels.to_pylist() if each["prediction_id"] == prediction_id]
    assert len(labels) == 1
    assert (labels[0]["label"], labels[0]["observed_at"]) == (7, 12.5)
    predictions = ledger.predictions.to_pylist()
    (kept,) = [each for each in predictions if each["prediction_id"] == prediction_id]
    assert (kept["version"], kept["source"]) == (1, answer["sources"][0])
    assert json.loads(kept["inputs"])["x"] == instances[0]
    assert json.loads(kept["outputs"])["label"] == answer["predictions"][0]["label"]

    def answers() -> bool:
        try:
            with server.client() as another:
                return bool(another.get("/v2/models/digits/ready").is_success)
        except httpx.TransportError:
            return False

    server.until(answers, "the gateway's return")


def test_every_answer_is_in_the_ledger(server: Any, client: httpx.Client) -> None:
    """Each row has its id, source, version and the moment that the client says it is about."""
    rows = {name: array[4:8] for name, array in server.models["delays"].rows.items()}
    request = delays(rows, parameters={"event_time": 1_700_000_000.5})
    body = client.post("/v2/models/delays/infer", json=request).json()["parameters"]
    kept = {
        each["prediction_id"]: each
        for each in read_ledger(server.home.ledger_path, "delays").predictions.to_pylist()
    }
    for at, source in enumerate(body["sources"].split(",")):
        row = kept[f"{body['prediction_id']}-{at}"]
        assert (row["source"], row["version"]) == (source, 1)
        assert row["event_time"] == 1_700_000_000.5
        assert json.loads(row["inputs"]) == {name: a.tolist()[at] for name, a in rows.items()}


def test_metrics_count_what_happened(server: Any, client: httpx.Client) -> None:
    """Answers by source, queries, errors by kind, labels and batches add up exactly."""
    before = counted(client)
    known, other = row_of(server, "delays", 0), row_of(server, "delays", 9)
    other["temperature"] = -3.75
    path = "/v1/models/delays:predict"
    for row in (known, other, other, known):
        assert client.post(path, json={"instances": [row]}).status_code == 200
    answered = client.post(path, json={"instances": [known, {**other, "distance": 1}]}).json()
    refused = {"instances": [{**other, "distance": 2}], "timeout_ms": 0.001}
    check_error(client.post(path, json=refused), 504, "within 0.0 ms")
    assert client.post(path, json={"instances": [5]}).status_code == 400
    ids = [*answered["prediction_ids"], answered["prediction_ids"][0]]
    labels = [{"prediction_id": each, "label": "late"} for each in (*ids, ID)]
    assert client.post("/v1/models/delays:feedback", json=labels).json() == {
        "accepted": 3,
        "refused": [{"prediction_id": ID, "reason": "unknown"}],
    }
    after = counted(client)
    grown = {key: after[key] - before.get(key, 0) for key in after if "delays" in key}
    assert {key[2]: n for key, n in grown.items() if key[0] == "tidemill_answers_total"} == {
        "table": 3,
        "model": 2,
        "cache": 1,
        "default": 0,
    }
    assert {key[2]: n for key, n in grown.items() if key[0] == "tidemill_queries_total"} == {
        "met": 5,
        "missed": 0,
        "refused": 1,
        "defaulted": 0,
        "failed": 0,
    }
    assert grown["tidemill_errors_total", "delays", "DeadlineExceeded", "1"] == 1
    assert grown["tidemill_labels_total", "delays"] == 3
    assert grown["tidemill_labels_refused_total", "delays", "unknown"] == 1
    assert grown["tidemill_query_seconds_count", "delays", "1"] == 6
    assert grown["tidemill_batch_rows_sum", "delays", "1"] == 2
    stages = {k[2]: n for k, n in grown.items() if k[0] == "tidemill_stage_seconds_count"}
    assert stages == {"queue": 2, "compute": 2, "table": 6, "cache": 1, "default": 0}
    assert after["tidemill_queue_rows", "delays", "1"] == 0
    assert after["tidemill_replicas_alive", "delays", "1"] == 1
    assert after["tidemill_revision",] >= 1
