"""The OpenAPI document of the query port: of the table of operations, and of what is live."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tidemill import __version__
from tidemill.foundation.errors import Unavailable
from tidemill.models.signature import Signature
from tidemill.serving import column_schemas
from tidemill.serving.answer_records import ANSWERS
from tidemill.serving.exchange import Exchange
from tidemill.serving.guard import Guard
from tidemill.serving.model_control import IndexRequest, LoadRequest
from tidemill.serving.operations import OPERATIONS, Operation
from tidemill.serving.processor import Processor
from tidemill.serving.wire import Feedback, InferRequest, PredictRequest

MAX_DESCRIBED_APPLICATIONS = 200
MAX_DESCRIBED_COLUMNS = 2000
"""What the document tells apart, at most: other applications answer at the general paths."""

_MAX_KEPT = 16
_JSON = "application/json"
_BINARY = "application/octet-stream"
_LENGTH = "Inference-Header-Content-Length"
_WHY = {
    400: "What was sent cannot be used.",
    401: "A key is needed, or the one that was sent does not count.",
    403: "Refused: the key may not do this, or the server does not.",
    404: "Nothing has that name.",
    408: "The request took too long to arrive.",
    409: "Somebody else changed it meanwhile.",
    413: "More was sent than is allowed.",
    415: "The body has another content encoding than gzip or deflate.",
    417: "Only `Expect: 100-continue` is known.",
    429: "The key has sent more labels than it may in a minute.",
    431: "The request line and headers are too large.",
    500: "The model or the server failed.",
    503: "Not ready, or overloaded: retry in a moment.",
    504: "There was no answer within the deadline.",
}
_ANYWHERE = (400, 408, 413, 415, 417, 431, 500, 503)
_TEXT = {
    "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"},
    "version": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}

Signatures = Mapping[str, Signature]


class ApiDocument:
    """Serves the document; it is made when somebody asks, once for what is live and who may see it.

    Args:
        processor: knows what is live.
        guard: knows whether keys are needed.
        limits: what a request may have, by what it limits.
    """

    def __init__(self, processor: Processor, guard: Guard, **limits: int) -> None:
        self._processor = processor
        self._guard = guard
        self._limits = limits
        self._revision = -1
        self._made: dict[tuple[bool, frozenset[str]], asyncio.Task[bytes]] = {}

    def openapi(self, exchange: Exchange) -> None:
        """Gives the document of what the client's key is for."""
        applications, principal = self._processor.applications, exchange.principal
        signatures = {
            name: application.signature
            for name, application in sorted(applications.items())
            if principal is None or principal.denial("query", name) is None
        }
        if self._revision != self._processor.revision or len(self._made) >= _MAX_KEPT:
            self._made, self._revision = {}, self._processor.revision
        key = self._guard.table is not None, frozenset(signatures)
        making = self._made.get(key)
        if making is None:
            made = asyncio.to_thread(_written, signatures, keys=key[0], limits=self._limits)
            making = self._made[key] = asyncio.create_task(made)
        making.add_done_callback(lambda done: self._give(exchange, key, done))

    def _give(
        self, exchange: Exchange, key: tuple[bool, frozenset[str]], made: asyncio.Task[bytes]
    ) -> None:
        if not made.cancelled() and (error := made.exception()) is None:
            exchange.answer(made.result())
            return
        if self._made.get(key) is made:
            del self._made[key]  # whoever asks next has it tried again
        why = "it was cut off" if made.cancelled() else str(error)
        exchange.fail(Unavailable(f"the document cannot be made: {why}"))


def _written(signatures: Signatures, *, keys: bool, limits: Mapping[str, int]) -> bytes:
    return msgspec.json.encode(describe_api(signatures, keys=keys, limits=limits))


