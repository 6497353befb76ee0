"""What a table is: its record, and the seam that every kind of table fills."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from tidemill.foundation.errors import Corrupted

FORMAT = 2
"""The newest layout of a table's folder that is known; one of a newer Tidemill is refused."""

PLAIN_FORMAT, REPRESENTED_FORMAT = 1, 2
"""The layout of a table whose keys are the values, and of one whose keys represent them."""

DATA_FILE = "data.mdb"
INFO_FILE = "table.json"


class OutputAgreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far an output of the model agrees with what a table answers in its place.

    Args:
        output: its name.
        share: of the rows: those where it is equal, or as near as is tolerated.
        mean_abs: the mean absolute difference; None where it is no real number, or not finite.
        max_abs: the largest one; None likewise.
    """

    output: str
    share: float
    mean_abs: float | None = None
    max_abs: float | None = None


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """What representing inputs costs: the model's own answers beside those that stand for them.

    Args:
        rows: of the source; a row that is there twice counts twice.
        inputs: distinct ones among them.
        keys: to which they were folded.
        share: of the rows whose own answer agrees with that of their representative: all labels
            and other outputs that are no real numbers are equal; where there are none, all real
            numbers are as near as is tolerated.
        tolerance: up to so much, real numbers are near.
        outputs: each by itself.
    """

    rows: int
    inputs: int
    keys: int
    share: float
    tolerance: float = 0.0
    outputs: tuple[OutputAgreement, ...] = ()


class TableInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a table holds, and what it was made from and with.

    Args:
        application: whose queries it answers.
        model: the model that answered them.
        version: of the model.
        key: the columns that make a key, in order, each with its type.
        represent: columns of the key with what represents their values, where declared.
        agreement: with the model, where a representation is declared.
        source: the snapshot (or whatever else) that the rows came from.
        built_at: when it was whole, in seconds since the epoch.
        as_of: when the build began to read the rows, from which moment its answers age; None for
            tables of an older Tidemill.
        id: of content and origin together; set when the table is built, as are the rest.
        rows: distinct keys.
        bytes: size of the data file.
        sha256: of the data file.
        format: the layout of the folder.
        kind: what it holds by key: a model's answers, or stored features: inputs that the key does
            not say.
        inputs: of features, all inputs of the model with their types, in order.
    """

    application: str
    model: str
    version: int
    key: tuple[tuple[str, str], ...]
    represent: tuple[tuple[str, str], ...] = ()
    agreement: Agreement | None = None
    source: str | None = None
    built_at: float = 0.0
    as_of: float | None = None
    id: str = ""
    rows: int = 0
    bytes: int = 0
    sha256: str = ""
    format: int = PLAIN_FORMAT
    kind: Literal["answers", "features"] = "answers"
    inputs: tuple[tuple[str, str], ...] = ()


info_decoder = msgspec.json.Decoder(TableInfo)
"""Made on the thread that imports: in two threads at once, msgspec may crash over a new type."""


class Table(Protocol):
    """Answers by key; safe to share between threads."""

    @property
    def info(self) -> TableInfo:
        """What it holds."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the answer to each key, None where there is none.

        Raises:
            NotReady: the table is closed.
            Corrupted: its bytes are not what was written.
        """

    def close(self) -> None:
        """Gives its resources back; closing twice does nothing."""


class RemoteTable(Table, Protocol):
    """A table on another host, which is also asked without waiting."""

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the answer to each key, as ``get`` does; it may be cancelled.

        Raises:
            Unavailable: the host does not answer.
        """

    async def aclose(self) -> None:
        """Gives its resources back, those of the event loop included."""


def read_info(folder: Path) -> TableInfo:
    """Returns the record in a table's folder.

    Raises:
        Corrupted: there is none, or it cannot be read, or a newer Tidemill wrote it.
    """
    path = folder / INFO_FILE
    try:
        info = info_decoder.decode(path.read_bytes())
    except OSError as error:
        raise Corrupted(
            f"table {str(folder)!r} has no {INFO_FILE}: {error.strerror}",
            remedy="Build the table again.",
        ) from error
    except msgspec.MsgspecError as error:
        raise Corrupted(
            f"{str(path)!r} cannot be read: {error}", remedy="Build the table again."
        ) from error
    if info.format > FORMAT:
        raise Corrupted(
            f"table {str(folder)!r} has format {info.format}, and {FORMAT} is known",
            remedy="Upgrade Tidemill on this machine, or build the table again.",
        )
    return info
