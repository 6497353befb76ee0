"""The OpenAPI document of the query port, and the server held to it by generated requests."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode

from tidemill.foundation.errors import Unavailable
from tidemill.models.signature import Column, Signature
from tidemill.serving import openapi
from tidemill.serving.openapi import (
    MAX_DESCRIBED_APPLICATIONS,
    MAX_DESCRIBED_COLUMNS,
    ApiDocument,
    describe_api,
)
from tidemill.serving.operations import OPERATIONS

EXAMPLES = 10
LIMITS = {"max_body_bytes": 1000, "max_header_bytes": 100}
ASKED = ("add", "delays", "digits")
OWN = [
    f"POST {path}"
    for name in ASKED
    for path in (f"/v2/models/{name}/infer", f"/v1/models/{name}:predict")
]
GENERAL = [f"{each.method} {each.path}" for each in OPERATIONS]

# What a schema cannot say: that data fills its shape, that 5.0 is no integer here.
schemathesis.checks.load_all_checks()
UNSAYABLE = schemathesis.checks.CHECKS.get_by_names(["positive_data_acceptance"])


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    """What the server says of itself."""
    found: dict[str, Any] = client.get("/openapi.json").raise_for_status().json()
    return found


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A connection that is kept."""
    with requests.Session() as opened:
        yield opened


def held_to(server: Any, document: dict[str, Any], label: str) -> Any:
    """Finds an operation as schemathesis knows it."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=f"http://{server.address}")
    method, path = label.split(" ", 1)
    return schema[path][method]


def forget_deadlines(body: Any) -> None:
    """Takes away how long a client waits: less than any answer takes would rightly be a 504."""
    if isinstance(body, dict):
        body.pop("timeout_ms", None)
        if isinstance(body.get("parameters"), dict):
            body["parameters"].pop("timeout", None)


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", GENERAL + OWN)
def test_every_answer_is_as_the_document_says(
    label: str,
    mode: GenerationMode,
    server: Any,
    document: dict[str, Any],
    session: requests.Session,
) -> None:
    """Generated requests, right and wrong: a stated status, type and schema, and never a crash."""
    operation = held_to(server, document, label)
    if mode.is_negative and not (operation.path_parameters or operation.body):
        mode = GenerationMode.POSITIVE  # there is nothing that could be wrong
    names = st.sampled_from(ASKED) | st.none()
    statuses: Counter[int] = Counter()

    @seed(20)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode), name=names)
    def ask(case: Any, name: str | None) -> None:
        if name is not None and mode.is_positive and "name" in case.path_parameters:
            case.path_parameters["name"] = name
            if "version" in case.path_parameters:
                case.path_parameters["version"] = "1"
        forget_deadlines(case.body)
        answer = case.call(session=session, timeout=20)
        statuses[answer.status_code] += 1
        case.validate_response(answer, excluded_checks=UNSAYABLE)

    ask()
    assert max(statuses) < 500
    if label.startswith("GET ") and mode.is_positive and "lookup" not in label:  # by whose key?
        assert statuses[200] > 0


def test_the_document_is_openapi_and_tells_of_every_operation(document: dict[str, Any]) -> None:
    """It is valid, each operation of the table is in it once, and each has an id of its own."""
    OpenAPIV31SpecValidator(document).validate()
    described = [
        (f"{method.upper()} {path}", each["operationId"])
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    ]
    assert {*GENERAL, *OWN} <= {label for label, _ in described}
    assert len({identity for _, identity in described}) == len(described)


@pytest.mark.parametrize("name", ["add", "delays"])
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_an_application_is_described_by_its_columns(
    name: str, kind: str, document: dict[str, Any], client: httpx.Client
) -> None:
    """The example of its own schema is answered, and the answer is what its schema says."""
    path = f"/v1/models/{name}:predict" if kind == "v1" else f"/v2/models/{name}/infer"
    described = document["paths"][path]["post"]
    schemas = {"components": document["components"]}
    asks = described["requestBody"]["content"]["application/json"]["schema"]
    gives = described["responses"]["200"]["content"]["application/json"]["schema"]
    request = document["components"]["schemas"][asks["$ref"].rpartition("/")[2]]["examples"][0]
    Draft202012Validator({**schemas, **asks}).validate(request)
    answer = client.post(path, json=request)
    assert answer.status_code == 200, answer.text
    judge = Draft202012Validator({**schemas, **gives})
    judge.validate(answer.json())
    wrong = answer.json()
    wrong["predictions" if kind == "v1" else "outputs"].append({"name": "nobody"})
    assert list(judge.iter_errors(wrong))


def test_it_is_made_once_for_what_is_live(server: Any, client: httpx.Client) -> None:
    """Asked twice it is the same; another application shows once it is live."""
    first = client.get("/openapi.json")
    assert first.headers["content-type"] == "application/json"
    assert client.get("/openapi.json").content == first.content
    assert "/v2/models/added-later/infer" not in first.json()["paths"]
    server.deploy("added-later", "add", 2)
    assert "/v2/models/added-later/infer" in client.get("/openapi.json").json()["paths"]


def test_a_document_that_could_not_be_made_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who asks while it cannot be made is told so; the next one gets it."""
    answers: list[Any] = []
    exchange = SimpleNamespace(principal=None, answer=answers.append, fail=answers.append)
    document = ApiDocument(
        SimpleNamespace(applications={}, revision=1), SimpleNamespace(table=None), **LIMITS
    )

    async def asked() -> Any:
        document.openapi(exchange)
        async with asyncio.timeout(10.0):
            while not answers:
                await asyncio.sleep(0.005)
        return answers.pop()

    async def main() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(openapi, "_written", lambda *_, **__: 1 / 0)
            assert isinstance(await asked(), Unavailable)
        assert b"paths" in await asked()

    asyncio.run(main())


