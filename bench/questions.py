"""Files of request bodies: distinct questions that a load generator asks in turn.

A file holds, for each body, a line with two numbers (the length of the JSON in front of binary
tensors, 0 without them, and the body's length) and, of a question that is a GET, its path; the
body, and a line break. ``wrk.lua`` reads it too.
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
    """One request's body; ``header_bytes`` of it are JSON if binary tensors follow.

    One with a ``target`` (path and query) is a GET of that.
    """

    data: bytes
    header_bytes: int = 0
    target: str = ""


def write_bodies(path: Path, bodies: Iterable[Body]) -> Path:
    """Writes the file and returns its path."""
    with path.open("wb") as file:
        for body in bodies:
            target = f" {body.target}".encode() if body.target else b""
            sizes = b"%d %d" % (body.header_bytes, len(body.data))
            file.write(b"%b%b\n%b\n" % (sizes, target, body.data))
    return path


def read_bodies(path: Path) -> list[Body]:
    """Reads the file."""
    data, at, bodies = path.read_bytes(), 0, []
    while at < len(data):
        end = data.index(b"\n", at)
        header_bytes, size, *target = data[at:end].split()
        length = int(size)
        body = data[end + 1 : end + 1 + length]
        bodies.append(Body(body, int(header_bytes), b"".join(target).decode()))
        at = end + length + 2
    return bodies


def http_requests(url: str, bodies: Sequence[Body], headers: str = "") -> list[bytes]:
    """Returns the bytes of each request; ``headers`` are whole lines, sent with each."""
    parts = urlsplit(url)
    shared = f"Host: {parts.netloc}\r\n" + "".join(f"{line}\r\n" for line in headers.splitlines())
    return [
        f"GET {body.target} HTTP/1.1\r\n{shared}\r\n".encode()
        if body.target
        else _post(parts.path, shared, body)
        for body in bodies
    ]


def _post(path: str, shared: str, body: Body) -> bytes:
    binary = f"{HEADER_LENGTH}: {body.header_bytes}\r\n" if body.header_bytes else ""
    kind = BINARY if body.header_bytes else JSON
    size = f"Content-Length: {len(body.data)}\r\n\r\n"
    head = f"POST {path} HTTP/1.1\r\n{shared}Content-Type: {kind}\r\n{binary}{size}"
    return head.encode() + body.data
