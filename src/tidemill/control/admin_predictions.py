"""The admin API's way to what was predicted beforehand: pages of it, as JSON or as Arrow's stream.

Two requests read at a time, each in a thread: the others wait for their turn.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import anyio
import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tidemill.control.admin_answers import respond
from tidemill.control.admin_openapi import AdminOperation, Parameter
from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home

if TYPE_CHECKING:
    from tidemill.recipes.prediction_pages import Page, PageRequest

READERS = 2
ARROW = "application/vnd.apache.arrow.stream"
PARAMETERS = {
    "where": "COLUMN:OP:VALUE of a key column, with eq, lt, le, gt or ge; may stand several times.",
    "columns": "Only these, with commas; may stand several times.",
    "limit": "Rows of a page, at most 65536; else 1000.",
    "cursor": "What the page before had as next.",
}


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """A page of predictions, all of one table; ``next`` is the cursor of the next, if there is one.

    ``built_at`` is ISO 8601.
    """

    application: str
    table: str
    model: str
    version: int
    built_at: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    next: str | None


class PredictionHandlers:
    """The handlers.

    Args:
        home: the installation.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._turns = anyio.CapacityLimiter(READERS)

    async def newest(self, request: Request) -> Response:
        """Returns a page of the newest table."""
        return await self._answer(request, history=False)

    async def history(self, request: Request) -> Response:
        """Returns a page of all tables, the newest first."""
        return await self._answer(request, history=True)

    async def _answer(self, request: Request, *, history: bool) -> Response:
        read = functools.partial(_read, self._home, request, history=history)
        return await anyio.to_thread.run_sync(read, limiter=self._turns)


def _read(home: Home, request: Request, *, history: bool) -> Response:
    from tidemill.recipes.prediction_pages import read_page  # noqa: PLC0415 - brings Arrow with it

    asked = _asked(request, history=history)
    page = read_page(home, asked)
    headers = {} if page.next is None else {"link": _link(request, page)}
    if ARROW in request.headers.get("accept", ""):
        return Response(_stream(page), headers=headers, media_type=ARROW)
    return respond(_shown(asked.application, page), 200, headers)


def _asked(request: Request, *, history: bool) -> PageRequest:
    from tidemill.recipes.prediction_pages import (  # noqa: PLC0415 - as above
        ROWS,
        PageRequest,
        read_cursor,
        read_filter,
    )

    query = request.query_params
    for name in query:
        if name not in PARAMETERS:
            raise InvalidInput(
                f"{name[:40]!r} is no parameter", remedy=f"Known: {', '.join(PARAMETERS)}."
            )
    limit = query.get("limit", str(ROWS))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10):
        raise InvalidInput(f"limit is {limit[:40]!r}", remedy="Give a number of rows.")
    columns = [name for each in query.getlist("columns") for name in each.split(",")]
    cursor = query.get("cursor")
    return PageRequest(
        application=request.path_params["name"],
        history=history,
        columns=tuple(columns) or None,
        filters=tuple(read_filter(each) for each in query.getlist("where")),
        limit=int(limit),
        cursor=None if cursor is None else read_cursor(cursor),
    )


def _link(request: Request, page: Page) -> str:
    """Returns where the next page is, as RFC 8288 has it."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f'<{request.url.path}?{urlencode([*kept, ("cursor", str(page.next))])}>; rel="next"'


def _stream(page: Page) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - as above

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, page.rows.schema) as writer:
        writer.write_table(page.rows)
    return bytes(sink.getvalue())


def _shown(application: str, page: Page) -> Predictions:
    from tidemill.recipes.warehouse import plain_rows  # noqa: PLC0415 - as above

    return Predictions(
        application=application,
        table=page.info.id,
        model=page.info.model,
        version=page.info.version,
        built_at=iso(page.info.built_at),
        columns=tuple(page.rows.column_names),
        rows=plain_rows(page.rows),
        next=None if page.next is None else str(page.next),
    )


def prediction_operations(handlers: PredictionHandlers) -> tuple[AdminOperation, ...]:
    """What is served of predictions."""
    path = "/admin/v1/predictions/{name}"
    parameters = tuple(Parameter(name=name, says=says) for name, says in PARAMETERS.items())
    more: dict[str, Any] = {"parameters": parameters, "gives": Predictions, "also": (ARROW,)}
    return (
        AdminOperation(
            method="GET",
            path=path,
            serve=handlers.newest,
            summary="Give what an application's newest table answers, page by page",
            **more,
        ),
        AdminOperation(
            method="GET",
            path=f"{path}/history",
            serve=handlers.history,
            summary="Give what all tables of an application answer, the newest first",
            **more,
        ),
    )
