"""The usual answer is written at once, and is the one that the long way gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tidemill.serving.encodings import FOLD_FROM_BYTES
from tidemill.serving.exchange import Exchange, Head, Load


class Connection:
    """Notes what was answered last."""

    def __init__(self) -> None:
        self.load = Load()
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1

    def put(self, exchange: Exchange, out: bytes) -> None:
        exchange.out = out
        self.flush()

    def failed(self, exchange: Exchange, error: BaseException) -> None:
        raise error

    def beside(self, work: Callable[[], bytes], then: Callable[[Any], None]) -> None:
        then(work())


@pytest.mark.parametrize("size", [0, 90, FOLD_FROM_BYTES])
@pytest.mark.parametrize("header_length", [None, 40])
@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("more", [b"", b"vary: origin\r\n"])
def test_what_is_said_is_the_answer(
    *, size: int, header_length: int | None, method: bytes, closes: bool, more: bytes
) -> None:
    """Byte for byte, and the request is given back once."""
    body, outs = b"x" * size, []
    for says in (True, False):
        connection, head = Connection(), Head()
        head.method, head.answer_headers, head.accepts = method, more, "gzip"
        exchange = Exchange(connection, head, b"asked", 0.0)
        connection.load.nbytes, exchange.closes = exchange.nbytes, closes
        if says:
            exchange.say(body, header_length)
            exchange.say(b"again", header_length)
        elif header_length is None:
            exchange.answer(body)
        else:
            headers = {b"inference-header-content-length": b"%d" % header_length}
            exchange.answer(body, content_type=b"application/octet-stream", headers=headers)
        assert (connection.load.nbytes, connection.flushed, exchange.body) == (0, 1, b"")
        outs.append(exchange.out)
    assert outs[0] == outs[1] is not None
