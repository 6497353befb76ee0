"""What is asked of one application in one turn of the loop, and is recorded and answered together.

Most of what a request costs is what surrounds it. What a turn's requests have in common is done
once for all of them, in plain values; whatever is not the usual case goes its own way as a query.
Whatever goes wrong costs those that have no answer yet, and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tidemill.data.ledger import LedgerWriter, PlainRows, PredictionIds, StoredRows
from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import ModelFailed
from tidemill.foundation.logs import log
from tidemill.serving.application import Application
from tidemill.serving.query import Query, Source
from tidemill.serving.version import LiveVersion


class Teller(Protocol):
    """Whoever takes the requests, and tells what became of them."""

    def failed(self, context: Any, error: Exception) -> None:
        """Tells whoever asked, unless that was told already, of what nobody foresaw; counts it."""


class Unrecorded(Protocol):
    """What answers queries one by one."""

    def unrecorded(
        self,
        application: Application,
        version: LiveVersion,
        queries: Sequence[Query],
        error: Exception,
    ) -> None:
        """Takes queries that are answered, and of which none could be recorded."""


class Turn:
    """What the turns of one application have in common, as long as it is live as it is now.

    Args:
        application: whom the requests ask.
        version: the only one that answers.
        teller: tells who asked.
        elsewhere: takes what is not the usual case.
        ledger: where answers are written before they are told.
        ids: names them.
        clock: tells the time.
    """

    __slots__ = (
        "_clock",
        "_elsewhere",
        "_ids",
        "_ledger",
        "_log",
        "_teller",
        "application",
        "version",
    )

    def __init__(
        self,
        application: Application,
        version: LiveVersion,
        teller: Teller,
        elsewhere: Unrecorded,
        *,
        ledger: LedgerWriter,
        ids: PredictionIds,
        clock: Clock,
    ) -> None:
        self.application = application
        self.version = version
        self._teller = teller
        self._elsewhere = elsewhere
        self._ledger = ledger
        self._ids = ids
        self._clock = clock
        self._log = log("serving.turn")

    def record(
        self,
        source: Source,
        arrived: Sequence[float],
        columns: tuple[tuple[str, ...], tuple[str, ...]],
        rows: Callable[[], tuple[StoredRows, StoredRows]],
        queries: Callable[[], Sequence[Query]],
    ) -> PlainRows | None:
        """Writes answers to the ledger and counts them; None if they could not be written.

        Args:
            source: where they are from.
            arrived: when each request came.
            columns: the names of what was asked, and of what was answered.
            rows: returns what was asked and answered, as the ledger keeps it.
            queries: returns each as an answered query, if it has to go its own way.
        """
        application, number = self.application, self.version.version
        try:
            asked, said = rows()
            answers = PlainRows(
                application=application.name,
                version=number,
                source=source,
                time=self._clock.now(),
                ids=self._ids.several(len(arrived), arrived[0]),
                columns=columns,
                asked=asked,
                said=said,
            )
            self._ledger.append_rows(answers)
        except Exception as error:  # noqa: BLE001 - whatever it was, every query ends
            made = queries()
            for query in made:
                query.source = source
            self._elsewhere.unrecorded(application, self.version, made, error)
            return None
        now = self._clock.monotonic()
        application.measures.answered(number, source, arrived, application.slo_s, now)
        return answers

    def each(self, asked: Sequence[tuple[Any, ...]], take: Callable[[Any], None]) -> None:
        """Has each taken as a query of its own; raises nothing.

        Args:
            asked: whom to answer, and what belongs to it.
            take: takes it.
        """
        for one in asked:
            try:
                take(one)
            except Exception as error:  # noqa: BLE001 - one request's, whatever it is
                self._fail(one[0], error)

    def fail_all(self, contexts: Sequence[Any], what: str) -> None:
        """Tells all who have no answer yet of what goes wrong now, and the log."""
        name = self.application.name
        self._log.exception("turn.failed", application=name, requests=len(contexts))
        error = ModelFailed(
            f"something went wrong as {what} of {name!r} were answered together",
            remedy="Ask again; the server's log says what it was.",
        )
        for context in contexts:
            self._fail(context, error)

    def _fail(self, context: Any, error: Exception) -> None:
        try:
            self._teller.failed(context, error)
        except Exception:  # noqa: BLE001 - the others of this turn are told all the same
            self._log.exception("request.untold", application=self.application.name)
