"""The least that a Python process does to answer a key over HTTP from LMDB.

No routes, checks, limits, deadlines, records or metrics: asyncio.Protocol on uvloop, httptools,
lmdb, orjson. It tells what the machine gives.

    python -m bench.peers.lookup_bare PORT FOLDER
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any, cast

import httptools
import lmdb
import orjson
import uvloop

_unpack = struct.Struct("<10d").unpack
_PREFIX = len(b"/lookup/")


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, transaction: Any) -> None:
        self._get = transaction.get
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Reads what arrived."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Keeps the path; called by the parser."""
        self._url = url

    def on_message_complete(self) -> None:
        """Answers; called by the parser."""
        answer = orjson.dumps({"y": _unpack(self._get(b"user:%b" % self._url[_PREFIX:]))})
        assert self._transport is not None
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(answer), answer)
        )


async def main() -> None:
    """Serves until it is killed."""
    environment = lmdb.open(sys.argv[2], readonly=True, lock=False, readahead=False)
    transaction = environment.begin(buffers=True)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(transaction), "127.0.0.1", int(sys.argv[1]), backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
