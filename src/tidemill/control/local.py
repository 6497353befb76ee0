"""A server's door for whoever owns its installation: the admin API on a socket in its folder.

No port has to be known and no key is asked for: the socket is the owner's alone (mode 0600, in the
installation's own folder), and who can reach it could as well write the store.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from tidemill.foundation import errors
from tidemill.foundation.errors import TidemillError, Unavailable
from tidemill.foundation.home import Home
from tidemill_worker import sockets

MAX_ANSWER_BYTES = 64 << 20
_CONNECT_S = 2.0
_PREFIX = "admin-"


@contextmanager
def local_listener(run_path: Path) -> Iterator[socket.socket]:
    """Listens on a socket of this process in the folder; what dead servers left is removed."""
    for left in _sockets(run_path):
        if not _answers(left):
            left.unlink(missing_ok=True)
    path = run_path / f"{_PREFIX}{os.getpid()}.sock"
    listener = sockets.listen(path)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def ask_server(
    home: Home, verb: str, path: str, body: dict[str, Any] | None = None, *, within_s: float = 30.0
) -> Any:
    """Asks the running server of an installation.

    Args:
        home: the installation.
        verb: GET or POST.
        path: of the admin API, with its query.
        body: what is sent, as JSON.
        within_s: how long it may take to answer.

    Raises:
        Unavailable: no server of this installation runs on this machine.
        TidemillError: what the server says is wrong.
    """
    for each in _sockets(home.run_path):
        connection = _Connection(each, within_s)
        try:
            with suppress(OSError):
                connection.connect()
            if connection.sock is None:
                continue
            return _asked(connection, verb, path, body)
        finally:
            connection.close()
    raise Unavailable(
        f"no server of {str(home.path)!r} runs on this machine",
        remedy="Start it with tidemill serve, or ask the admin API of the machine where it runs.",
    )


class _Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path, within_s: float) -> None:
        super().__init__("localhost", timeout=within_s)
        self._path = path
        self._within_s = within_s

    def connect(self) -> None:
        opened = sockets.connect(self._path, timeout_s=_CONNECT_S)
        opened.settimeout(self._within_s)
        self.sock = opened


def _asked(connection: _Connection, verb: str, path: str, body: dict[str, Any] | None) -> Any:
    try:
        connection.request(
            verb,
            path,
            None if body is None else msgspec.json.encode(body),
            {} if body is None else {"content-type": "application/json"},
        )
        response = connection.getresponse()
        said = response.read(MAX_ANSWER_BYTES)
        record = json.loads(said)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(
            f"the server has not answered {path.partition('?')[0]}: {error!r}",
            remedy="See its log, then ask again.",
        ) from error
    if response.status != http.HTTPStatus.OK:
        raise _refusal(response.status, str(record.get("error")))
    return record


def _refusal(status: int, said: str) -> TidemillError:
    kinds: dict[int, type[TidemillError]] = {
        400: errors.InvalidInput,
        403: errors.Refused,
        404: errors.NotFound,
        409: errors.Conflict,
        503: errors.NotReady,
    }
    return kinds.get(status, TidemillError)(said)


def _sockets(run_path: Path) -> list[Path]:
    """Returns the sockets of servers, dead ones among them; the newest first."""
    found = []
    for path in run_path.glob(f"{_PREFIX}*.sock"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _answers(path: Path) -> bool:
    try:
        sockets.connect(path, timeout_s=_CONNECT_S).close()
    except OSError:
        return False
    return True
