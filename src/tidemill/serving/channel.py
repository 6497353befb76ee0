"""What the supervisor and a gateway say to each other: typed messages on a socket pair.

The supervisor greets with ``Hello``; an assignment goes live in two steps, ``Prepare`` and
``Activate``, so that every gateway has it ready before any serves it. A closed channel means that
the other side is gone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Literal

import msgspec

from tidemill.foundation.settings import LedgerSettings, LogSettings, ServeSettings
from tidemill.serving.keys import KeyRecord
from tidemill.serving.plan import Assignment
from tidemill.serving.statistics import Tally

_LENGTH = struct.Struct("<I")
_MAX_MESSAGE_BYTES = 64 << 20


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway, first of all: who it is and how to serve."""

    gateway: str
    serve: ServeSettings
    ledger: LedgerSettings
    logs: LogSettings
    ledger_path: str


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway: load this beside what is live; answer ``Prepared`` or ``Failed``."""

    assignment: Assignment


class Activate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway: serve what was prepared; answers ``Activated``, later ``Drained``."""

    revision: int


class Keys(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway: whose keys count from now on, and whether one is needed at all.

    Until a gateway is told, nobody may.
    """

    required: bool
    keys: tuple[KeyRecord, ...] = ()


class Collect(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway: send your instruments' ``Snapshot``."""

    request: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A typed error on its way: its class by name, what happened, and the remedy."""

    kind: str
    what: str
    remedy: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway: the answer to ``Asked``, or why there is none."""

    request: int
    body: bytes = b""
    fault: Fault | None = None


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway: accept nothing more, finish what is in flight, then exit."""

    timeout_s: float


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: the assignment can go live."""

    revision: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: the assignment cannot be loaded, and why."""

    revision: int
    reason: str


class Activated(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: queries are answered by this revision, connections are accepted."""

    revision: int


class Drained(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: nothing of what was live before this revision is used any more."""

    revision: int


class Inspect(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Supervisor to gateway: say what you know of an application now; answers ``Inspected``."""

    request: int
    application: str


class Inspected(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: the state of each version of the application that was asked for."""

    request: int
    versions: list[dict[str, Any]]


class Said(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: a line of its log that is a warning or worse."""

    line: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: what its instruments show, and its inference statistics."""

    request: int
    instruments: dict[str, dict[str, Any]]
    tallies: list[Tally]


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway to supervisor: a client wants what concerns all gateways; answer ``Told``.

    ``model`` and ``max_batch`` are what ``load`` and ``unload`` are about; ``by`` says who asks.
    """

    request: int
    about: Literal["metrics", "statistics", "index", "load", "unload"]
    model: str = ""
    max_batch: int | None = None
    by: str = ""


Message = (
    Hello
    | Prepare
    | Activate
    | Keys
    | Collect
    | Told
    | Drain
    | Prepared
    | Failed
    | Activated
    | Drained
    | Snapshot
    | Asked
    | Inspect
    | Inspected
    | Said
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end of a control channel; open from ``start`` to ``aclose``.

    Args:
        end: a connected stream socket; closed with the channel.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        """Joins the running event loop."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._end)

    def send(self, message: Message) -> None:
        """Sends a message; to a side that is gone it is lost, as ``receive`` then tells."""
        assert self._writer is not None
        data = _encoder.encode(message)
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """Returns the next message, None when the other side is gone or talks nonsense."""
        assert self._reader is not None
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > _MAX_MESSAGE_BYTES:
                return None
            return _decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
            return None

    async def aclose(self) -> None:
        """Closes the channel; the other side sees it."""
        if self._writer is None:
            self._end.close()
            return
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return
