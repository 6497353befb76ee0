"""By which names a server on the loopback may be asked: its own, and those that were named.

A web page may have its own name lead to this machine (DNS rebinding). Its browser then takes the
server for the page's own, and only ``Host`` tells which name it was led here by. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from tidemill.foundation.errors import InvalidSettings, Refused
from tidemill.foundation.settings import ServeSettings

MAX_NAMES = 100
_REMEMBERED = 64  # clients ask by few names, again and again

_OWN = re.compile(r"(127(\.[0-9]{1,3}){3}|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_PORT = re.compile(r":[0-9]{1,5}\Z")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_FIELD = re.compile(rb"([A-Za-z0-9._~!$&'()*+,;=%-]*|\[[A-Za-z0-9:.]+\])(:[0-9]*)?")


class Hosts:
    """Knows what ``Host`` may say: a name of the loopback, with any port, or one of these.

    Args:
        names: in lower case, without a port.

    Example:
        >>> hosts = Hosts(["models.example"])
        >>> [hosts.knows(each) for each in ("LOCALHOST:80", "models.example", "evil.example")]
        [True, True, False]
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(names)

    def knows(self, said: str) -> bool:
        """Says whether a server may be asked by that name."""
        return _is_own(said) or _PORT.sub("", said).lower() in self._names

    def check(self, said: str, *, remedy: str) -> None:
        """Does nothing if a server may be asked by that name.

        Raises:
            Refused: it may not.
        """
        if not self.knows(said):
            raise Refused(f"host {said[:100]!r} is not this machine's loopback", remedy=remedy)


@lru_cache(_REMEMBERED)
def _is_own(said: str) -> bool:
    return _OWN.fullmatch(said) is not None


@lru_cache(_REMEMBERED)
def is_host(value: bytes) -> bool:
    """Says whether a header's value is a host and port at all; empty is, and says nothing."""
    return _FIELD.fullmatch(value) is not None


def hosts_of(settings: ServeSettings, address: str | None = None) -> Hosts | None:
    """Returns by which names a server may be asked where no key is needed; None for any.

    Args:
        settings: name the address and further hosts.
        address: what the server listens on, as an IP address, where it does already.

    Raises:
        InvalidSettings: a host is none.
    """
    names = [each.strip() for each in settings.allowed_hosts.split(",") if each.strip()]
    if names == ["*"]:
        return None
    if len(names) > MAX_NAMES:
        raise _unusable(f"{len(names)} hosts", f"at most {MAX_NAMES}")
    for each in names:
        if each == "*":
            raise _unusable("'*' beside others", "'*' alone, or hosts alone")
        if not _NAME.fullmatch(each):
            raise _unusable(
                repr(each[:200]), "names or addresses in lower case, without a scheme or port"
            )
    if address is not None and not ipaddress.ip_address(address).is_loopback:
        return None
    return Hosts([*names, settings.host.lower()])


def _unusable(found: str, wanted: str) -> InvalidSettings:
    return InvalidSettings(f"serve.allowed_hosts has {found}", remedy=f"Give {wanted}.")
