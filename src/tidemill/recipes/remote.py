"""From a model in another server to a version in the registry: it is asked what it is, once."""

from __future__ import annotations

import http.client
from typing import Any

import msgspec

from tidemill import __version__
from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidModel, Unavailable
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.models.format import ModelManifest, write_model
from tidemill.models.registry import Registry
from tidemill.recipes.push import PushedModel
from tidemill.serving.replicas.address import (
    BINARY,
    ENTRY,
    RUNTIME,
    Address,
    RemoteModel,
    check_host,
    read_signature,
    read_url,
    token_for,
)

_WITHIN_S = 10.0
_MAX_BYTES = 1 << 20


def push_remote(home: Home, url: str, name: str) -> PushedModel:
    """Registers a model of another v2 server, with the signature that the server tells.

    Args:
        home: the installation.
        url: ``http://HOST:PORT/v2/models/NAME``, without user, query and fragment.
        name: the model's name here.

    Raises:
        InvalidInput: the URL is not such a one.
        Refused: the host is neither this machine nor in ``serve.remote_hosts``.
        Unavailable: the server does not answer.
        InvalidModel: what it says of the model cannot be served.
    """
    check_name("model", name)
    address = read_url(url)
    settings = home.settings.serve
    check_host(address, settings.remote_hosts)
    token = token_for(address, settings.remote_tokens)
    signature = read_signature(_ask(address, address.path, token))
    extensions = _ask(address, "/v2", token).get("extensions") or ()
    model = RemoteModel(url=url.rstrip("/"), binary=BINARY in extensions)
    with home.scratch("push") as work:
        folder = work / "model"
        folder.mkdir()
        (folder / ENTRY).write_bytes(msgspec.json.format(msgspec.json.encode(model)))
        manifest = ModelManifest(
            name=name,
            runtime=RUNTIME,
            signature=signature,
            entry=ENTRY,
            trust="data",
            requirements=(f"tidemill=={__version__}",),
            created_at=iso(home.clock.now()),
        )
        write_model(folder, manifest)
        version = Registry(home).register(
            folder,
            name,
            blessed=True,
            blessing={"reasons": ["pushed by hand"], "trust_code": False},
        )
    return PushedModel(
        name=name,
        version=version.version,
        runtime=RUNTIME,
        compiled=False,
        reason=None,
        verified=None,
        inputs=tuple(column.name for column in signature.inputs),
        outputs=tuple(column.name for column in signature.outputs),
        batch_1_ms=None,
    )


def _ask(address: Address, path: str, token: str | None) -> dict[str, Any]:
    """Returns what the server says at a path; no redirect is followed."""
    kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=_WITHIN_S)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"the server at {address.authority} does not answer: {error}",
            remedy="Start it, or mend the URL.",
        ) from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK or len(body) > _MAX_BYTES:
        raise Unavailable(
            f"the server at {address.authority} answers {path} with status {answer.status}",
            remedy="See that the model is loaded there; a token goes into serve.remote_tokens.",
        )
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidModel(f"{address.authority} gives no metadata at {path}: {error}") from error
