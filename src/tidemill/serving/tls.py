"""The certificate of a port: read at start, and again when its files change."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.logs import log
from tidemill.foundation.settings import ServeSettings

LOOK_EVERY_S = 1.0


class Certificate:
    """A certificate with its private key, and the context that new connections use.

    Args:
        cert: the file of the certificate and of those that vouch for it, PEM.
        key: the file of its private key, PEM, without a passphrase.

    ``load`` reads the files; ``follow`` reads them again whenever they change.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self._seen: tuple[object, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._log = log("serving.tls")
        self.pems = (b"", b"")
        """The certificate and its key as they were loaded, for who makes no use of ``context``."""

    @property
    def context(self) -> ssl.SSLContext:
        """What a server takes new connections with."""
        assert self._context is not None
        return self._context

    def load(self) -> None:
        """Reads the files.

        Raises:
            InvalidSettings: one cannot be read, is none, or they do not belong together.
        """
        seen = self._stamp()
        fresh = self._read(_new_context())  # a context that fails halfway is good for nothing
        if self._context is None:
            self._context = fresh
        else:
            self._read(self._context)
        self._seen = seen
        self.pems = self._cert.read_bytes(), self._key.read_bytes()

    async def follow(self) -> None:
        """Looks every second whether the files changed; what cannot be used changes nothing."""
        refused: tuple[object, ...] = ()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            stamp = self._stamp()
            if stamp in (self._seen, refused):
                continue
            try:
                self.load()
            except InvalidSettings as error:
                refused = stamp
                self._log.warning("tls.kept", reason=str(error))
            else:
                self._log.info("tls.reloaded", cert=str(self._cert))

    def _stamp(self) -> tuple[object, ...]:
        found: list[object] = []
        for path in (self._cert, self._key):
            try:
                status = path.stat()
            except OSError as error:
                found.append(error.errno)
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def _read(self, context: ssl.SSLContext) -> ssl.SSLContext:
        for setting, path in (("serve.tls_cert", self._cert), ("serve.tls_key", self._key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise InvalidSettings(
                    f"{setting} {str(path)!r} cannot be read: {error.strerror}",
                    remedy="Correct the path, or let this user read the file.",
                ) from error
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_passphrase)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise InvalidSettings(
                f"serve.tls_cert {str(self._cert)!r} and serve.tls_key {str(self._key)!r} cannot "
                f"be used together: {reason}",
                remedy="Give a PEM certificate, and its own private key without a passphrase.",
            ) from error
        return context


def certificate_of(settings: ServeSettings) -> Certificate | None:
    """Returns the certificate that the settings name, loaded; None if they name none.

    Raises:
        InvalidSettings: there is only half of it, or it cannot be used.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "serve.tls_cert" if cert is None else "serve.tls_key"
        raise InvalidSettings(
            f"{missing} is not set, and the other half of TLS is", remedy="Set both, or neither."
        )
    certificate = Certificate(Path(cert), Path(key))
    certificate.load()
    return certificate


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_passphrase() -> str:
    raise ValueError("the private key needs a passphrase")
