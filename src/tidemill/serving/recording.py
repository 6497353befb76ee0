"""Answers are written to the ledger before they are told; those that cannot be become errors."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.data.ledger import LedgerWriter
from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import InvalidInput, ModelFailed, NotReady, TidemillError
from tidemill.foundation.logs import log
from tidemill.serving.query import Query


class Recorder:
    """Writes queries that were answered.

    Args:
        ledger: where they are written.
        clock: tells when they were answered.
    """

    def __init__(self, ledger: LedgerWriter, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._log = log("serving.recording")

    def record(self, answered: Sequence[Query]) -> None:
        """Writes answers to the ledger; those that cannot be written become errors."""
        if not answered:
            return
        now = self._clock.now()
        for query in answered:
            query.time = now
        try:
            self._ledger.append_predictions(answered)
        except InvalidInput as error:  # nothing was written; only whose fault it is has to pay
            if len(answered) > 1:
                for query in answered:
                    self.record([query])
                return
            self._log.error("ledger.unrecordable", error=str(error))
            answered[0].error = ModelFailed(f"the answer could not be recorded: {_what(error)}")
        except Exception as error:  # noqa: BLE001 - whatever it was, every query ends
            self.fail(answered, error)

    def fail(self, queries: Sequence[Query], error: Exception) -> None:
        """Has queries that were answered end with the error that the ledger has raised."""
        self._log.error("ledger.append_failed", error=str(error))
        for query in queries:
            query.error = NotReady(
                f"the prediction could not be recorded: {_what(error)}",
                remedy="Free space on the ledger's disk; nothing was answered.",
            )


def _what(error: Exception) -> str:
    """Returns what happened, without the remedy, which is for somebody else."""
    return error.what if isinstance(error, TidemillError) else str(error)
