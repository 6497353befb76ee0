"""Withdraws the labels that one key brought: audited, and obeyed by whoever reads the ledger."""

from __future__ import annotations

import msgspec
import pyarrow.compute as pc

from tidemill.control import audit, keys
from tidemill.data.ledger import Withdrawal, read_ledger, read_withdrawals, withdraw
from tidemill.foundation.errors import Conflict, NotFound
from tidemill.foundation.home import Home

_VERB = "labels-withdraw"


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """How many labels of a key count no more, and what became of the key."""

    key: str
    labels: int
    state: keys.State


def withdraw_labels(home: Home, key: str, *, by: str, reason: str) -> Withdrawn:
    """Lets no label of a key count any more, whenever it came or comes.

    The ledger's file is written inside the transaction of the audit row: without the row there is
    an error, and the same call again mends it.

    Raises:
        NotFound: there never was such a key.
        Conflict: its labels are withdrawn already.
    """
    known = {each.name: each for each in keys.list_keys(home)}.get(key)
    if known is None:
        raise NotFound(f"key {key[:100]!r} does not exist", remedy="tidemill keys list shows them.")
    subject = f"key {key}"
    audited = {each.verb for each in audit.read_audit(home.store, subject=subject)}
    done = read_withdrawals(home.ledger_path).get(key)
    if done is not None and _VERB in audited:
        raise Conflict(f"the labels of key {key!r} were withdrawn before: {done.reason}")
    brought = read_ledger(home.ledger_path, with_inputs=False).labels
    labels: int = pc.sum(pc.equal(brought["key"], key)).as_py() or 0
    now = home.clock.now()
    with home.store.write(audit.TABLES) as conn:
        audit.write_audit(
            conn,
            at=now,
            by=by,
            verb=_VERB,
            subject=subject,
            reason=reason,
            detail={"labels": labels},
        )
        withdraw(home.ledger_path, key, Withdrawal(at=now, by=by, reason=reason))
    return Withdrawn(key=key, labels=labels, state=known.state)
