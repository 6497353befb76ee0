"""The admin API: what is live, and the verbs that change it, as JSON on a port of its own.

It listens on the loopback and takes no request that a web page of another origin could send.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidemill.control import admin_applications, deployments, keys, launches, views
from tidemill.control.admin_answers import asked_by, refuse, respond
from tidemill.control.admin_data import DataHandlers, data_operations
from tidemill.control.admin_openapi import AdminOperation, Serve, describe_admin
from tidemill.control.admin_predictions import PredictionHandlers, prediction_operations
from tidemill.control.key_check import KeyCheck, check_grant
from tidemill.control.upload_desk import UploadDesk
from tidemill.foundation.errors import InvalidInput, TidemillError, TooLarge
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments, render
from tidemill.foundation.logs import log
from tidemill.serving.hosts import Hosts
from tidemill.serving.supervisor import Supervisor

_OPEN = "/metrics"
MAX_BODY_BYTES = 64 << 10
_OWN_NAMES = Hosts()


class Promote(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``:promote``."""

    version: int
    table: str | None = None
    reason: str = "promoted through the admin API"


class CreateKey(msgspec.Struct, forbid_unknown_fields=True):
    """The body that makes a key."""

    name: str
    scopes: tuple[str, ...]
    applications: tuple[str, ...] | None = None
    expires_s: float | None = None
    reason: str = "made through the admin API"


