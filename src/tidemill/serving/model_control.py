"""Loading and unloading, as a client of the protocol asks for it: who does it, and what is known.

The gateway has no store: it asks its supervisor, and the supervisor whoever was given to it here.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from tidemill.foundation.errors import InvalidInput, Refused

MAX_BATCH_SIZE = 65_536
"""The largest ``max_batch_size`` that a load may ask for."""


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """One version that could answer under a name; ``revision`` is None where none is deployed."""

    name: str
    version: int
    revision: int | None = None


class ModelControl(Protocol):
    """Changes what is live. Methods block; they are called in threads."""

    def index(self) -> list[KnownModel]:
        """Returns what is deployed, and the newest version of every model that is not."""

    def load(self, name: str, *, max_batch: int | None, by: str) -> int:
        """Makes a registered model live under its name; returns the revision of its application.

        What was unloaded comes back as it was. What is live already stays, but for ``max_batch``.

        Raises:
            NotFound: no model or application ever had that name.
            NotBlessed: nobody blessed a version of it.
        """

    def unload(self, name: str, *, by: str) -> int | None:
        """Makes an application answer nothing any more; returns the revision of that change.

        None says that nothing had to change.

        Raises:
            NotFound: no model or application ever had that name.
        """


class IndexRequest(msgspec.Struct):
    """The body of an index request."""

    ready: bool = False


class LoadRequest(msgspec.Struct):
    """The body of a load."""

    parameters: dict[str, Any] = {}


class _Config(msgspec.Struct, forbid_unknown_fields=True):
    max_batch_size: int


_load_decoder = msgspec.json.Decoder(LoadRequest)
_config_decoder = msgspec.json.Decoder(_Config, strict=False)


def read_load(name: str, body: bytes) -> int | None:
    """Returns the ``max_batch_size`` that the body of a load asks for, if it asks for one.

    Nothing else of a model's configuration is taken from a client, and no file of a model ever.

    Raises:
        InvalidInput: the body is not what a load takes.
        Refused: it brings files.
    """
    try:
        parameters = _load_decoder.decode(body or b"{}").parameters
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(name, f"the body is not a load request: {error}") from error
    if any(key.startswith("file:") for key in parameters):
        raise Refused(
            f"failed to load {name[:100]!r}, files of a model are not taken here",
            remedy="Register it with tidemill push, then load it.",
        )
    config = parameters.get("config")
    if config is None:
        return None
    if not isinstance(config, str):
        raise _unusable(name, "its config is not JSON in a string")
    try:
        size = _config_decoder.decode(config).max_batch_size
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(name, f"its config cannot be used: {error}") from error
    if not 0 < size <= MAX_BATCH_SIZE:
        raise _unusable(name, f"max_batch_size is {str(size)[:40]}, allowed are 1 to 65536")
    return size


def _unusable(name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"failed to load {name[:100]!r}, {why}",
        remedy='Send no config, or one of max_batch_size alone: {"max_batch_size": 16}.',
    )
