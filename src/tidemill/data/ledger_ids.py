"""Prediction ids that vouch for themselves: random, and known again as this installation's.

    id (16 bytes) = tag (5) | number (1) | nonce (6) | time (4)

The tags of 64 ids are one SHAKE128 stream over the secret, the nonce and the time, five bytes for
each number. Whoever has not the secret guesses a tag once in 2^40 tries; whoever has it sees with
one hash, and without a look into the ledger, that an id was made here, and when. The tag comes
first: an id begins with what cannot be told from random.
"""

from __future__ import annotations

import hmac
import os
import secrets
from hashlib import shake_128
from pathlib import Path
from typing import Any, Final

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.durable import make_folder, sync_folder
from tidemill.foundation.errors import Corrupted, Unavailable

SECRET_BYTES = 32
RENEW_S = 10.0
"""How long the ids of one stream are given out: an id may be so much older than its prediction."""

_AT_ONCE = 64
_TAG_BYTES = 5
_PURPOSE = b"tidemill prediction ids, 1\0"
_DIGITS: Final = 10  # of a tag
_NUMBERS = [f"{number:02x}" for number in range(_AT_ONCE)]


class PredictionIds:
    """Makes ids, and knows its own again. One thread at a time makes them; any may ask.

    Args:
        secret: 32 random bytes, the installation's own.
        clock: tells when an id was made.

    Example:
        >>> ids = PredictionIds(bytes(32))
        >>> made = ids.next(0.0)
        >>> len(made), ids.made_at(made) is not None, ids.made_at("0" * 32)
        (32, True, None)
    """

    def __init__(self, secret: bytes, clock: Clock = SYSTEM_CLOCK) -> None:
        self._secret = secret
        self._clock = clock
        self._ready: list[str] = []
        self._until = 0.0

    def next(self, monotonic: float) -> str:
        """Returns a new id.

        Args:
            monotonic: the time on the monotonic clock, as far as the caller knows it.
        """
        if monotonic >= self._until or not self._ready:
            self._renew(monotonic)
        return self._ready.pop()

    def several(self, count: int, monotonic: float) -> list[str]:
        """Returns so many new ids; see ``next``."""
        if monotonic >= self._until:
            self._renew(monotonic)
        made: list[str] = []
        while len(made) < count:
            if not self._ready:
                self._renew(monotonic)
            lacking = count - len(made)
            made += self._ready[-lacking:]
            del self._ready[-lacking:]
        return made

    def made_at(self, prediction_id: str) -> float | None:
        """Returns when an id was made, in seconds since the epoch; None if it was not made here.

        Args:
            prediction_id: 32 hexadecimal digits; ``-ROW`` may follow.
        """
        try:
            said = bytes.fromhex(prediction_id[:32])
        except ValueError:
            return None
        if len(said) != 16 or said[_TAG_BYTES] >= _AT_ONCE:
            return None
        rest = said[_TAG_BYTES + 1 :]
        end = _TAG_BYTES * (said[_TAG_BYTES] + 1)
        tag = self._stream(rest).digest(end)[end - _TAG_BYTES :]
        if not hmac.compare_digest(tag, said[:_TAG_BYTES]):
            return None
        return float(int.from_bytes(rest[6:]))

    def _renew(self, monotonic: float) -> None:
        rest = secrets.token_bytes(6) + int(self._clock.now()).to_bytes(4)
        tags: str = self._stream(rest).hexdigest(_AT_ONCE * _TAG_BYTES)
        ending = rest.hex()
        ready: list[str] = []
        start = 0
        for number in _NUMBERS:
            ready.append(f"{tags[start : start + _DIGITS]}{number}{ending}")
            start += _DIGITS
        self._ready = ready
        self._until = monotonic + RENEW_S

    def _stream(self, rest: bytes) -> Any:
        return shake_128(self._secret + _PURPOSE + rest)


def open_ids(ledger: Path, clock: Clock = SYSTEM_CLOCK) -> PredictionIds:
    """Returns the ids of a ledger, whose secret is made when it is first asked for.

    The secret lies in the ledger's folder, for its owner's eyes only, so that a copy of the ledger
    knows its own ids.

    Raises:
        Corrupted: the secret's file is not what was written.
        Unavailable: it cannot be read or written.
    """
    file = ledger / "ids.key"
    try:
        if not file.exists():
            _make(file)
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)  # as it comes out of some backups
        secret = file.read_bytes()
    except OSError as error:
        raise Unavailable(
            f"the secret of the prediction ids, {str(file)!r}, cannot be used: {error.strerror}",
            remedy="Let this user read and write the ledger's folder.",
        ) from error
    if len(secret) != SECRET_BYTES:
        raise Corrupted(
            f"the secret of the prediction ids, {str(file)!r}, has {len(secret)} bytes",
            remedy="Restore it from a backup. Without one, remove it: no label for what was "
            "predicted until now will be taken.",
        )
    return PredictionIds(secret, clock)


def _make(file: Path) -> None:
    make_folder(file.parent)
    written = file.with_name(f".{file.name}-{os.getpid()}-{secrets.token_hex(4)}")
    fd = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secrets.token_bytes(SECRET_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(written, file)  # whole or not at all, and never over another one's
    except FileExistsError:
        pass  # another process was first: its secret counts
    finally:
        written.unlink()
    sync_folder(file.parent)
