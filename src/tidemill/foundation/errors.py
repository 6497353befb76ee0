"""Every error that Tidemill raises, by what the caller can do about it.

    TidemillError
    ├── InvalidInput        fix what was sent
    │   ├── InvalidSettings fix the settings file, variable or flag
    │   ├── InvalidModel    fix the model's files or signature
    │   └── TooLarge        send less
    ├── NotFound            fix the name
    ├── Conflict            somebody else changed it: look again, then retry
    ├── Refused             a gate said no, on purpose
    │   ├── DataRefused     the data gate
    │   ├── NotBlessed      the model gate
    │   ├── NotTrusted      code that nobody vouched for
    │   ├── NotOffered      the protocol knows it, this server does not do it
    │   ├── Unauthenticated no key, or one that does not count
    │   └── NotPermitted    a key that may not do this
    ├── NotReady            wait, then retry
    │   └── Stale           what would answer is older than allowed: renew it
    ├── Overloaded          back off
    │   └── QuotaExceeded   more than this key may send in its time
    ├── DeadlineExceeded    allow more time, or ask for less
    ├── WorkerLost          retry: a process died under the work
    ├── ModelFailed         look at the model: it raised an error on this batch
    ├── Corrupted           bytes are not what was written: restore them
    ├── StepFailed          a pipeline step failed, with its cause
    └── Unavailable         install or start what is missing
        └── DiskFull        make room

An anomaly in data is a value in a report, never an error.
"""

from __future__ import annotations


class TidemillError(Exception):
    """Says what happened, to which thing, and what to do about it.

    Args:
        what: one sentence, without a final stop, that names the thing and the offending value.
        remedy: what the reader can do next, as an imperative sentence.

    Example:
        >>> print(NotFound("model 'flihgts' does not exist", remedy="Known models: flights."))
        model 'flihgts' does not exist. Known models: flights.
    """

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what.rstrip('.')}. {self.remedy}".strip() if self.remedy else self.what

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.remedy)


def _rebuild(kind: type[TidemillError], what: str, remedy: str) -> TidemillError:
    return kind(what, remedy=remedy)


class InvalidInput(TidemillError):  # noqa: N818 - the families read as sentences
    """What was sent cannot be used: fix it and send it again."""


class InvalidSettings(InvalidInput):
    """A setting is unknown or has a wrong value."""


class InvalidModel(InvalidInput):
    """A model's files, loader or signature do not fit together."""


class TooLarge(InvalidInput):
    """What was sent is over a stated limit."""


class NotFound(TidemillError):  # noqa: N818
    """Nothing has that name."""


class Conflict(TidemillError):  # noqa: N818
    """The thing changed since it was read, or exists already."""


class Refused(TidemillError):  # noqa: N818
    """A gate said no, on purpose."""


class DataRefused(Refused):
    """The data gate held the whole batch."""


class NotBlessed(Refused):
    """The model gate did not bless this version."""


class NotTrusted(Refused):
    """A model brings code that nobody vouched for."""


class NotOffered(Refused):
    """The protocol knows it, and this server does not do it."""


class Unauthenticated(Refused):
    """Nobody knows who asks: there is no key, or it does not count."""


class NotPermitted(Refused):
    """Who asks is known, and may not do this."""


class NotReady(TidemillError):  # noqa: N818
    """It is not there yet: wait and retry."""


class Stale(NotReady):
    """What would answer is older than the application allows: renew it."""


class Overloaded(TidemillError):  # noqa: N818
    """A bounded queue is full: back off."""


class QuotaExceeded(Overloaded):
    """One caller sent more than its share: send less, or later."""


class DeadlineExceeded(TidemillError):  # noqa: N818
    """The time allowed has passed, or will have before an answer can come."""


class WorkerLost(TidemillError):  # noqa: N818
    """A process died under the work."""


class ModelFailed(TidemillError):  # noqa: N818
    """A model raised an error while it predicted."""


class Corrupted(TidemillError):  # noqa: N818
    """Stored bytes are not what was written."""


class StepFailed(TidemillError):  # noqa: N818
    """A pipeline step failed; the cause is chained."""


class Unavailable(TidemillError):  # noqa: N818
    """Something optional that is needed here is not installed or not running."""


class DiskFull(Unavailable):
    """There is no room for it: make some, then retry; nothing that was acknowledged is lost."""
