"""The OpenAPI document of the admin API, made of the table that its routes are made of."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec
from starlette.requests import Request

from tidemill import __version__
from tidemill.serving.keys import Scope

Serve = Callable[[Request], Awaitable[Any]]

_JSON = "application/json"
_WHY = {
    400: "What was sent cannot be used.",
    401: "A key is needed, or the one that was sent does not count.",
    403: "Refused: the key may not do this, or the host is not this machine's loopback.",
    404: "Nothing has that name.",
    408: "For too long no byte came.",
    409: "Somebody else changed it, or it exists already.",
    413: "The body is too large.",
    500: "The server failed; its log says more.",
    503: "Not ready, or not to be had: retry in a moment.",
    507: "The disk is full.",
}
_BY_GET = (400, 403, 404, 500, 503)
_OF_BODIES = (408, 507)
_LINES = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of the query, or a header: its name, and what it is for."""

    name: str
    place: Literal["query", "header"] = "query"
    says: str


class AdminOperation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of the admin API.

    Args:
        method: the one that it is served by.
        path: with its variables in braces.
        serve: what serves it.
        summary: what it does, for people.
        takes: the record that its body is.
        gives: the record that its answer is, where there is just one.
        query: the numbers that its query may have.
        parameters: what else its query and its headers may have.
        body: the media types of a body that is a file.
        later: whether it may answer with 202, that it is under way.
        media: what its answer is written in.
        also: what else it is written in, where that is asked for.
        scope: what a key must be allowed.
        open: whether it needs no key.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    serve: Serve
    summary: str
    takes: type[Any] | None = None
    gives: type[Any] | None = None
    query: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: tuple[str, ...] = ()
    later: bool = False
    media: str = _JSON
    also: tuple[str, ...] = ()
    scope: Scope = "operate"
    open: bool = False


def describe_admin(operations: Sequence[AdminOperation], *, keys: bool) -> dict[str, Any]:
    """Returns the document.

    Args:
        operations: all of them.
        keys: whether a key is needed once there is one.
    """
    kinds = {kind for each in operations for kind in (each.takes, each.gives) if kind is not None}
    _, schemas = msgspec.json.schema_components(
        sorted(kinds, key=lambda kind: kind.__name__),
        ref_template="#/components/schemas/{name}",
    )
    schemas["Error"] = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    }
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _described(each, keys=keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill admin",
            "version": __version__,
            "summary": "What is live, the verbs that change it, and the way in for data.",
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
    }


def _described(operation: AdminOperation, *, keys: bool) -> dict[str, Any]:
    gives = {"type": "object"} if operation.gives is None else _ref(operation.gives.__name__)
    if operation.media != _JSON:
        gives = {"type": "string"}
    statuses = set(_BY_GET if operation.method == "GET" else _WHY)
    statuses -= set() if operation.body else set(_OF_BODIES)
    needs = keys and not operation.open
    scope = f" It takes the scope `{operation.scope}`." if needs else ""
    answer = {
        "description": "The answer.",
        "content": {
            operation.media: {"schema": gives},
            **{each: {"schema": {"type": "string"}} for each in operation.also},
        },
    }
    described: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "description": f"{operation.summary}.{scope}",
        # No key is needed before the first one is made.
        "security": [{}, {"bearer": []}, {"header": []}] if needs else [],
        "responses": {
            "200": answer,
            **({"202": {**answer, "description": "It is under way."}} if operation.later else {}),
            **{
                str(status): {"$ref": f"#/components/responses/{status}"}
                for status in sorted(statuses | ({401} if needs else set()))
            },
        },
    }
    parameters = [
        *(_parameter(name, "path", {"type": "string"}) for name in _variables(operation.path)),
        *(_parameter(name, "query", _LINES) for name in operation.query),
        *(
            {**_parameter(each.name, each.place, {"type": "string"}), "description": each.says}
            for each in operation.parameters
        ),
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.takes is not None:
        schema = _ref(operation.takes.__name__)
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": schema}}}
    if operation.body:
        file = {"schema": {"type": "string", "format": "binary"}}
        content = dict.fromkeys(operation.body, file)
        described["requestBody"] = {"required": True, "content": content}
    return described


def _id(operation: AdminOperation) -> str:
    words = re.findall(r"[a-z]{2,}", operation.path.removeprefix("/admin"))
    verb = [] if operation.method in ("GET", "POST") else [operation.method.lower()]
    return "_".join([*verb, *words])


def _variables(path: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", path)


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _refusal(status: int) -> dict[str, Any]:
    return {"description": _WHY[status], "content": {_JSON: {"schema": _ref("Error")}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
