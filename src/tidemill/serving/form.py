"""How an application's requests are read and its answers written, as long as it is live so."""

from __future__ import annotations

from collections.abc import Callable

from tidemill.models.signature import Column
from tidemill.serving.answer_writer import AnswerWriter
from tidemill.serving.application import Application
from tidemill.serving.by_key import KeyReader, key_reader
from tidemill.serving.exchange import Exchange, KeyTaker, ReaderOf
from tidemill.serving.gate import Gate
from tidemill.serving.key_turn import KeyTurn
from tidemill.serving.model_turn import ModelTurn
from tidemill.serving.templates import InferReader

_MAX_WRITERS = 64


class Form:
    """One application's.

    Args:
        application: whom the requests ask.
        gate: turns requests away.
        turn_of: returns what answers keys of some columns together.
        rows: what answers rows together, if anything does.
    """

    __slots__ = (
        "_turn_of",
        "_writers",
        "application",
        "gate",
        "keys",
        "reader",
        "reads_key",
        "rows",
        "turn",
    )

    def __init__(
        self,
        application: Application,
        gate: Gate,
        turn_of: Callable[[Application, tuple[str, ...]], KeyTurn | None],
        rows: ModelTurn | None,
    ) -> None:
        self.application = application
        self._turn_of = turn_of
        self.reads_key: KeyReader | None = None
        self.reader = InferReader(application.signature)
        self.gate = gate
        self.rows = rows
        self.turn: KeyTurn | None = None
        self.keys: tuple[KeyTaker, ReaderOf] | None = None
        self._writers: dict[tuple[tuple[Column, bool], ...], AnswerWriter] = {}

    def refuse(self, exchange: Exchange) -> None:
        """Refuses a request that cannot be answered in time, without reading it.

        The next of the same head need not come so far.
        """
        exchange.head.gate = self.gate
        exchange.refuse(self.gate.refusal)

    @property
    def key(self) -> KeyReader:
        """Reads requests that hold the key alone.

        Raises:
            InvalidInput: the application has no key, or not of single values.
        """
        if self.reads_key is None:
            self.reads_key = key_reader(self.application.deployment, self.application.signature)
            self.turn = self._turn_of(self.application, self.reads_key.names)
            if self.turn is not None:
                self.keys = self.turn, self.reads_key.known
        return self.reads_key

    def writer(self, wanted: tuple[tuple[Column, bool], ...]) -> AnswerWriter:
        """Returns the writer of such answers; requests that want the same share it."""
        found = self._writers.get(wanted)
        if found is None:
            if len(self._writers) >= _MAX_WRITERS:
                self._writers.clear()
            found = self._writers[wanted] = AnswerWriter(self.application.name, wanted)
        return found
