"""A gateway that runs what is compiled answers as one that runs the sources."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.control.keys import create_key
from tidemill.serving.exchange import Head
from tidemill.serving.native import compile_gateway
from tidemill.serving.query import Query

_ID = re.compile(rb'"(?:[0-9a-f-]|[A-Za-z0-9_-]){20,}"')
_LINE_END = b"\r\n"
_V2 = b"/v2/models/add/infer"
_V1 = b"/v1/models/add:predict"
_ROW = b'{"inputs":[{"name":"x","datatype":"INT64","shape":[1],"data":[%s]}]}'

_READ_KEYS = """
import sys
from pathlib import Path
import tidemill
from tidemill.foundation.native import prefer_native
if sys.argv[1] == "compiled":
    prefer_native(Path(tidemill.__file__).parent)
from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Column, Signature
from tidemill.serving import by_key
print("sources" if by_key.__file__.endswith(".py") else "compiled")
for dtype in ("int8", "uint8", "int64", "uint64", "float32"):
    signature = Signature((Column("k", dtype),), (Column("y", "float64"),))
    reader = by_key.KeyReader(signature, ("k",))
    known = reader.known(b"?", b"!", 100)
    for text in sys.argv[2:]:
        try:
            found = reader.read_query(b"k=" + text.encode())
        except InvalidInput as error:
            found = str(error)
        print(dtype, text, found, known(f"?k={text}!".encode()), reader.read_row({"k": int(text)}))
"""


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    """A request as it is sent."""
    lines = b"".join(line + b"\r\n" for line in (b"Host: localhost", *headers))
    return b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (path, lines, len(body), body)


def binary(rows: int) -> bytes:
    """A request whose tensor is binary."""
    head = (
        b'{"inputs":[{"name":"x","datatype":"INT64","shape":[%d],'
        b'"parameters":{"binary_data_size":%d}}]}' % (rows, 8 * rows)
    )
    length = b"Inference-Header-Content-Length: %d" % len(head)
    return post(_V2, head + bytes(8 * rows), length)


ASKED = {
    "one row": [post(_V2, _ROW % b"1")],
    "rows again and again, on one connection": [
        post(_V2, _ROW % str(n).encode()) for n in range(40)
    ],
    "forty at once": [b"".join(post(_V2, _ROW % str(n).encode()) for n in range(40))],
    "one byte after the other": [bytes([byte]) for byte in post(_V2, _ROW % b"7")],
    "instances": [post(_V1, b'{"instances": [{"x": 1}, {"x": 2}]}')],
    "columns": [post(_V1, b'{"instances": [1, 2, 3]}')],
    "binary": [binary(5)],
    "binary, none": [binary(0)],
    "the least and the greatest": [post(_V2, _ROW % b"-9223372036854770000")],
    "a number too large": [post(_V2, _ROW % b"9223372036854775808")],
    "a fraction": [post(_V2, _ROW % b"1.5")],
    "a word": [post(_V2, _ROW % b'"one"')],
    "a truth": [post(_V2, _ROW % b"true")],
    "null": [post(_V2, _ROW % b"null")],
    "two for one": [post(_V2, _ROW % b"1, 2")],
    "no JSON": [post(_V2, b"{")],
    "no UTF-8": [post(_V2, b'{"inputs": "\xff"}')],
    "nothing": [post(_V2, b"")],
    "no such model": [post(b"/v2/models/none/infer", _ROW % b"1")],
    "no such version": [post(b"/v2/models/add/versions/9/infer", _ROW % b"1")],
    "no such path": [post(b"/v2/nowhere", b"")],
    "a header of nonsense": [post(_V2, _ROW % b"1", b"Inference-Header-Content-Length: x")],
    "a timeout that is none": [
        post(_V2, (_ROW % b"1")[:-1] + b',"parameters":{"timeout":"soon"}}')
    ],
    "no time": [post(_V2, (_ROW % b"1")[:-1] + b',"parameters":{"timeout":1}}')],
    "an id and a priority": [
        post(_V2, (_ROW % b"1")[:-1] + b',"id":"mine","parameters":{"priority":3}}')
    ],
    "chunks": [
        b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % _V2
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(_ROW % b"1"), _ROW % b"1")
    ],
    "no host": [b"GET /v2 HTTP/1.1\r\n\r\n"],
    "no HTTP": [b"\x16\x03\x01\x02\x00\r\n\r\n"],
    "metadata": [b"GET /v2/models/add HTTP/1.1\r\nHost: a\r\n\r\n"],
    "readiness": [b"GET /v2/models/add/ready HTTP/1.1\r\nHost: a\r\n\r\n"],
    "another method": [b"PUT /v2/models/add HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"],
    "a label of nobody": [post(b"/v1/models/add:feedback", b'[{"prediction_id":"x","label":1}]')],
}


def answers(server: Any, sent: list[bytes], key: bytes = b"") -> bytes:
    """What one connection gets for what it sends, whole; ids differ each time and are blanked."""
    if key:
        sent = [
            data.replace(_LINE_END, b"%s%s%s" % (_LINE_END, key, _LINE_END), 1) for data in sent
        ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for data in sent:
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        said = b""
        while more := client.recv(1 << 16):
            said += more
    return _ID.sub(b'"id"', said)


def runs_compiled(server: Any) -> bool:
    """Whether the one gateway has mapped what was compiled."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    gateways = [
        pid for pid in children.split() if "gateway" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    assert len(gateways) == 1
    return "tidemill_native" in Path(f"/proc/{gateways[0]}/maps").read_text()


