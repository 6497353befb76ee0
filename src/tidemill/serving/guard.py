"""The guard of a gateway: lets those in whose key counts, and counts those whom it turns away.

A connection's request heads come again byte for byte. What was found for a head is written on it,
beside the table that said so: as long as that table is in force, nothing is looked up again.
"""

from __future__ import annotations

from tidemill.foundation.clock import Clock
from tidemill.foundation.instruments import Instruments
from tidemill.serving.channel import Keys
from tidemill.serving.exchange import Head
from tidemill.serving.hosts import Hosts
from tidemill.serving.keys import Access, Denial, KeyTable, Principal
from tidemill.serving.quota import Quota

RECHECK_S = 60.0
"""How often everybody's key is looked up again, so that it is known which ones are in use."""


_FOREIGN_HOST = (
    "Ask for 127.0.0.1 or localhost, need a key (tidemill keys create), or name the host in "
    "serve.allowed_hosts."
)


class Guard:
    """Judges request heads by the keys that the supervisor told of.

    Until it is told, nobody is let in. ``table`` is None where no key is needed.

    Args:
        clock: tells when keys expire.
        instruments: count who was turned away, and say when keys were last used.
        labels_per_minute: how many labels each key may send.
    """

    def __init__(self, clock: Clock, instruments: Instruments, *, labels_per_minute: int) -> None:
        self._clock = clock
        self._refusals = instruments.counter(
            "tidemill_key_refusals", "Requests refused for their key, by why.", ("kind", "key")
        )
        self._used = instruments.gauge(
            "tidemill_key_last_used_seconds",
            "When a key was last used, seconds since the epoch.",
            ("key",),
            merge="max",
        )
        self._labels = Quota(labels_per_minute / 60.0, labels_per_minute)
        self._recheck_at = 0.0
        self.table: KeyTable | None = KeyTable()

    def replace(self, keys: Keys) -> None:
        """Judges by these keys from now on."""
        self.table = KeyTable(keys.keys, self._clock.now()) if keys.required else None
        self._labels.keep({key.name for key in keys.keys})

    def sweep(self) -> None:
        """Forgets what was found, if a key has expired since; call it at least every second."""
        table, monotonic = self.table, self._clock.monotonic()
        if table is None:
            return
        now = self._clock.now()
        if now >= table.next_expiry or monotonic >= self._recheck_at:
            self.table = table.renewed(now)
            self._recheck_at = monotonic + RECHECK_S

    def knows(self, head: Head) -> bool:
        """Says whether the sender's key counts at all: the body of anybody else is not kept."""
        table = self.table
        if table is None or head.admitted_by is table:
            return True
        return isinstance(table.principal(head.authorization, self._clock.now()), Principal)

    def admit(self, head: Head, access: Access, hosts: Hosts | None = None) -> None:
        """Writes on the head that it may, and whose it is.

        Args:
            head: what was sent.
            access: what the operation demands.
            hosts: by which names a server may be asked that needs no key; None for any. A page
                that had its name lead here knows no key, so where one is needed, names are free.

        Raises:
            Refused: no key is needed, and it asks for another host.
            Unauthenticated: it has no key that counts.
            NotPermitted: its key may not do this.
        """
        table = self.table
        if table is None:
            if hosts is not None and head.host is not None:
                hosts.check(head.host.decode("latin-1"), remedy=_FOREIGN_HOST)
        elif access.scope is not None:
            head.principal = self.identify(head.authorization)
            self.permit(head.principal, access)
        head.admitted_by = table

    def identify(self, authorization: bytes) -> Principal | None:
        """Returns whose key it is; None where no key is needed.

        Raises:
            Unauthenticated: it is no key that counts.
        """
        table = self.table
        if table is None:
            return None
        now = self._clock.now()
        found = table.principal(authorization, now)
        if isinstance(found, Denial):
            raise self._denied(found)
        self._used.of(found.name).value = now
        return found

    def permit(self, principal: Principal | None, access: Access) -> None:
        """Does nothing if that key may.

        Raises:
            NotPermitted: it may not.
        """
        if principal is None or access.scope is None:
            return
        denial = principal.denial(access.scope, access.application, whole=access.whole)
        if denial is not None:
            raise self._denied(denial)

    def take_labels(self, principal: Principal | None, n: int) -> None:
        """Counts labels against their key.

        Raises:
            QuotaExceeded: the key has sent too many; none of these count.
        """
        if principal is None or self._labels.take(principal.name, n, self._clock.monotonic()):
            return
        said = f"key {principal.name!r} sends more than {self._labels.capacity} labels a minute"
        raise self._denied(Denial(kind="quota", key=principal.name, said=said))

    def _denied(self, denial: Denial) -> Exception:
        self._refusals.of(denial.kind, denial.key or "").value += 1
        return denial.error()
