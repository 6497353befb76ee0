"""What is known of an upload: where it stands, how far it is, what became of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from tidemill.data.records import IngestResult
from tidemill.foundation import errors
from tidemill.foundation.errors import TidemillError

State = Literal["open", "received", "done", "refused", "failed"]
"""open: bytes are to come. received: all are durable, the ingest is to come. done: each row is
accepted or held. refused: the batch is held whole. failed: nothing was recorded, and why."""

FINISHED: frozenset[State] = frozenset({"done", "refused", "failed"})


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it is kept: its type's name, what happened, and what to do."""

    kind: str
    what: str
    remedy: str = ""

    @classmethod
    def of(cls, error: TidemillError) -> Problem:
        """Returns an error as it can be kept."""
        return cls(kind=type(error).__name__, what=error.what, remedy=error.remedy)

    def error(self) -> TidemillError:
        """Returns it as the error that it was."""
        kind = getattr(errors, self.kind, TidemillError)
        return kind(self.what, remedy=self.remedy)


class UploadTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What is said with an upload's first piece.

    Attributes:
        file: what the file is called; its ending says its form where its first bytes do not.
        key: as ``DatasetOptions`` has it, and the four below; None says nothing.
        time: likewise.
        lateness_s: likewise.
        delimiter: likewise.
        encoding: likewise.
        length: how many bytes it will be; None if that is not known yet.
        sha256: of all of them, as hexadecimal digits; None if it is not to be checked.
        named: whether its sender chose its name, and so can go on with it.
        by: who sends it.
    """

    file: str
    key: tuple[str, ...] | None = None
    time: str | None = None
    lateness_s: float | None = None
    delimiter: str | None = None
    encoding: str | None = None
    length: int | None = None
    sha256: str | None = None
    named: bool = True
    by: str


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """One upload as it is kept, and as its sender is told of it.

    Attributes:
        dataset: where its rows go.
        upload: its name, which its sender chose.
        terms: what was said with its first piece.
        state: where it stands.
        offset: how many bytes are durable: the next piece begins there.
        created_at: seconds since the epoch, as is the other.
        changed_at: when a byte or a state was last added.
        tries: how often its ingest could not be done for a reason that may pass.
        deaths: how often the process that ingested it ended before it was done.
        ingested_bytes: how far the ingest that is under way has read.
        result: what became of every row.
        problem: why it failed; while it is not finished, why the last attempt did.
    """

    dataset: str
    upload: str
    terms: UploadTerms
    state: State = "open"
    offset: int = 0
    created_at: float
    changed_at: float
    tries: int = 0
    deaths: int = 0
    ingested_bytes: int = 0
    result: IngestResult | None = None
    problem: Problem | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


upload_decoder = msgspec.json.Decoder(Upload)
