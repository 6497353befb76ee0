"""Who may ask: API keys as their digests, looked up and compared without knowing any key.

Pure: the caller brings the header's bytes and the time. A table never changes; a new one takes its
place, so that whoever remembers what it found in a table need only see that it is still the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from tidemill.foundation.errors import (
    NotPermitted,
    QuotaExceeded,
    TidemillError,
    Unauthenticated,
)

Scope = Literal["query", "feedback", "data", "push", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a key can be allowed: ask, send labels, bring data, bring models, run the installation."""

DenialKind = Literal["missing", "unknown", "expired", "scope", "application", "quota"]

_PREFIX = "tidemill_"
_BEARER = b"bearer "
_MAX_KEY_BYTES = 256
_NEVER = float("inf")


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One key without the key: whose digest may do what, where and until when.

    ``applications`` limits it to some, None to none in particular. ``expires_at`` is in seconds
    since the epoch.
    """

    name: str
    digest: bytes
    scopes: tuple[Scope, ...]
    applications: tuple[str, ...] | None = None
    expires_at: float | None = None


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation demands of a key: ``scope`` None asks for no key at all.

    ``whole`` operations concern the installation, which a key for some applications may not touch.
    """

    scope: Scope | None
    application: str | None = None
    whole: bool = False


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """Why a caller may not; ``key`` is the name of the key, where there is one."""

    kind: DenialKind
    key: str | None = None
    said: str

    def error(self) -> TidemillError:
        """Returns it as an error: who are you, you may not, or not so much."""
        if self.kind == "quota":
            return QuotaExceeded(self.said, remedy="Send the rest a minute later.")
        if self.kind in {"missing", "unknown", "expired"}:
            return Unauthenticated(self.said, remedy="Send 'Authorization: Bearer KEY'.")
        return NotPermitted(self.said, remedy="Use a key that may; tidemill keys list shows them.")


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: a key that counts, by its name."""

    name: str
    scopes: frozenset[Scope]
    applications: frozenset[str] | None = None

    def denial(
        self, scope: Scope, application: str | None = None, *, whole: bool = False
    ) -> Denial | None:
        """Returns why this key may not do it, None if it may.

        Args:
            scope: what it takes.
            application: to which application it is done, if to one.
            whole: whether it concerns the whole installation, which a limited key may not touch.
        """
        if scope not in self.scopes:
            said = f"key {self.name!r} has not the scope {scope!r}"
            return Denial(kind="scope", key=self.name, said=said)
        allowed = self.applications
        if allowed is None or (application is None and not whole) or application in allowed:
            return None
        where = "the whole installation"
        if application is not None:
            where = f"application {application[:100]!r}"
        said = f"key {self.name!r} is not for {where}"
        return Denial(kind="application", key=self.name, said=said)


class KeyTable:
    """Every key that counts, by digest.

    Args:
        keys: the records; revoked keys are not among them.
        now: seconds since the epoch; ``next_expiry`` is the first one after it.

    Example:
        >>> key, digest = new_key()
        >>> table = KeyTable([KeyRecord(name="web", digest=digest, scopes=("query",))])
        >>> found = table.principal(b"Bearer " + key.encode(), now=0.0)
        >>> found.name, found.denial("query", "flights"), found.denial("feedback").kind
        ('web', None, 'scope')
        >>> table.principal(b"Bearer nonsense", now=0.0).kind
        'unknown'
    """

    __slots__ = ("_by_digest", "next_expiry")

    def __init__(self, keys: Iterable[KeyRecord] = (), now: float = -_NEVER) -> None:
        self._by_digest = {key.digest: (key, _principal(key)) for key in keys}
        ends = [key.expires_at for key, _ in self._by_digest.values() if key.expires_at is not None]
        self.next_expiry = min((end for end in ends if end > now), default=_NEVER)

    def principal(self, authorization: bytes, now: float) -> Principal | Denial:
        """Returns whose key it is, or why it counts for nothing.

        Args:
            authorization: the value of the header: ``Bearer KEY``; empty where there was none.
            now: seconds since the epoch.
        """
        if not authorization:
            return Denial(kind="missing", said="a key is needed")
        key = authorization[len(_BEARER) :].strip()
        if authorization[: len(_BEARER)].lower() != _BEARER or not 0 < len(key) <= _MAX_KEY_BYTES:
            return Denial(kind="unknown", said="what was sent is no bearer key")
        digest = digest_of(key)
        record, principal = self._by_digest.get(digest, (None, None))
        if record is None or principal is None or not hmac.compare_digest(record.digest, digest):
            return Denial(kind="unknown", said="the key is not known here, or was revoked")
        if record.expires_at is not None and now >= record.expires_at:
            said = f"key {record.name!r} has expired"
            return Denial(kind="expired", key=record.name, said=said)
        return principal

    def renewed(self, now: float) -> KeyTable:
        """Returns an equal new table: whoever remembers what this one said has to ask again."""
        return KeyTable((key for key, _ in self._by_digest.values()), now)


def new_key() -> tuple[str, bytes]:
    """Makes a key of 256 random bits; returns it and its digest, which is all that is kept."""
    drawn = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    key = _PREFIX + drawn
    return key, digest_of(key.encode())


def digest_of(key: bytes) -> bytes:
    """Returns the SHA-256 of a key: of 256 random bits no slower hash would protect more."""
    return hashlib.sha256(key).digest()


def _principal(key: KeyRecord) -> Principal:
    return Principal(
        name=key.name,
        scopes=frozenset(key.scopes),
        applications=None if key.applications is None else frozenset(key.applications),
    )
