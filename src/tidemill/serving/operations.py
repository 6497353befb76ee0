"""What is served where: one table, from which the routes and the OpenAPI document are made."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from tidemill.serving.keys import Scope

Method = Literal["GET", "POST"]

_VARIABLE = re.compile(r"\{(\w+)\}")


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of the query port.

    Args:
        method: the one that it is served by; GET stands for HEAD, too.
        path: with its variables in braces.
        serve: the function that serves it.
        summary: what it does, for people.
        versioned: whether the function takes a version, which the path may leave out.
        scope: what a key needs for it; None asks for no key.
        whole: whether it concerns the whole installation.
        takes: the schema of its body, by name; None if it takes no body.
        gives: the schema of its answer, by name; None if that is empty.
        media: what its answer is written in.
        fails: what it may be refused with besides what any operation may.
    """

    method: Method
    path: str
    serve: str
    summary: str
    versioned: bool = False
    scope: Scope | None = "query"
    whole: bool = False
    takes: str | None = None
    gives: str | None = None
    media: str = "application/json"
    fails: tuple[int, ...] = ()

    @property
    def variables(self) -> list[str]:
        """The names of the path's variables."""
        return _VARIABLE.findall(self.path)

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the path of a request must match whole."""
        name = "[^/:]+" if self.path.startswith("/v1/") else "[^/]+"
        escaped = re.escape(self.path).replace(r"\{", "{").replace(r"\}", "}")
        return re.compile(_VARIABLE.sub(rf"(?P<\1>{name})", escaped) + r"/?\Z")


def _both(path: str, serve: str, summary: str, **more: Any) -> tuple[Operation, ...]:
    """Returns an operation of a model, and the same of one of its versions."""
    before, after = "/v2/models/{name}", path
    more = {"method": "GET", "versioned": True, "serve": serve, **more}
    return tuple(
        Operation(path=before + version + after, summary=summary + of, **more)
        for version, of in (("", ""), ("/versions/{version}", ", by one version"))
    )


def _get(path: str, serve: str, summary: str, **more: Any) -> Operation:
    return Operation(method="GET", path=path, serve=serve, summary=summary, **more)


def _post(path: str, serve: str, summary: str, **more: Any) -> Operation:
    return Operation(method="POST", path=path, serve=serve, summary=summary, **more)


OPERATIONS: tuple[Operation, ...] = (
    _get("/v2", "server", "Describe the server", gives="Server"),
    _get("/v2/health/live", "live", "Say whether the process answers", scope=None, gives="Live"),
    _get("/v2/health/ready", "ready", "Say whether something is live", scope=None, gives="Ready"),
    _get("/v2/models", "models", "List the applications", gives="Models"),
    _get(
        "/v2/models/stats",
        "all_statistics",
        "Give the statistics of all applications",
        whole=True,
        gives="Statistics",
    ),
    *_both("", "model", "Describe an application", gives="Model"),
    *_both("/ready", "model_ready", "Say whether an application answers", gives="ModelReady"),
    *_both("/config", "config", "Describe how an application is served", gives="ModelConfig"),
    *_both("/stats", "statistics", "Give the statistics of an application", gives="Statistics"),
    *_both(
        "/infer",
        "infer",
        "Predict",
        method="POST",
        takes="InferRequest",
        gives="InferAnswer",
        fails=(504,),
    ),
    _post(
        "/v2/repository/index",
        "index",
        "List what is registered and what is live",
        scope="operate",
        whole=True,
        takes="IndexRequest",
        gives="Index",
    ),
    _post(
        "/v2/repository/models/{name}/load",
        "load",
        "Make a registered model live",
        scope="operate",
        takes="LoadRequest",
        fails=(409,),
    ),
    _post(
        "/v2/repository/models/{name}/unload",
        "unload",
        "Make an application answer no more",
        scope="operate",
        fails=(409,),
    ),
    _get("/v1/models", "models", "List the applications", gives="Models"),
    _get(
        "/v1/models/{name}",
        "model_ready",
        "Say whether an application answers",
        versioned=True,
        gives="ModelReady",
    ),
    _post(
        "/v1/models/{name}:predict",
        "predict",
        "Predict",
        takes="PredictRequest",
        gives="PredictAnswer",
        fails=(504,),
    ),
    _get(
        "/v1/models/{name}:lookup",
        "lookup",
        "Answer by key, which the query string holds",
        gives="PredictAnswer",
        fails=(504,),
    ),
    _post(
        "/v1/models/{name}:lookup",
        "lookup_many",
        "Answer by keys",
        takes="PredictRequest",
        gives="PredictAnswer",
        fails=(504,),
    ),
    _post(
        "/v1/models/{name}:feedback",
        "feedback",
        "Take labels",
        scope="feedback",
        takes="Labels",
        gives="LabelsTaken",
        fails=(429,),
    ),
    _get(
        "/metrics",
        "metrics",
        "Give the metrics of all gateways",
        whole=True,
        gives="Metrics",
        media="text/plain",
    ),
    _get("/openapi.json", "openapi", "Describe the operations in OpenAPI", gives="OpenApi"),
)
"""Every operation that does what it says."""

REFUSED: tuple[Operation, ...] = tuple(
    operation(
        f"/v2/{kind}sharedmemory{path}", "shared_memory", "Refuse shared memory", scope="operate"
    )
    for kind in ("system", "cuda")
    for operation, path in (
        (_get, "/status"),
        (_get, "/region/{name}/status"),
        (_post, "/unregister"),
        (_post, "/region/{name}/register"),
        (_post, "/region/{name}/unregister"),
    )
)
"""Operations that clients know, and that are refused with their reason."""
