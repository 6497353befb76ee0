"""Rows asked of a model alone, one each: read, predicted, recorded and answered together.

The queue of the model's version decides: rows go together where each would have gone at once in
the same batch, and else each as a query of its own. So it is where one of them cannot be read
with the others, or the model fails on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tidemill.data.ledger import PlainRows, stored_rows
from tidemill.foundation.logs import log
from tidemill.models.signature import Batch
from tidemill.serving.application import Application
from tidemill.serving.batcher import Batcher
from tidemill.serving.flight import Together
from tidemill.serving.query import Answers, Query
from tidemill.serving.turn import Teller, Turn, Unrecorded

Asked = tuple[Any, Any, bytes, float, int]
"""Whom to answer, the form of its request, the numbers in that, when it came, and its bytes."""


class RowAsker(Teller, Protocol):
    """Whoever takes the rows, and tells what was answered."""

    def row_query(self, context: Any, application: Application) -> Query:
        """Returns a request as a query, which whoever asked is told of by itself.

        Raises:
            InvalidInput: it cannot be read.
        """

    def read_rows(self, form: Any, numbers: Sequence[bytes]) -> Batch | None:
        """Returns the rows of requests of such a form; None if they are not plainly rows."""

    def predicted(self, asked: Sequence[Asked], rows: PlainRows, answers: Answers) -> None:
        """Tells those who asked what was answered and is recorded; each, whatever happens."""


class RowsElsewhere(Unrecorded, Protocol):
    """What answers queries one by one."""

    def take(self, application: Application, query: Query) -> Query:
        """Returns the query with its name: it is about to wait for the only version."""


class ModelTurn:
    """The rows for one application's model, as long as it is live as it is now.

    Args:
        turn: what they have in common; its version has nothing but a model.
        asker: takes the rows.
        elsewhere: takes what is not the usual case.
        begin: called once rows are predicted; has ``end`` called at the end of that turn.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_asker",
        "_batcher",
        "_begin",
        "_elsewhere",
        "_log",
        "_slo_s",
        "_turn",
    )

    def __init__(
        self,
        turn: Turn,
        asker: RowAsker,
        elsewhere: RowsElsewhere,
        begin: Callable[[ModelTurn], None],
    ) -> None:
        self._turn = turn
        self._asker = asker
        self._elsewhere = elsewhere
        self._begin = begin
        self._asked: list[Asked] = []
        self._answered: list[tuple[_Rows, Answers]] = []
        self._slo_s = turn.application.slo_s
        self._batcher: Batcher = turn.version.batcher
        self._log = log("serving.model_turn")

    def add(
        self,
        context: Any,
        form: Any,
        numbers: bytes,
        *,
        nbytes: int,
        arrived: float,
        unseen_s: float,
    ) -> bool:
        """Takes a row, if it may go together with others; whoever asked is told later.

        Args:
            context: whom to answer.
            form: of its request; those of JSON and those of binary tensors do not go together.
            numbers: of the row, as they came.
            nbytes: of the request.
            arrived: when, on the monotonic clock.
            unseen_s: how long it had waited when it was read.
        """
        slo_s, asked = self._slo_s, self._asked
        if asked and asked[-1][1] is not form and asked[0][1].binary is not form.binary:
            return False
        if not self._batcher.offer_row(self, nbytes, arrived + slo_s, slo_s - unseen_s):
            return False
        asked.append((context, form, numbers, arrived, nbytes))
        return True

    @property
    def arrived(self) -> Sequence[float]:
        """When each of those that wait arrived."""
        return [one[3] for one in self._asked]

    @property
    def first(self) -> float:
        """When the first of them arrived."""
        return self._asked[0][3]

    @property
    def earliest(self) -> float:
        """The deadline of the first of them; see ``Gathering``."""
        return self.first + self._slo_s

    def take(self, rows: int) -> Together:
        """Gives so many of those that were added, in their order."""
        asked, self._asked = self._asked[:rows], self._asked[rows:]
        return _Rows(self, asked, self._slo_s)

    def end(self) -> None:
        """Records and tells what was answered; raises nothing."""
        answered, self._answered = self._answered, []
        for rows, answers in answered:
            try:
                self._tell(rows, answers)
            except Exception:  # noqa: BLE001 - whatever it was, every request ends
                self._turn.fail_all([one[0] for one in rows.asked], "rows")

    def _tell(self, rows: _Rows, answers: Answers) -> None:
        def queries() -> list[Query]:
            made = [self._asker.row_query(one[0], self._turn.application) for one in rows.asked]
            for at, query in enumerate(made):
                query.answers, query.start = answers, at
            return made

        recorded = self._turn.record(
            "model",
            rows.arrived,
            ((*answers.inputs,), (*answers.outputs,)),
            lambda: (stored_rows(answers.inputs), stored_rows(answers.outputs)),
            queries,
        )
        if recorded is not None:
            self._asker.predicted(rows.asked, recorded, answers)

    def read(self, asked: Sequence[Asked]) -> Batch | None:
        """Returns rows as one batch, if they can be read together."""
        try:
            return self._asker.read_rows(asked[0][1], [one[2] for one in asked])
        except Exception:  # noqa: BLE001 - whoever it was, each is read by itself
            name = self._turn.application.name
            self._log.exception("rows.not_together", application=name, requests=len(asked))
            return None

    def queries(self, asked: Sequence[Asked]) -> list[Query]:
        """Returns each as a query; tells those whose requests cannot be read."""
        application, made = self._turn.application, []

        def make(one: Asked) -> None:
            query = self._asker.row_query(one[0], application)
            made.append(self._elsewhere.take(application, query))

        self._turn.each(asked, make)
        return made

    def answered(self, rows: _Rows, answers: Answers) -> None:
        """Takes the answers to rows, to be told at the end of the turn."""
        if not self._answered:
            self._begin(self)
        self._answered.append((rows, answers))


class _Rows:
    """Some rows of a turn; see ``Together``."""

    __slots__ = ("_turn", "arrived", "asked", "deadline", "nbytes")

    def __init__(self, turn: ModelTurn, asked: Sequence[Asked], slo_s: float) -> None:
        self._turn = turn
        self.asked = asked
        self.arrived = [one[3] for one in asked]
        self.deadline = min(self.arrived) + slo_s
        self.nbytes = sum([one[4] for one in asked])

    def inputs(self) -> Batch | None:
        return self._turn.read(self.asked)

    def apart(self) -> Sequence[Query]:
        return self._turn.queries(self.asked)

    def answered(self, answers: Answers) -> None:
        self._turn.answered(self, answers)
