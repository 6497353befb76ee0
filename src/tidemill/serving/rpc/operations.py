"""The operations that are not inference: those of the HTTP edge, with messages for their JSON.

The protocol gives its messages the names that its JSON has, so one function serves both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf import json_format

from tidemill.foundation.errors import InvalidInput, NotFound, NotReady, TidemillError
from tidemill.serving.front import Inside
from tidemill.serving.keys import Access, Principal
from tidemill.serving.operations import OPERATIONS
from tidemill.serving.routes import version_of
from tidemill.serving.rpc.schema import messages

_MESSAGES = messages("inference.proto")
_HEALTH = messages("health.proto")
_ACCESS = {each.serve: Access(scope=each.scope, whole=each.whole) for each in OPERATIONS}
_SERVICES = frozenset({"", "inference.GRPCInferenceService"})

NAMES = {
    "ServerLive": "live",
    "ServerReady": "ready",
    "ModelReady": "model_ready",
    "ServerMetadata": "server",
    "ModelMetadata": "model",
    "ModelInfer": "infer",
    "ModelStreamInfer": "infer",
    "ModelConfig": "config",
    "ModelStatistics": "statistics",
    "RepositoryIndex": "index",
    "RepositoryModelLoad": "load",
    "RepositoryModelUnload": "unload",
}
"""What each method is called where its operation is served over HTTP."""

_OPEN = frozenset({"ServerReady", "ModelReady"})  # "no" is an answer of theirs
_VERSIONED = frozenset({"ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"})
_CONTROLS = frozenset({"RepositoryModelLoad", "RepositoryModelUnload"})


def access_of(method: str) -> Access:
    """Returns what a method demands of a key, but for the application, which is in its message."""
    return _ACCESS[NAMES[method]]


class Call:
    """Somebody who asked by gRPC, as ``Caller`` promises: the answer is waited for.

    Args:
        body: what was asked, in the JSON of the operation.
        principal: whose key it came with, where keys are needed.
    """

    def __init__(self, body: bytes, principal: Principal | None) -> None:
        self.body = body
        self._principal = principal
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @property
    def principal(self) -> Principal | None:
        """Whose key it is."""
        return self._principal

    def answer(self, body: bytes) -> None:
        """Gives the answer; one that nobody waits for any more is dropped."""
        if not self.answered.done():
            self.answered.set_result(body)

    def fail(self, error: TidemillError) -> None:
        """Gives an error instead."""
        if not self.answered.done():
            self.answered.set_exception(error)


class Operations:
    """Answers every method but inference.

    Args:
        inside: what answers.
    """

    def __init__(self, inside: Inside) -> None:
        self._guard = inside.guard
        self._ready: Callable[..., None] = inside.plane.ready
        self._serves: dict[str, Callable[..., None]] = {
            method: getattr(inside.plane, name, None) or getattr(inside.extensions, name)
            for method, name in NAMES.items()
        }
        self._all_statistics: Callable[..., None] = inside.extensions.all_statistics

    async def serve(self, method: str, body: bytes, principal: Principal | None) -> bytes:
        """Returns the answer to a method's message.

        Raises:
            TidemillError: there is none, and why.
        """
        asked = _decoded(_MESSAGES[f"{method}Request"], body)
        name = getattr(asked, "model_name" if method in _CONTROLS else "name", None)
        serve, operation = self._serves[method], NAMES[method]
        named: dict[str, Any] = {}
        if method == "ModelStatistics" and not name:
            serve, operation, name = self._all_statistics, "all_statistics", None
        if name is not None:
            named["name"] = name
            if method in _VERSIONED:
                named["version"] = version_of(asked.version or None)
        access = msgspec.structs.replace(_ACCESS[operation], application=name)
        self._guard.permit(principal, access)
        call = Call(_json_of(method, asked), principal)
        response = _MESSAGES[f"{method}Response"]()
        try:
            serve(call, **named)
            said = msgspec.json.decode(await call.answered or b"{}")
        except (NotReady, NotFound):
            if method not in _OPEN:
                raise
            said = {"ready": False}
        _fill(method, response, said)
        encoded: bytes = response.SerializeToString()
        return encoded

    async def check(self, body: bytes) -> bytes:
        """Answers the standard health check.

        Raises:
            NotFound: it is about a service that is not here.
        """
        asked = _decoded(_HEALTH["HealthCheckRequest"], body)
        if asked.service not in _SERVICES:
            raise NotFound(
                f"service {asked.service[:100]!r} is not served here",
                remedy="Ask for the empty name; ModelReady tells of an application.",
            )
        call = Call(b"", None)
        status = "SERVING"
        try:
            self._ready(call)
            await call.answered
        except NotReady:
            status = "NOT_SERVING"
        encoded: bytes = _HEALTH["HealthCheckResponse"](status=status).SerializeToString()
        return encoded


def _decoded(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except Exception as error:  # DecodeError, of whichever implementation
        raise InvalidInput(
            f"the message is not a {kind.DESCRIPTOR.name}: {error}", remedy="See inference.proto."
        ) from error


def _json_of(method: str, asked: Any) -> bytes:
    """Returns a request as the body of the operation's JSON, where it takes one."""
    if method == "RepositoryIndex":
        return msgspec.json.encode({"ready": asked.ready})
    if method != "RepositoryModelLoad":
        return b""
    said = {}
    for name, value in asked.parameters.items():
        choice = value.WhichOneof("parameter_choice")
        said[name] = None if choice in {None, "bytes_param"} else getattr(value, choice)
    return msgspec.json.encode({"parameters": said})


def _fill(method: str, response: Any, said: Any) -> None:
    """Fills a response with the operation's JSON; what the messages have no field for is left."""
    if method == "ModelConfig":
        said = {"config": said}
    elif method == "RepositoryIndex":
        said = {"models": said}
    json_format.ParseDict(said, response, ignore_unknown_fields=True)