def _knows(server: Any, key: bytes) -> bool:
    row = ASKED["one row"]
    return b" 200 " in answers(server, row, key) and b" 401 " in answers(server, row)


@pytest.mark.timeout(400)  # where nothing is compiled yet, that takes a minute beside other work
def test_what_is_compiled_answers_as_the_sources_do(launch: Callable[..., Any]) -> None:
    """To the byte, right questions and wrong ones; the setting says which of both runs."""
    compile_gateway()
    with (
        launch(TIDEMILL_SERVE_NATIVE="true") as compiled,
        launch(TIDEMILL_SERVE_NATIVE="false") as plain,
    ):
        assert (runs_compiled(compiled), runs_compiled(plain)) == (True, False)
        for name, sent in ASKED.items():
            found, expected = answers(compiled, sent), answers(plain, sent)
            assert expected.startswith(b"HTTP/1.1 "), name
            assert found == expected, name
        keys = [
            b"Authorization: Bearer "
            + create_key(each.home, "k", scopes=("query",), by="t").key.encode()
            for each in (compiled, plain)
        ]
        for each, key in zip((compiled, plain), keys, strict=True):
            each.until(partial(_knows, each, key), "keys are needed, and this one counts")
        for name, sent in ASKED.items():
            assert answers(compiled, sent) == answers(plain, sent), name
            assert answers(compiled, sent, keys[0]) == answers(plain, sent, keys[1]), name


@pytest.mark.timeout(400)
def test_what_is_compiled_takes_the_keys_that_the_sources_take() -> None:
    """Also next to what a column holds: there, a whole number is not what is near it."""
    compile_gateway()
    texts = [
        str(sign * 2**bits + more)
        for sign in (-1, 1)
        for bits in (0, 7, 8, 15, 63, 64, 70)
        for more in (-1, 0, 1)
    ]

    def read(by: str) -> tuple[str, list[str]]:
        said = subprocess.run(
            [sys.executable, "-c", _READ_KEYS, by, *texts],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        return said[0], said[1:]

    (compiled, found), (sources, expected) = read("compiled"), read("sources")
    assert (compiled, sources) == ("compiled", "sources")
    assert len(expected) == 5 * len(texts)
    assert found == expected


def test_what_is_copied_by_hand_is_copied_whole() -> None:
    """A compiled class has nothing that ``copy.copy`` would see."""
    head = Head()
    for name in Head.__slots__:
        setattr(head, name, name)
    head.target = b"/a?k=1"
    found = {name: getattr(head.without_query(), name) for name in Head.__slots__}
    assert found == {**{name: name for name in Head.__slots__}, "query": b"", "target": b"/a"}

    query = Query({}, 1, 2.0, 3.0, print, "context", "request", 4.0)
    known = (str, int, float, type(None))
    defaults = [name for name, value in vars(Query).items() if isinstance(value, known)]
    for name in {*vars(query), *defaults} - {"__module__", "__doc__"}:
        setattr(query, name, [name])
    answer: dict[str, Any] = {"y": np.array([1.0])}
    given = {"answers": None, "plain": None, "_outputs": answer}
    kept = {name: value for name, value in vars(query).items() if name != "start"}
    assert vars(query.with_outputs(answer)) == {**kept, **given}