class RevokeKey(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``:revoke``."""

    reason: str = "revoked through the admin API"


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``:rollback``."""

    reason: str = "rolled back through the admin API"


def admin_app(
    home: Home,
    supervisor: Supervisor,
    instruments: Instruments,
    *,
    owner: bool = False,
    desk: UploadDesk | None = None,
) -> Starlette:
    """Makes the application; its handlers work on the store, as the command line does.

    Args:
        home: the installation.
        supervisor: of the running server.
        instruments: what this process measures itself.
        owner: whoever asks owns the installation, and needs no key.
        desk: where uploads are taken; one of its own ingests nothing.
    """
    api = _Api(home, supervisor, instruments, desk or UploadDesk(home, instruments), keys=not owner)
    check = None if owner else KeyCheck(home)
    return Starlette(
        routes=[
            Route(each.path, _json(each, check), methods=[each.method]) for each in _operations(api)
        ],
        exception_handlers={404: _no_route, 405: _no_verb},
    )


def _get(path: str, serve: Serve, summary: str, **more: Any) -> AdminOperation:
    return AdminOperation(
        method="GET", path=f"/admin/v1/{path}", serve=serve, summary=summary, **more
    )


def _post(path: str, serve: Serve, summary: str, takes: type[Any]) -> AdminOperation:
    return AdminOperation(
        method="POST", path=f"/admin/v1/{path}", serve=serve, summary=summary, takes=takes
    )


def _operations(api: _Api) -> tuple[AdminOperation, ...]:
    """What is served where; routes and the OpenAPI document are made of it."""
    one = "applications/{name}"
    lines = ("after", "limit")
    return (
        _get("health", api.health, "Say what is wanted, live and refused"),
        _get("models", api.models, "List versions", gives=views.Models),
        _get("models/{name}", api.models, "List a model's versions", gives=views.Models),
        _get("deployments", api.deployments, "Show what is live", gives=views.Deployments),
        _get(
            "deployments/{name}",
            api.deployments,
            "Show an application's changes",
            gives=views.Deployments,
        ),
        _get("launches", api.launches, "List the files that a watch took"),
        _post("applications", api.apply, "Apply a document", admin_applications.Apply),
        _get(one, api.application, "Show an application, and what each gateway knows of it"),
        _get(f"{one}/logs", api.logs, "Give an application's newest lines", query=lines),
        _get("logs", api.logs, "Give the newest lines", query=lines),
        *(
            _post(f"{one}:{verb}", api.verb(body), body.run.__doc__.rstrip("."), body)
            for verb, body in admin_applications.VERBS.items()
        ),
        _post(f"{one}:promote", api.promote, "Make a version live", Promote),
        _post(f"{one}:rollback", api.rollback, "Make live what was before", Rollback),
        _get("keys", api.keys, "List the keys; never the key itself"),
        _post("keys:create", api.create_key, "Make a key, shown this once", CreateKey),
        _post("keys/{key}:revoke", api.revoke_key, "Revoke a key", RevokeKey),
        *data_operations(api.data),
        *prediction_operations(api.predictions),
        _get("openapi.json", api.document, "Describe all this in OpenAPI"),
        AdminOperation(
            method="GET",
            path=_OPEN,
            serve=api.metrics,
            summary="Give the metrics of all processes",
            media="text/plain",
            open=True,
        ),
    )


class _Api:
    """The handlers."""

    def __init__(
        self,
        home: Home,
        supervisor: Supervisor,
        instruments: Instruments,
        desk: UploadDesk,
        *,
        keys: bool,
    ) -> None:
        self.data = DataHandlers(home, desk)
        self.predictions = PredictionHandlers(home)
        self._keys = keys
        self._home = home
        self._supervisor = supervisor
        self._instruments = instruments

    async def health(self, _: Request) -> Any:
        return self._supervisor.status()

    async def models(self, request: Request) -> Any:
        return await _in_thread(views.models, self._home, request.path_params.get("name"))

    async def deployments(self, request: Request) -> Any:
        return await _in_thread(views.deployments, self._home, request.path_params.get("name"))

    async def launches(self, _: Request) -> Any:
        return {"launches": await _in_thread(launches.list_launches, self._home.store)}

    async def apply(self, request: Request) -> Any:
        body: admin_applications.Apply = await _body(request, admin_applications.Apply)
        return await _in_thread(body.run, self._home, asked_by(request))

    async def application(self, request: Request) -> Any:
        name = request.path_params["name"]
        shown = await _in_thread(admin_applications.show, self._home, name)
        return {**shown, **await self._supervisor.inspect(name)}

    async def logs(self, request: Request) -> Any:
        after, limit = _number(request, "after", 0), _number(request, "limit", 200)
        name = request.path_params.get("name")
        return self._supervisor.logs(name, after=after, limit=max(1, min(limit, 1000)))

    def verb(self, kind: type[Any]) -> Serve:
        """Serves a verb whose body does it."""

        async def serve(request: Request) -> Any:
            body = await _body(request, kind)
            name = request.path_params["name"]
            return await _in_thread(body.run, self._home, asked_by(request), name)

        return serve

    async def promote(self, request: Request) -> Any:
        body = await _body(request, Promote)
        return await _in_thread(
            deployments.promote,
            self._home,
            request.path_params["name"],
            body.version,
            table=body.table,
            by=asked_by(request),
            reason=body.reason,
        )

    async def rollback(self, request: Request) -> Any:
        body = await _body(request, Rollback)
        return await _in_thread(
            deployments.rollback,
            self._home,
            request.path_params["name"],
            by=asked_by(request),
            reason=body.reason,
        )

    async def keys(self, _: Request) -> Any:
        return {"keys": await _in_thread(keys.list_keys, self._home)}

    async def create_key(self, request: Request) -> Any:
        body = await _body(request, CreateKey)
        check_grant(request.state.principal, body.scopes)
        return await _in_thread(
            keys.create_key,
            self._home,
            body.name,
            scopes=body.scopes,
            applications=body.applications,
            expires_s=body.expires_s,
            by=asked_by(request),
            reason=body.reason,
        )

    async def revoke_key(self, request: Request) -> Any:
        body = await _body(request, RevokeKey)
        return await _in_thread(
            keys.revoke_key,
            self._home,
            request.path_params["key"],
            by=asked_by(request),
            reason=body.reason,
        )

    async def document(self, _: Request) -> Any:
        return await _in_thread(describe_admin, _operations(self), keys=self._keys)

    async def metrics(self, _: Request) -> Any:
        text = await self._supervisor.metrics() + render([self._instruments.snapshot()])
        return Response(text, media_type="text/plain; version=0.0.4")


def _json(
    operation: AdminOperation, check: KeyCheck | None
) -> Callable[[Request], Awaitable[Response]]:
    """Lets in who may, and turns a handler's record, or its error, into JSON."""

    async def answer(request: Request) -> Response:
        try:
            _check_host(request)
            request.state.principal = None
            if check is not None and not operation.open:
                admit = functools.partial(check.admit, request, operation.scope)
                request.state.principal = await _in_thread(admit)
            found = await operation.serve(request)
        except TidemillError as error:
            return refuse(error)
        except Exception as error:  # noqa: BLE001 - told to the caller in JSON, to the log in full
            log("control.admin").error("request.failed", path=request.url.path, exc_info=True)
            return respond({"error": f"it failed: {type(error).__name__}."}, 500)
        return found if isinstance(found, Response) else respond(found, 200)

    return answer


def _check_host(request: Request) -> None:
    """Refuses names that only lead to this machine, as a rebound DNS name does.

    Even where keys are needed: the metrics need none. What the header says is what counts: where it
    is no proper host, ``request.url`` has the socket's address in its place.
    """
    said = ", ".join(request.headers.getlist("host"))
    _OWN_NAMES.check(said, remedy="Use 127.0.0.1 or localhost.")


def _number(request: Request, name: str, otherwise: int) -> int:
    said = request.query_params.get(name)
    if said is None:
        return otherwise
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise InvalidInput(f"{name} is {said[:40]!r}", remedy="Give a number of lines.")
    return int(said)


async def _body(request: Request, kind: type[Any]) -> Any:
    """Reads a small JSON body that no foreign web page could have sent unasked.

    A browser sends ``application/json`` to another origin only after a preflight, which this API
    never grants.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InvalidInput("the body is not application/json", remedy="Say so in Content-Type.")
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise TooLarge(f"the body is over {MAX_BODY_BYTES} bytes", remedy="Send less.")
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body cannot be read: {error}", remedy="Mend it.") from error


async def _in_thread(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return await anyio.to_thread.run_sync(functools.partial(call, *args, **named))


async def _no_route(request: Request, _: Exception) -> Response:
    return respond({"error": f"nothing is served at {request.url.path[:200]!r}."}, 404)


async def _no_verb(request: Request, _: Exception) -> Response:
    return respond({"error": f"{request.method[:20]} is not served here."}, 405)
