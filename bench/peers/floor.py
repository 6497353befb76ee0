"""The floor: the least that a Python process does to answer JSON with the sum of ten numbers.

No routes, checks, limits, deadlines, batches, records or metrics: asyncio.Protocol on uvloop,
httptools, msgspec. Nobody would serve with it; it tells what the machine gives.

    python -m bench.peers.floor PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import msgspec
import uvloop


class Question(msgspec.Struct):
    """Ten numbers."""

    x: list[float]


_decode = msgspec.json.Decoder(Question).decode
_encode = msgspec.json.Encoder().encode


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Reads what arrived."""
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Keeps a part of the body; called by the parser."""
        self._body = self._body + data if self._body else data

    def on_message_complete(self) -> None:
        """Answers; called by the parser."""
        answer = _encode({"y": sum(_decode(self._body).x)} if self._body else True)
        self._body = b""
        assert self._transport is not None
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(answer), answer)
        )


async def main() -> None:
    """Serves until it is killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
