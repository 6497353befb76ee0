"""Keys asked for in one turn of the loop: looked up, recorded and answered together.

Most of what a lookup costs is what surrounds it. What a turn's keys have in common is done once for
all of them, in plain values; whatever is not the usual case goes its own way as a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tidemill.data.ledger import PlainRows
from tidemill.serving.application import Application
from tidemill.serving.query import Query
from tidemill.serving.row import Row, RowForm
from tidemill.serving.turn import Teller, Turn, Unrecorded
from tidemill.serving.version import LiveVersion

Values = Sequence[Any]
"""One value for each column, in order."""

Asked = tuple[Any, Values, float]
"""Whom to answer, the key, and when it came."""


class Asker(Teller, Protocol):
    """Whoever takes the keys, and tells what was found."""

    def query_of(self, context: Any, application: Application, key: Values) -> Query:
        """Returns one key as a query, which whoever asked is told of by itself."""

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


class Elsewhere(Unrecorded, Protocol):
    """What answers queries one by one."""

    def look_up(self, application: Application, query: Query) -> None:
        """Takes a query of keys alone."""

    def lacks(self, application: Application, version: LiveVersion, query: Query) -> None:
        """Takes a query of keys alone of which the table of that version holds nothing."""


class KeyTurn:
    """The keys of one application, as long as it is live as it is now.

    Args:
        turn: what they have in common; its version looks up rows.
        asker: takes the keys.
        elsewhere: takes what is not the usual case.
        begin: called with the first key of a turn; has ``end`` called at the end of that turn.
    """

    __slots__ = ("_asked", "_asker", "_begin", "_elsewhere", "_turn", "open")

    def __init__(
        self, turn: Turn, asker: Asker, elsewhere: Elsewhere, begin: Callable[[KeyTurn], None]
    ) -> None:
        self._turn = turn
        self._asker = asker
        self._elsewhere = elsewhere
        self._begin = begin
        self._asked: list[Asked] = []
        self.open = True
        """Says whether the application is live as it is; whoever makes another live closes it."""

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
        application, version = self._turn.application, self._turn.version
        try:
            found = version.look_up_rows([key for _, key, _ in asked])
            if found is None:
                look_up = self._elsewhere.look_up
                self._turn.each(asked, lambda one: look_up(application, self._query_of(one)))
                return
            form, said = found
            if not all(said):
                lacks = self._elsewhere.lacks
                lacking = [each for each, row in zip(asked, said, strict=True) if row is None]
                asked = [each for each, row in zip(asked, said, strict=True) if row is not None]
                self._turn.each(
                    lacking, lambda one: lacks(application, version, self._query_of(one))
                )
            if form is not None:
                self._answer(asked, [row for row in said if row is not None], form)
        except Exception:  # noqa: BLE001 - whatever it was, every key ends
            self._turn.fail_all([context for context, _, _ in asked], "keys")

    def _query_of(self, one: Asked) -> Query:
        context, key, _ = one
        return self._asker.query_of(context, self._turn.application, key)

    def _answer(self, asked: list[Asked], said: list[Values], form: RowForm) -> None:
        contexts, keys, arrived = zip(*asked, strict=True)

        def queries() -> list[Query]:
            made = [self._query_of(one) for one in asked]
            for query, values in zip(made, said, strict=True):
                query.answer_plainly(Row(form, values))
            return made

        columns = (self._turn.version.key_columns, form.names)
        answers = self._turn.record(
            "table", arrived, columns, lambda: (keys, _stored(said, form)), queries
        )
        if answers is not None:
            self._asker.looked_up(contexts, answers, said, form)


def _stored(said: Sequence[Values], form: RowForm) -> Sequence[Values]:
    """Returns rows as the ledger keeps them; see ``Row.stored``."""
    if not form.nested:
        return said
    return [*zip(said)] if len(form.names) == 1 else [(*zip(row),) for row in said]
