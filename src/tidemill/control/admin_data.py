"""The admin API's way in for data: uploads, whole or in pieces, and what became of them.

    PUT     takes a piece; with the last one the ingest begins
    GET     tells how far an upload is, and what became of it; HEAD, in the headers alone
    DELETE  removes one whose rows are not in, unless it is being ingested

Bytes go to the disk as they come; a few hundred KiB of each request are in memory.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tidemill.control.admin_answers import asked_by, refuse, respond
from tidemill.control.admin_openapi import AdminOperation, Parameter
from tidemill.control.upload_desk import UploadDesk
from tidemill.control.upload_requests import (
    FORMS,
    PARAMETERS,
    PIECE_HEADERS,
    UploadRequest,
    read_request,
)
from tidemill.control.uploads import cancel, check_dataset
from tidemill.data.upload_pieces import Piece, with_terms
from tidemill.data.upload_records import Upload
from tidemill.foundation.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    TidemillError,
)
from tidemill.foundation.home import Home

WRITE_BYTES = 256 << 10


class UploadList(msgspec.Struct, frozen=True, kw_only=True):
    """The uploads of a dataset that are known, the oldest first."""

    uploads: tuple[Upload, ...]


class DataHandlers:
    """The handlers.

    Args:
        home: the installation.
        desk: that all servers of this process share.
    """

    def __init__(self, home: Home, desk: UploadDesk) -> None:
        self._home = home
        self._desk = desk

    async def put(self, request: Request) -> Response:
        """Takes a piece, and answers once it is durable."""
        asked = read_request(request, by=asked_by(request))
        try:
            upload = await self._take(request, asked)
        except TidemillError as error:
            return refuse(error, await self._where(asked))
        if not asked.last:
            return respond(upload, 200, self._headers(upload))
        self._desk.call()
        upload = await self._desk.outcome(upload, asked.wait_s)
        if upload.state == "failed" and upload.problem is not None:
            return refuse(upload.problem.error(), self._headers(upload))
        return respond(upload, 200 if upload.finished else 202, self._headers(upload))

    async def get(self, request: Request) -> Any:
        """Returns an upload, or those of a dataset."""
        dataset, name = request.path_params["name"], request.query_params.get("upload")
        if name is None:
            found = await asyncio.to_thread(lambda: tuple(self._desk.uploads.scan(dataset)))
            return UploadList(uploads=found)
        upload = await asyncio.to_thread(self._desk.uploads.find, dataset, name)
        return respond(upload, 200, {**self._headers(upload), "cache-control": "no-store"})

    async def delete(self, request: Request) -> Any:
        """Removes an upload, and returns what it was."""
        name = request.query_params.get("upload")
        if name is None:
            raise InvalidInput("no upload was named", remedy="Add ?upload=NAME.")
        dataset = request.path_params["name"]
        await asyncio.to_thread(self._desk.uploads.find, dataset, name)
        async with self._desk.turn(dataset, name, whole=True):
            gone = await asyncio.to_thread(
                functools.partial(cancel, self._home, dataset, name, by=asked_by(request))
            )
        self._desk.tell()
        return gone

    # --- one piece ---------------------------------------------------------------------------

    async def _take(self, request: Request, asked: UploadRequest) -> Upload:
        async with self._desk.turn(asked.dataset, asked.upload):
            upload = await asyncio.to_thread(self._opened, asked)
            with Piece(self._desk.uploads, upload, sha256=asked.sha256) as piece:
                try:
                    await self._receive(request, piece)
                    return await asyncio.to_thread(piece.finish, last=asked.last)
                except ClientDisconnect as error:
                    await asyncio.to_thread(self._abandon, piece, upload, asked)
                    raise InvalidInput(
                        "the body was cut", remedy="Ask how far it got, and go on from there."
                    ) from error
                except BaseException:  # a newer request, a stopping server, a full disk
                    await asyncio.to_thread(self._abandon, piece, upload, asked)
                    raise

    def _opened(self, asked: UploadRequest) -> Upload:
        """Returns the upload that a piece belongs to; the first piece makes it."""
        uploads = self._desk.uploads
        try:
            upload = uploads.find(asked.dataset, asked.upload)
        except NotFound:
            check_dataset(self._home, asked.dataset, create=asked.create)
            if asked.offset:
                raise
            return uploads.begin(asked.dataset, asked.upload, asked.terms)
        if upload.state != "open":
            raise Conflict(
                f"upload {asked.upload!r} is whole", remedy="Ask by GET what became of it."
            )
        if asked.offset != upload.offset:
            raise Conflict(
                f"the piece begins at {asked.offset}, and {upload.offset} bytes are here",
                remedy=f"Go on at {upload.offset}.",
            )
        uploads.check_size(upload.offset + (asked.size or 0))
        uploads.check_room(asked.size or 0)
        return with_terms(upload, length=asked.terms.length, sha256=asked.terms.sha256)

    async def _receive(self, request: Request, piece: Piece) -> None:
        """Writes the body as it comes.

        Raises:
            DeadlineExceeded: for too long no byte came.
        """
        loop, patience_s = asyncio.get_running_loop(), self._home.settings.serve.read_timeout_s
        held = bytearray()
        try:
            async with asyncio.timeout(patience_s) as waiting:
                async for chunk in request.stream():
                    held += chunk
                    if len(held) >= WRITE_BYTES or not chunk:
                        waiting.reschedule(None)
                        await self._write(piece, held)
                    waiting.reschedule(loop.time() + patience_s)
        except TimeoutError as error:
            await self._write(piece, held)
            raise DeadlineExceeded(
                f"for {patience_s:g} s no byte came",
                remedy="What came before is kept: ask by HEAD how far it is, and go on.",
            ) from error
        except ClientDisconnect:
            await self._write(piece, held)
            raise

    @staticmethod
    async def _write(piece: Piece, held: bytearray) -> None:
        data = bytes(held)
        held.clear()  # before it is waited for: what is given up may yet be written
        if data:
            await asyncio.to_thread(piece.write, data)

    def _abandon(self, piece: Piece, upload: Upload, asked: UploadRequest) -> None:
        """Keeps what came of a piece that was cut, if its sender can go on with it."""
        if asked.terms.named:
            piece.keep()
        else:
            self._desk.uploads.forget(upload)

    # --- answers -----------------------------------------------------------------------------

    def _headers(self, upload: Upload) -> dict[str, str]:
        return {
            "location": f"/admin/v1/data/{upload.dataset}?upload={upload.upload}",
            "upload-offset": str(upload.offset),
            "upload-complete": "?0" if upload.state == "open" else "?1",
            "upload-limit": f"max-size={self._desk.uploads.settings.max_bytes}",
        }

    async def _where(self, asked: UploadRequest) -> dict[str, str]:
        """Returns the headers that say how far an upload is, beside an error."""
        try:
            upload = await asyncio.to_thread(self._desk.uploads.find, asked.dataset, asked.upload)
        except TidemillError:
            return {}
        return self._headers(upload)


def data_operations(handlers: DataHandlers) -> tuple[AdminOperation, ...]:
    """What is served of uploads, for keys with the scope ``data``."""
    path = "/admin/v1/data/{name}"
    upload = Parameter(name="upload", says="The name of the upload.")
    named = (Parameter(name=name, says=says) for name, says in PARAMETERS.items())
    headers = (
        Parameter(name=name, place="header", says=says) for name, says in PIECE_HEADERS.items()
    )
    return (
        AdminOperation(
            method="PUT",
            path=path,
            serve=handlers.put,
            summary="Take a file into a dataset, whole or piece by piece",
            parameters=(*named, *headers),
            body=tuple(FORMS),
            gives=Upload,
            later=True,
            scope="data",
        ),
        AdminOperation(
            method="GET",
            path=path,
            serve=handlers.get,
            summary="Say how far an upload is, and what became of it; without a name, of all",
            parameters=(upload,),
            scope="data",
        ),
        AdminOperation(
            method="DELETE",
            path=path,
            serve=handlers.delete,
            summary="Remove an upload whose rows are not in, and is not being ingested",
            parameters=(upload,),
            gives=Upload,
            scope="data",
        ),
    )
