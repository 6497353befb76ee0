"""Keys whose labels no longer count: told by one small file, obeyed by whoever reads the ledger.

The labels themselves stay where they are, so that what was withdrawn can still be looked at.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.foundation.durable import write_atomic
from tidemill.foundation.errors import Corrupted, InvalidSettings

WITHDRAWALS_SCHEMA = 1
"""The layout of the file; a newer one is refused."""


class Withdrawal(msgspec.Struct, frozen=True, kw_only=True):
    """When one key's labels were withdrawn (seconds since the epoch), by whom and why."""

    at: float
    by: str
    reason: str


class _File(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = WITHDRAWALS_SCHEMA
    keys: dict[str, Withdrawal] = {}


_decoder = msgspec.json.Decoder(_File)


def read_withdrawals(ledger: Path) -> dict[str, Withdrawal]:
    """Returns the keys whose labels do not count.

    Raises:
        InvalidSettings: a newer Tidemill wrote the file.
        Corrupted: it cannot be read.
    """
    file = ledger / "withdrawn.json"
    try:
        found = _decoder.decode(file.read_bytes())
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise Corrupted(
            f"the ledger's withdrawals {str(file)!r} cannot be read: {error}",
            remedy="Restore the file from a backup of the ledger.",
        ) from error
    if found.schema > WITHDRAWALS_SCHEMA:
        raise InvalidSettings(
            f"the ledger's withdrawals have schema {found.schema}, "
            f"newer than {WITHDRAWALS_SCHEMA} known here",
            remedy="Upgrade Tidemill on this machine.",
        )
    return found.keys


def withdraw(ledger: Path, key: str, withdrawal: Withdrawal) -> None:
    """Lets no label of a key count any more, whenever it came or comes; one caller at a time."""
    keys = {**read_withdrawals(ledger), key: withdrawal}
    data = msgspec.json.format(msgspec.json.encode(_File(keys=keys)))
    write_atomic(ledger / "withdrawn.json", data)
