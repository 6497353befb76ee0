"""Files of request bodies: distinct questions that a load generator asks in turn.

A file holds, for each body, a line with two numbers (the length of the JSON in front of binary
tensors, 0 without them, and the body's length), the body, and a line break. ``wrk.lua`` reads it
too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

JSON, BINARY = "application/json", "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Body:
    """One request's body; ``header_bytes`` of it are JSON if binary tensors follow."""

    data: bytes
    header_bytes: int = 0


def write_bodies(path: Path, bodies: Iterable[Body]) -> Path:
    """Writes the file and returns its path."""
    with path.open("wb") as file:
        for body in bodies:
            file.write(b"%d %d\n%b\n" % (body.header_bytes, len(body.data), body.data))
    return path


def read_bodies(path: Path) -> list[Body]:
    """Reads the file."""
    data, at, bodies = path.read_bytes(), 0, []
    while at < len(data):
        end = data.index(b"\n", at)
        header_bytes, length = map(int, data[at:end].split())
        bodies.append(Body(data[end + 1 : end + 1 + length], header_bytes))
        at = end + length + 2
    return bodies


def http_requests(url: str, bodies: Sequence[Body], headers: str = "") -> list[bytes]:
    """Returns the bytes of a POST of each body; ``headers`` are whole lines, sent with each."""
    parts = urlsplit(url)
    first = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    first += "".join(f"{line}\r\n" for line in headers.splitlines())
    return [
        (
            f"{first}Content-Type: {BINARY if body.header_bytes else JSON}\r\n"
            + (f"{HEADER_LENGTH}: {body.header_bytes}\r\n" if body.header_bytes else "")
            + f"Content-Length: {len(body.data)}\r\n\r\n"
        ).encode()
        + body.data
        for body in bodies
    ]
