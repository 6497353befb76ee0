"""Clients that err, and clients that go away: what a soak mixes into the load.

    python -m bench.footprint.hostile --url URL --bodies FILE --seconds 60

Each misdeed has an outcome that is right: an HTTP status, or nothing where nobody waits for an
answer. Prints one JSON object: how often each was done, and what went otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench.questions import http_requests, read_bodies

WAIT_S = 10.0
PAUSE_S = 0.01
TOO_MANY_BYTES = 1 << 40


@dataclass
class Misdeeds:
    """Where to err, with what, and what became of it."""

    host: str
    port: int
    question: bytes
    headers: bytes
    done: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)

    def asking(self, length: int) -> bytes:
        """Returns the head of a question with a body of so many bytes."""
        first = self.question.partition(b"\r\n")[0]
        return first + b"\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n" % (
            self.headers,
            length,
        )

    async def send(self, data: bytes) -> int | None:
        """Sends bytes on a connection of its own and returns the answer's status."""
        async with asyncio.timeout(WAIT_S):
            reader, writer = await asyncio.open_connection(self.host, self.port)
            try:
                writer.write(data)
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
        return int(line.split()[1]) if line else None

    async def leave(self, data: bytes, *, after_s: float) -> None:
        """Sends bytes and goes away without waiting for an answer."""
        _, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(data)
        await asyncio.sleep(after_s)
        writer.transport.abort()


async def broken_json(at: Misdeeds) -> int | None:
    """Sends a body that is no JSON."""
    return await at.send(at.asking(9) + b'{"inputs"')


async def wrong_shape(at: Misdeeds) -> int | None:
    """Sends numbers that do not fill their shape."""
    body = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP64","data":[1,2]}]}'
    return await at.send(at.asking(len(body)) + body)


async def no_key(at: Misdeeds) -> int | None:
    """Asks without the key that is needed."""
    first = at.question.partition(b"\r\n")[0]
    return await at.send(first + b"\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")


async def unknown_model(at: Misdeeds) -> int | None:
    """Asks an application that does not exist."""
    return await at.send(
        b"GET /v2/models/nobody HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % at.headers
    )


async def too_large(at: Misdeeds) -> int | None:
    """Announces more than the server takes."""
    return await at.send(at.asking(TOO_MANY_BYTES))


async def garbage(at: Misdeeds) -> int | None:
    """Sends no HTTP at all."""
    return await at.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")


async def leaves_in_the_head(at: Misdeeds) -> None:
    """Goes away in the middle of the headers."""
    await at.leave(at.question[:40], after_s=0.002)


async def leaves_in_the_body(at: Misdeeds) -> None:
    """Goes away in the middle of the body."""
    await at.leave(at.question[:-20], after_s=0.002)


async def leaves_before_the_answer(at: Misdeeds) -> None:
    """Asks properly and does not wait."""
    await at.leave(at.question, after_s=0.0)


Misdeed = Callable[[Misdeeds], Awaitable[int | None]]
EXPECTED: tuple[tuple[Misdeed, int | None], ...] = (
    (broken_json, 400),
    (wrong_shape, 400),
    (no_key, 401),
    (unknown_model, 404),
    (too_large, 413),
    (garbage, 400),
    (leaves_in_the_head, None),
    (leaves_in_the_body, None),
    (leaves_before_the_answer, None),
)


async def misbehave(at: Misdeeds, seconds: float) -> None:
    """Does everything that is expected to go wrong, over and over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for misdeed, right in EXPECTED:
            found: object = "no answer"
            with contextlib.suppress(OSError, TimeoutError):
                found = await misdeed(at)
            at.done[misdeed.__name__] += 1
            if found != right:
                at.unexpected[f"{misdeed.__name__}: {found}"] += 1
            await asyncio.sleep(PAUSE_S)


def main() -> None:
    """Reads the arguments, misbehaves and prints what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    parts = urlsplit(options.url)
    assert parts.hostname is not None
    assert parts.port is not None
    headers = os.environ.get("REQUEST_HEADERS", "")
    question = http_requests(options.url, read_bodies(options.bodies)[:1], headers)[0]
    lines = "".join(f"{line}\r\n" for line in headers.splitlines()).encode()
    at = Misdeeds(host=parts.hostname, port=parts.port, question=question, headers=lines)
    asyncio.run(misbehave(at, options.seconds))
    print(json.dumps({"done": dict(at.done), "unexpected": dict(at.unexpected)}))


if __name__ == "__main__":
    main()
