"""Where a remote model answers: its address, whether it may be asked, and how it wants tensors."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tidemill.foundation.errors import InvalidInput, InvalidModel, InvalidSettings, Refused
from tidemill.models.format import ModelManifest, read_verified
from tidemill.models.signature import Column, Signature
from tidemill.serving.tensors import DATATYPES

RUNTIME = "remote"
"""The runtime of a model folder that stands for a model in another server."""

ENTRY = "remote.json"
BINARY = "binary_tensor_data"
"""The protocol's name for its extension of binary tensors."""

_PATH = re.compile(r"(/[A-Za-z0-9_.~%-]{1,200}){1,8}\Z")
_TYPES = {datatype: str(dtype) for datatype, dtype in DATATYPES.items() if datatype != "BYTES"}


class RemoteModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in another server: its URL without user and password, and whether that takes binary.

    Example:
        >>> RemoteModel(url="http://127.0.0.1:8000/v2/models/digits").address
        Address(host='127.0.0.1', port=8000, tls=False, path='/v2/models/digits')
    """

    url: str
    binary: bool = False

    @property
    def address(self) -> Address:
        """The URL in its parts."""
        return read_url(self.url)


class Address(msgspec.Struct, frozen=True):
    """Whom to connect to, and the path of the model there."""

    host: str
    port: int
    tls: bool
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as a ``Host`` header says them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def read_url(url: str) -> Address:
    """Returns the parts of a model's URL.

    Raises:
        InvalidInput: it is no http or https URL of a v2 model, or holds a user, query or fragment.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    path = parts.path.rstrip("/")
    plain = parts.scheme in {"http", "https"} and host.isascii() and host.isprintable() and host
    if not plain or "@" in parts.netloc or parts.query or parts.fragment or " " in host:
        raise InvalidInput(
            "the remote model's URL is not http://HOST:PORT/v2/models/NAME, or holds a password",
            remedy="Give it without user, query and fragment; tokens come from the environment.",
        )
    if not _PATH.match(path) or "/v2/models/" not in path or "/../" in f"{path}/":
        raise InvalidInput(
            f"the remote model's URL has the path {path[:100]!r}",
            remedy="Give the path of a model: /v2/models/NAME, or with /versions/N.",
        )
    tls = parts.scheme == "https"
    return Address(host, port or (443 if tls else 80), tls, path)


def check_host(address: Address, allowed: str) -> None:
    """Does nothing for this machine, and for hosts that the operator allows.

    Args:
        address: who would be asked.
        allowed: hosts with commas between them, each alone or with its port.

    Raises:
        Refused: it is neither.
    """
    names = {each.strip().lower() for each in allowed.split(",")}
    if _is_loopback(address.host) or names & {address.host, address.authority}:
        return
    raise Refused(
        f"remote models on {address.authority} are not allowed",
        remedy="Name the host in serve.remote_hosts, if you trust it with every query.",
    )


def token_for(address: Address, tokens: str) -> str | None:
    """Returns the bearer token for a host; ``tokens`` is HOST:PORT=TOKEN, with commas between.

    Raises:
        InvalidSettings: it is none that could be sent.
    """
    for each in tokens.split(","):
        host, given, token = each.strip().partition("=")
        if given and host.lower() == address.authority:
            if not (token.isascii() and token.isprintable() and " " not in token):
                raise InvalidSettings(f"the token for {address.authority} is no bearer token")
            return token
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_remote(folder: Path, manifest: ModelManifest) -> RemoteModel:
    """Returns the remote model that a folder stands for.

    Raises:
        InvalidModel: the folder does not say.
        Corrupted: the file is not what was written.
    """
    try:
        found = msgspec.json.decode(read_verified(folder, manifest, ENTRY), type=RemoteModel)
        read_url(found.url)
    except (msgspec.MsgspecError, InvalidInput) as error:
        raise InvalidModel(f"{ENTRY} of model {manifest.name!r} cannot be read: {error}") from error
    return found


def read_signature(metadata: dict[str, Any]) -> Signature:
    """Returns the columns that a v2 server says a model has; the first dimension is the rows.

    Raises:
        InvalidModel: it has none, another first dimension than -1, or types unknown here.
    """
    return Signature(
        tuple(_column(each, "input") for each in metadata.get("inputs") or ()),
        tuple(_column(each, "output") for each in metadata.get("outputs") or ()),
    )


def _column(told: Any, kind: str) -> Column:
    try:
        name, datatype, shape = told["name"], told["datatype"], told["shape"]
        sizes = [int(size) for size in shape]
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidModel(f"the remote model's metadata has an {kind} without a shape") from error
    if not sizes or sizes[0] != -1 or any(size < 1 for size in sizes[1:]):
        raise InvalidModel(
            f"{kind} {str(name)[:100]!r} of the remote model has the shape {sizes}",
            remedy="Only models whose first dimension alone is open (-1) can be batched.",
        )
    if datatype == "BYTES":
        return Column(str(name), "string", tuple(sizes[1:]))
    if datatype not in _TYPES:
        raise InvalidModel(
            f"{kind} {str(name)[:100]!r} of the remote model is of {str(datatype)[:40]!r}",
            remedy=f"Known datatypes: {', '.join(DATATYPES)}.",
        )
    return Column(str(name), _TYPES[datatype], tuple(sizes[1:]))