def test_it_is_bounded_and_says_so() -> None:
    """However many applications and columns there are, the document tells so many apart."""
    narrow = Signature((Column("x", "float32"),), (Column("y", "float32"),))
    many = {f"a{at}": narrow for at in range(MAX_DESCRIBED_APPLICATIONS + 3)}
    wide = Signature(
        tuple(Column(f"x{at}", "float32") for at in range(MAX_DESCRIBED_COLUMNS // 2)),
        (Column("y", "float32"),),
    )
    for signatures, described in ((many, MAX_DESCRIBED_APPLICATIONS), ({"a": wide, "b": wide}, 1)):
        made = describe_api(signatures, keys=False, limits=LIMITS)
        own = [path for path in made["paths"] if re.match(r"/v2/models/\w+/infer", path)]
        assert len(own) == described
        left_out = len(signatures) - described
        assert f" {left_out} more applications" in made["info"]["description"]


def test_an_example_is_short_and_columns_of_every_type_are_described() -> None:
    """A picture has no example of its numbers; each type has a schema that a checker takes."""
    types = ("bool", "int8", "uint64", "float16", "float64", "string")
    signature = Signature(
        tuple(Column(each, each, (2, 3)) for each in types), (Column("y", "int32"),)
    )
    picture = Signature((Column("x", "float32", (224, 224, 3)),), (Column("y", "int32"),))
    made = describe_api({"all": signature, "picture": picture}, keys=True, limits=LIMITS)
    OpenAPIV31SpecValidator(made).validate()
    schemas = made["components"]["schemas"]
    assert "examples" not in schemas["picture.InferRequest"]
    for kind in ("InferRequest", "PredictRequest"):
        schema = schemas[f"all.{kind}"]
        Draft202012Validator(schema).validate(schema["examples"][0])


def test_a_table_may_be_a_matrix_where_its_columns_go_together() -> None:
    """The schema takes one tensor for each column or one of all, and neither under wrong names."""
    columns = (Column("age", "int64"), Column("fare", "float64"))
    y = (Column("p", "float32", (3,)),)
    made = describe_api(
        {"plain": Signature(columns, y), "mixed": Signature((*columns, Column("s", "string")), y)},
        keys=True,
        limits=LIMITS,
    )
    OpenAPIV31SpecValidator(made).validate()
    schemas = made["components"]["schemas"]
    plain = Draft202012Validator(schemas["plain.InferRequest"])
    tensor = {"name": "rows", "shape": [1, 2], "datatype": "FP64", "data": [[41, 7.25]]}
    classes = [{"name": "p", "parameters": {"classification": 2}}]
    assert plain.is_valid({"inputs": [tensor], "outputs": classes})
    for wrong in ({"name": "age"}, {"shape": [1, 3]}, {"datatype": "BYTES"}, {"data": 1}):
        assert not plain.is_valid({"inputs": [{**tensor, **wrong}]})
    mixed = Draft202012Validator(schemas["mixed.InferRequest"])
    assert not mixed.is_valid({"inputs": [{**tensor, "shape": [1, 3]}]})
    assert schemas["mixed.InferRequest"]["properties"]["inputs"]["minItems"] == 3


def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client) -> None:
    """405 says in ``Allow`` what the resource knows, as HTTP wants it."""
    for path, method, allowed in (
        ("/v2/models", "DELETE", "GET, HEAD"),
        ("/v2/models/add/infer", "GET", "POST"),
        ("/v2", "OPTIONS", "GET, HEAD"),
    ):
        refused = client.request(method, path)
        assert refused.status_code == 405
        assert refused.headers["allow"] == allowed
