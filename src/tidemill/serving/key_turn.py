"""Keys asked for in one turn of the loop: looked up, recorded and answered together.

Most of what a lookup costs is what surrounds it. What a turn's keys have in common is done once for
all of them, in plain values; whatever is not the usual case goes its own way as a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tidemill.data.ledger import LedgerWriter, PlainRows, PredictionIds
from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import ModelFailed
from tidemill.foundation.logs import log
from tidemill.serving.application import Application
from tidemill.serving.query import Query
from tidemill.serving.row import Row, RowForm
from tidemill.serving.version import LiveVersion

Values = Sequence[Any]
"""One value for each column, in order."""

Asked = tuple[Any, Values, float]
"""Whom to answer, the key, and when it came."""


class Asker(Protocol):
    """Whoever takes the keys, and tells what was found."""

    def query_of(self, context: Any, application: Application, key: Values) -> Query:
        """Returns one key as a query, which whoever asked is told of by itself."""

    def failed(self, context: Any, error: Exception) -> None:
        """Tells whoever asked, unless that was told already, of what nobody foresaw; counts it."""

    def looked_up(
        self, contexts: Sequence[Any], answers: PlainRows, said: Sequence[Values], form: RowForm
    ) -> None:
        """Tells those who asked what was found and is recorded; each of them, whatever happens.

        Args:
            contexts: whom to answer, in the order of the answers.
            answers: as they are recorded.
            said: the same, as values of the columns.
            form: the columns.
        """


class Elsewhere(Protocol):
    """What answers queries one by one."""

    def look_up(self, application: Application, query: Query) -> None:
        """Takes a query of keys alone."""

    def lacks(self, application: Application, version: LiveVersion, query: Query) -> None:
        """Takes a query of keys alone of which the table of that version holds nothing."""

    def unrecorded(
        self,
        application: Application,
        version: LiveVersion,
        queries: Sequence[Query],
        error: Exception,
    ) -> None:
        """Takes queries that are answered, and of which none could be recorded."""


class KeyTurn:
    """The keys of one application, as long as it is live as it is now.

    Args:
        application: whom they ask.
        version: the only one that answers; it looks up rows.
        asker: takes the keys.
        elsewhere: takes what is not the usual case.
        ledger: where answers are written before they are told.
        ids: names them.
        clock: tells the time.
        begin: called with the first key of a turn; has ``end`` called at the end of that turn.
    """

    __slots__ = (
        "_application",
        "_asked",
        "_asker",
        "_begin",
        "_clock",
        "_elsewhere",
        "_ids",
        "_ledger",
        "_log",
        "_version",
        "open",
    )

    def __init__(
        self,
        application: Application,
        version: LiveVersion,
        asker: Asker,
        elsewhere: Elsewhere,
        *,
        ledger: LedgerWriter,
        ids: PredictionIds,
        clock: Clock,
        begin: Callable[[KeyTurn], None],
    ) -> None:
        self._application = application
        self._version = version
        self._asker = asker
        self._elsewhere = elsewhere
        self._ledger = ledger
        self._ids = ids
        self._clock = clock
        self._begin = begin
        self._asked: list[Asked] = []
        self.open = True
        """Says whether the application is live as it is; whoever makes another live closes it."""
        self._log = log("serving.key_turn")

    def add(self, context: Any, key: Values, arrived: float) -> None:
        """Takes a key; whoever asked is told at the end of this turn, or later.

        Args:
            context: whom to answer.
            key: read and checked.
            arrived: when, on the monotonic clock.
        """
        if not self._asked:
            self._begin(self)
        self._asked.append((context, key, arrived))

    def end(self) -> None:
        """Answers the keys of the turn; whatever goes wrong costs those that have no answer yet.

        Raises nothing: other applications' keys and queries end in the same turn.
        """
        asked, self._asked = self._asked, []
        try:
            found = self._version.look_up_rows([key for _, key, _ in asked])
            if found is None:
                self._each(asked, self._elsewhere.look_up, self._application)
                return
            form, said = found
            if not all(said):
                lacking = [each for each, row in zip(asked, said, strict=True) if row is None]
                asked = [each for each, row in zip(asked, said, strict=True) if row is not None]
                self._each(lacking, self._elsewhere.lacks, self._application, self._version)
            if form is not None:
                self._answer(asked, [row for row in said if row is not None], form)
        except Exception:  # noqa: BLE001 - whatever it was, every key ends
            self._fail_all(asked)

    def _fail_all(self, asked: list[Asked]) -> None:
        name = self._application.name
        self._log.exception("turn.failed", application=name, keys=len(asked))
        error = ModelFailed(
            f"something went wrong as keys of {name!r} were answered together",
            remedy="Ask again; the server's log says what it was.",
        )
        for context, _, _ in asked:
            self._fail(context, error)

    def _each(self, asked: list[Asked], take: Callable[..., None], *of: Any) -> None:
        """Has each key taken as a query of its own; raises nothing."""
        for context, key, _ in asked:
            try:
                take(*of, self._asker.query_of(context, self._application, key))
            except Exception as error:  # noqa: BLE001 - one request's, whatever it is
                self._fail(context, error)

    def _fail(self, context: Any, error: Exception) -> None:
        try:
            self._asker.failed(context, error)
        except Exception:  # noqa: BLE001 - the others of this turn are told all the same
            self._log.exception("key.untold", application=self._application.name)

    def _answer(self, asked: list[Asked], said: list[Values], form: RowForm) -> None:
        contexts, keys, arrived = zip(*asked, strict=True)
        answers = PlainRows(
            application=self._application.name,
            version=self._version.version,
            source="table",
            time=self._clock.now(),
            ids=self._ids.several(len(asked), arrived[0]),
            columns=(self._version.key_columns, form.names),
            asked=keys,
            said=_stored(said, form),
        )
        try:
            self._ledger.append_rows(answers)
        except Exception as error:  # noqa: BLE001 - whatever it was, every query ends
            queries = [self._asker.query_of(each, self._application, key) for each, key, _ in asked]
            for query, values in zip(queries, said, strict=True):
                query.answer_plainly(Row(form, values))
            self._elsewhere.unrecorded(self._application, self._version, queries, error)
            return
        self._application.measures.looked_up(
            self._version.version, arrived, self._application.slo_s, self._clock.monotonic()
        )
        self._asker.looked_up(contexts, answers, said, form)


def _stored(said: Sequence[Values], form: RowForm) -> Sequence[Values]:
    """Returns rows as the ledger keeps them; see ``Row.stored``."""
    if not form.nested:
        return said
    return [*zip(said)] if len(form.names) == 1 else [(*zip(row),) for row in said]
