"""Who may use the admin API: once there is a key, whoever has one with an operation's scope."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request

from tidemill.foundation.errors import InvalidInput, NotPermitted, TidemillError
from tidemill.foundation.home import Home
from tidemill.serving.key_store import StoreKeys
from tidemill.serving.keys import Denial, KeyRecord, KeyTable, Principal, Scope

_OF_ONE_APPLICATION = ("/v1/applications/", "/v1/predictions/")


class KeyCheck:
    """Judges requests by the keys in the store, as they are at that moment.

    While the store cannot be read, what it said last holds.

    Args:
        home: the installation.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: tuple[int, tuple[KeyRecord, ...]] | None = None

    def admit(self, request: Request, scope: Scope) -> Principal | None:
        """Returns whose key the request came with; None where none is needed.

        A key for some applications may act on these, and on nothing that concerns all.

        Raises:
            Unauthenticated: it has no key that counts.
            NotPermitted: its key may not do this.
            TidemillError: the store cannot be read, and never could.
        """
        revision, keys = self._read()
        if not (self._home.settings.serve.require_keys or revision > 0):
            return None
        now = self._home.clock.now()
        found = KeyTable(keys, now).principal(_authorization(request), now)
        if isinstance(found, Denial):
            raise found.error()
        of_one = any(each in request.url.path for each in _OF_ONE_APPLICATION)
        name = request.path_params.get("name") if of_one else None
        denial = found.denial(scope, name, whole=True)
        if denial is not None:
            raise denial.error()
        return found

    def _read(self) -> tuple[int, tuple[KeyRecord, ...]]:
        source = StoreKeys(self._home)
        try:
            revision = source.revision()
            if self._known is None or self._known[0] != revision:
                self._known = revision, source.keys()
        except TidemillError:
            if self._known is None:
                raise
        return self._known


def check_grant(principal: Principal | None, scopes: Iterable[str]) -> None:
    """Checks that nobody gives what he has not.

    Raises:
        NotPermitted: a scope is not the principal's own.
    """
    lacking = [] if principal is None else [each for each in scopes if each not in principal.scopes]
    if principal is not None and lacking:
        raise NotPermitted(
            f"key {principal.name!r} has not the scope {lacking[0][:40]!r}, and cannot give it",
            remedy="Make that key on the command line.",
        )


def _authorization(request: Request) -> bytes:
    said = request.headers.getlist("authorization")
    said += [f"Bearer {key}" for key in request.headers.getlist("x-api-key")]
    if len(said) > 1:
        raise InvalidInput("more than one key was sent", remedy="Send one.")
    return said[0].encode("latin-1") if said else b""