def describe_api(
    signatures: Signatures, *, keys: bool, limits: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the document.

    Args:
        signatures: of the applications that it tells of.
        keys: whether a key is needed.
        limits: what a request may have, by what it limits.
    """
    kinds = {**ANSWERS, **_REQUESTS}
    names = list(kinds)
    shown, schemas = msgspec.json.schema_components(
        kinds.values(), ref_template="#/components/schemas/{name}"
    )
    schemas.update({names[at]: each for at, each in enumerate(shown) if "$ref" not in each})
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, keys)
    described = _told_apart(signatures)
    for name, signature in described.items():
        _add_application(name, signature, paths, schemas, keys=keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill",
            "version": __version__,
            "summary": "The query port: Open Inference Protocol v2, KServe v1, labels.",
            "description": _words(limits, len(signatures) - len(described)),
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {str(status): _refusal(status) for status in _WHY},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "x-limits": dict(limits),
    }


_KEY = {
    "name": "key",
    "in": "query",
    "description": "The key columns of the application, each by its own name, once.",
    "required": True,
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 511}},
}

_REQUESTS: dict[str, Any] = {
    "InferRequest": InferRequest,
    "PredictRequest": PredictRequest,
    "IndexRequest": IndexRequest,
    "LoadRequest": LoadRequest,
    "Labels": list[Feedback] | Feedback,
}
"""By the name that an operation's ``takes`` has: what its body is."""


def _words(limits: Mapping[str, int], others: int) -> str:
    said = (
        "The `model` of the protocols is an application. A request has at most "
        f"{limits['max_body_bytes']} bytes of body and {limits['max_header_bytes']} of request "
        "line and headers. It may come with `Content-Encoding: gzip` or `deflate`, which counts as "
        "what it unfolds to; `Accept-Encoding` asks for either. Every refusal says why in `error`."
    )
    if others:
        said += f" {others} more applications answer at the general paths, and are not shown apart."
    return said


def _told_apart(signatures: Signatures) -> dict[str, Signature]:
    """Returns those that the document has room for, in their order."""
    room, described = MAX_DESCRIBED_COLUMNS, {}
    for name, signature in list(signatures.items())[:MAX_DESCRIBED_APPLICATIONS]:
        room -= len(signature.inputs) + len(signature.outputs)
        if room < 0:
            break
        described[name] = signature
    return described


def _described(operation: Operation, keys: bool) -> dict[str, Any]:  # noqa: FBT001
    described: dict[str, Any] = {
        "operationId": _id_of(operation),
        "summary": operation.summary,
        "tags": [_tag(operation.path)],
        "security": _security(operation, keys=keys),
        "responses": {"200": _answer(operation), **_refusals(operation)},
    }
    if operation.variables:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _TEXT[name]}
            for name in operation.variables
        ]
    if operation.serve == "lookup":
        described["parameters"].append(_KEY)
    if operation.takes is not None:
        described["requestBody"] = {
            "required": operation.serve not in {"index", "load"},
            "content": {_JSON: {"schema": _ref(operation.takes)}},
        }
    if operation.serve == "infer":
        _add_binary(described)
    return described


def _add_application(
    name: str,
    signature: Signature,
    paths: dict[str, dict[str, Any]],
    schemas: dict[str, Any],
    *,
    keys: bool,
) -> None:
    """Adds an application's own paths, with the schemas of its own columns."""
    made = {
        "InferRequest": column_schemas.infer_request(signature),
        "InferAnswer": column_schemas.infer_answer(name, signature, schemas["InferAnswer"]),
        "PredictRequest": column_schemas.predict_request(signature),
        "PredictAnswer": column_schemas.predict_answer(signature, schemas["PredictAnswer"]),
    }
    schemas.update({f"{name}.{kind}": {**each, "title": kind} for kind, each in made.items()})
    for operation in OPERATIONS:
        if operation.serve not in {"infer", "predict"} or operation.variables != ["name"]:
            continue
        own = msgspec.structs.replace(
            operation,
            summary=f"{operation.summary} by {name}",
            takes=f"{name}.{operation.takes}",
            gives=f"{name}.{operation.gives}",
        )
        described = _described(own, keys)
        described["operationId"] += f".{name}"
        described["tags"] = [name]
        del described["parameters"][0]
        if not described["parameters"]:
            del described["parameters"]
        paths[operation.path.replace("{name}", name)] = {"post": described}


def _add_binary(described: dict[str, Any]) -> None:
    """Tells of tensors in binary after the JSON, in the request and in the answer."""
    bytes_follow = {_BINARY: {"schema": {"type": "string", "format": "binary"}}}
    length = {
        "description": "The bytes of JSON; those of the binary tensors follow. In a request, 0 "
        "says that the body is one row of the model's one input.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 10**11 - 1},
    }
    described["parameters"] = [
        *described.get("parameters", []),
        {"name": _LENGTH, "in": "header", "required": False, **length},
    ]
    described["requestBody"]["content"].update(bytes_follow)
    answer = described["responses"]["200"]
    answer["content"].update(bytes_follow)
    answer["headers"] = {_LENGTH: {"required": False, **length}}


def _answer(operation: Operation) -> dict[str, Any]:
    if operation.gives is None:
        return {"description": "Done."}
    return {
        "description": "The answer.",
        "content": {operation.media: {"schema": _ref(operation.gives)}},
    }


def _refusals(operation: Operation) -> dict[str, Any]:
    statuses = {*_ANYWHERE, *operation.fails}
    if operation.scope is not None:
        statuses |= {401, 403}
    if operation.method == "POST":
        statuses |= {403}
    if operation.variables:
        statuses |= {404}
    return {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)
    }


def _refusal(status: int) -> dict[str, Any]:
    return {"description": _WHY[status], "content": {_JSON: {"schema": _ref("Error")}}}


def _security(operation: Operation, *, keys: bool) -> list[dict[str, list[str]]]:
    """Either header will do, where a key is needed."""
    return [{"bearer": []}, {"header": []}] if keys and operation.scope is not None else []


def _id_of(operation: Operation) -> str:
    words = [operation.serve]
    if operation.path.startswith("/v1/"):
        words.insert(0, "v1")
    if "version" in operation.variables:
        words.append("by_version")
    return "_".join(words)


def _tag(path: str) -> str:
    return re.sub(r"^/(v[0-9]+(/[a-z]+)?)?.*", r"\1", path) or "server"


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
