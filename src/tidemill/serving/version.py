"""One model version that is live in this gateway: its table, cache, queue and replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import (
    Corrupted,
    InvalidInput,
    ModelFailed,
    NotFound,
    NotReady,
    Stale,
    TidemillError,
)
from tidemill.foundation.logs import log
from tidemill.models.signature import Array, Batch, Signature
from tidemill.serving.batcher import Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.coalescing import Coalescing
from tidemill.serving.features import StoredFeatures
from tidemill.serving.keeping import Keeping, Kept
from tidemill.serving.lookups import Found, Lookups
from tidemill.serving.measures import VersionMeasures
from tidemill.serving.plan import Deployment, VersionAssignment
from tidemill.serving.query import Packed, Query
from tidemill.serving.row import Row, RowForm
from tidemill.serving.tensors import from_rows
from tidemill.tables.answer import AnswerReader, decode_answer, reader_of
from tidemill.tables.freshness import age_s, stale_from
from tidemill.tables.represented import Folding, Keys
from tidemill.tables.table import Table

_AS_THEY_ARE: Mapping[str, str] = {}
_FORESEEN = (TidemillError, LookupError, TypeError, ValueError)
"""What a file that is not what was written, or a key that is none, brings a look-up to raise."""


class LiveVersion:
    """What the processor asks, in this order: the table, the cache, the queue to the replicas.

    Args:
        assignment: what it is and where its files are.
        identity: equal for two assignments of the same files, table, key and plan.
        signature: its inputs and outputs.
        platform: the name of its runtime.
        classes: what its classes are called, in the order of their probabilities, if it is known.
        table: its table, if it has one.
        lookups: ask the table, if that is on another host.
        key: the encoder of the table's key.
        features: what completes a query by key alone, if it was stored.
        represent: the functions by which values of an input are one to cache and coalescing.
        cache: its answers given before.
        batcher: its queue.
        coalesces: whether equal queries in flight are answered together.
        measures: told how long its table and cache take.
    """

    def __init__(
        self,
        *,
        assignment: VersionAssignment,
        identity: tuple[object, ...],
        signature: Signature,
        platform: str,
        classes: tuple[str, ...] = (),
        table: Table | None,
        lookups: Lookups | None = None,
        key: Keys | None,
        represent: Mapping[str, str] = _AS_THEY_ARE,
        features: StoredFeatures | None = None,
        cache: Cache[Kept],
        batcher: Batcher,
        coalesces: bool,
        clock: Clock,
        measures: VersionMeasures,
    ) -> None:
        self.assignment = assignment
        self.identity = identity
        self.signature = signature
        self.platform = platform
        self.classes = classes
        self.version = assignment.live.version
        self.table = table
        self.lookups = lookups
        self.key = key
        self.features = features
        self.cache = cache
        self.caches = cache.capacity_bytes > 0
        self.coalescing = Coalescing(folds=bool(represent)) if coalesces else None
        self._cache_key = _folded(signature, represent) if represent else _cache_key
        self.keyed = self.caches or coalesces
        self.batcher = batcher
        self._clock = clock
        self.measures = measures
        self._stages = measures.stages
        self._told_unreadable: set[str] = set()
        self._log = log("serving.version")
        self.key_columns = tuple(name for name, _ in key.columns) if key else ()
        self._answers: tuple[RowForm, AnswerReader] | None = None
        self._reads_plainly = True
        self._keeping = Keeping(signature.outputs)
        self._outputs = {c.name: (c.dtype, (1, *c.shape)) for c in signature.outputs}
        self._stale_from: float | None = None
        self._features_until: float | None = None

    def limit_age(self, max_age_s: float | None) -> None:
        """Has table and features count for as long as they are no older; None for ever."""
        self._stale_from = None if self.table is None else stale_from(self.table.info, max_age_s)
        stored = self.features
        self._features_until = None if stored is None else stale_from(stored.info, max_age_s)

    @property
    def stale(self) -> bool:
        """Says whether the table is too old to answer."""
        return self._stale_from is not None and self._clock.now() >= self._stale_from

    @property
    def table_age_s(self) -> float | None:
        """How old the table's answers are, in seconds; None without a table."""
        return None if self.table is None else age_s(self.table.info, self._clock.now())

    def look_up(self, query: Query) -> bool | None:
        """Answers from the table what the table holds; says whether that was every row.

        Rows found are kept in ``query.table_rows``, None standing for a row that the model must
        answer. A table that is too old holds nothing, and that is counted. So is a file that was
        damaged since it was verified: None, it does not answer.
        """
        if self._stale_from is not None and self.stale:
            self.measures.stale.value += 1
            return False
        began = self._clock.monotonic()
        try:
            whole = self._look_up(query)
        except (Corrupted, LookupError, TypeError, ValueError) as error:
            self._unreadable(query, error)
            return None
        self._stages["table"].observe(self._clock.monotonic() - began)
        return whole

    def looks_up_rows(self, names: tuple[str, ...]) -> bool:
        """Says whether ``look_up_rows`` takes keys of these columns."""
        return self.table is not None and self.lookups is None and names == self.key_columns

    def look_up_rows(
        self, keys: Sequence[Sequence[Any]]
    ) -> tuple[RowForm | None, list[tuple[Any, ...] | None]] | None:
        """Returns what the table answers to each key, as plain values, with the form of them all.

        None stands for a key that the table lacks. None for all of them where each needs a look of
        its own: the table is too old or does not answer, or its answers are no plain values.
        Nothing is counted then: each key counts the look of its own, once.

        Args:
            keys: a value for each column of the key, in its order.
        """
        if self.stale or not self._reads_plainly or self.table is None or self.key is None:
            return None
        began = self._clock.monotonic()
        try:
            if len(keys) == 1:
                found = self.table.get([self.key.one(keys[0])])
            else:
                found = self.table.get(self.key.many([*zip(*keys, strict=True)]))
            first = next((value for value in found if value is not None), None)
            answers = None if first is None else self._answers or self._answer_reader(first)
            if answers is not None:
                said = answers[1].read_all(found)
                if not all(said) and said.count(None) != found.count(None):
                    return None
        except _FORESEEN:  # whoever looks at each says what it is
            return None
        except Exception as error:  # noqa: BLE001 - it costs whichever key brings it about
            self._tell_unforeseen(error)
            return None
        if first is not None and answers is None:
            return None
        took_s = self._clock.monotonic() - began
        self._stages["table"].observe_many(took_s / len(keys), len(keys))
        return (None, [None] * len(keys)) if answers is None else (answers[0], said)

    def check_alone(self, query: Query) -> None:
        """Does nothing if a query of nothing but key columns can be looked up.

        Raises:
            NotFound: there is no table.
            InvalidInput: the table's key has a column that the query lacks.
            Stale: the table is older than the application allows.
        """
        if self.table is None:
            raise NotFound(
                f"version {self.version} has no table to look a key up in" + self._nor_features,
                remedy="Send all inputs of the model, or build a table: tidemill table build.",
            )
        asked = query.asked
        names = asked.names if isinstance(asked, Row) else tuple(query.inputs)
        missing = [] if names == self.key_columns else [*set(self.key_columns) - {*names}]
        if missing:
            missing.sort(key=self.key_columns.index)
            raise InvalidInput(
                f"the table of version {self.version} is looked up by {missing[0]!r}, too",
                remedy=f"Give its key: {', '.join(self.key_columns)}.",
            )
        if self.stale:
            self.measures.stale.value += 1
            raise Stale(
                f"the table of version {self.version} is {self.table_age_s:.0f} s old, "
                "more than the application allows",
                remedy="Send all inputs of the model, or build the table again.",
            )

    def look_up_alone(self, query: Query) -> bool | None:
        """Answers from the table a query that holds nothing but key columns; see ``look_up``.

        Raises:
            NotFound, InvalidInput, Stale: as ``check_alone``.
        """
        self.check_alone(query)
        return self.look_up(query)

    def ask_table(self, query: Query, then: Callable[[bool | None], None]) -> None:
        """Has ``then`` told, once, whether a table on another host holds every row.

        As ``look_up``, but in a later turn; None: it does not answer. ``then`` must not raise.
        """
        assert self.lookups is not None
        if self._stale_from is not None and self.stale:
            self.measures.stale.value += 1
            then(False)
            return
        began = self._clock.monotonic()

        def take(found: Found) -> None:
            self._stages["table"].observe(self._clock.monotonic() - began)
            try:
                whole = None if found is None else self._take(query, found)
            except _FORESEEN as error:
                self._unreadable(query, error)
                whole = None
            then(whole)

        self.lookups.ask(self._keys(query), query.deadline, take)

    def _unreadable(self, query: Query, error: Exception, what: str = "table") -> None:
        """Counts that a file is not what was written; the log tells of the first time."""
        self.measures.table_failures.value += 1
        if what not in self._told_unreadable:
            self._told_unreadable.add(what)
            self._log.error(f"{what}.unreadable", version=self.version, error=str(error))
        query.table_rows = None  # as good as no answer

    def _tell_unforeseen(self, error: Exception) -> None:
        """Logs the first time that keys could not be looked up together, and nobody knew why."""
        if "together" not in self._told_unreadable:
            self._told_unreadable.add("together")
            self._log.error(
                "table.not_together", version=self.version, error=repr(error), exc_info=error
            )

    def complete(self, query: Query) -> Batch | None:
        """Returns all inputs of the rows of a query by key that the table did not answer.

        None where no features are stored, or not those of every such row, or they are too old.

        Raises:
            NotReady: their file was damaged since it was verified; that is counted.
        """
        if self.features is None or self._features_stale:
            return None
        try:
            return self.features.complete(missing_rows(query) if query.table_rows else query.inputs)
        except (Corrupted, LookupError, TypeError, ValueError) as error:
            self._unreadable(query, error, "features")
            raise NotReady(
                f"the stored features of version {self.version} do not answer",
                remedy="Retry in a moment, or send all inputs of the model.",
            ) from error

    def lacking(self, query: Query) -> NotFound:
        """Returns the error of a query whose keys the table does not hold, or not all."""
        assert self.key is not None
        rows = query.table_rows
        at = 0 if rows is None else rows.index(None)
        key = self.key.one([query.inputs[name].item(at) for name in self.key_columns])
        of = f" (row {at})" if query.n > 1 else ""
        return NotFound(
            f"the table of version {self.version} does not hold {self.key.show(key)[:200]}{of}"
            f"{self._nor_features}",
            remedy="Send all inputs of the model, or build the table with this key.",
        )

    @property
    def _features_stale(self) -> bool:
        return self._features_until is not None and self._clock.now() >= self._features_until

    @property
    def _nor_features(self) -> str:
        if self.features is None:
            return ""
        old = self._features_stale
        return ", and its stored features are too old" if old else ", nor are its features stored"

    def _look_up(self, query: Query) -> bool:
        assert self.table is not None
        return self._take(query, self.table.get(self._keys(query)))

    def _take_plainly(self, query: Query, value: bytes) -> bool:
        """Takes the answer to one row of plain values as plain values; says whether it is so."""
        answers = self._answers or self._answer_reader(value)
        if answers is None:
            return False
        form, reader = answers
        values = reader.read(value)
        if values is None:
            return False
        query.answer_plainly(Row(form, values))
        return True

    def _answer_reader(self, value: bytes) -> tuple[RowForm, AnswerReader] | None:
        """Returns what reads the table's answers: their columns are in the order of the first."""
        if not self._reads_plainly:
            return None
        known = {column.name: column for column in self.signature.outputs}
        names = decode_answer(value)
        reader = None
        if names.keys() == known.keys():
            columns = [known[name] for name in names]
            reader = reader_of(columns)
        if reader is None:
            self._reads_plainly = False
            return None
        self._answers = RowForm(columns), reader
        return self._answers

    def _keys(self, query: Query) -> list[bytes]:
        assert self.key is not None
        asked = query.asked
        if isinstance(asked, Row):
            values, names = asked.values, asked.form.names
            if names != self.key_columns:
                values = [values[names.index(name)] for name in self.key_columns]
            return [self.key.one(values)]
        columns = [query.inputs[name] for name in self.key_columns]
        if query.n == 1:
            return [self.key.one([column.item(0) for column in columns])]
        return self.key.many(columns)

    def _take(self, query: Query, found: list[bytes | None]) -> bool:
        """Takes what the table holds of each row; says whether that was every row."""
        if query.n == 1:
            value = found[0]
            if value is None:
                return False
            if not isinstance(query.asked, Row) or not self._take_plainly(query, value):
                query.outputs = self._arrays(value)
            return True
        if all(value is None for value in found):
            return False
        rows = [None if value is None else self._arrays(value) for value in found]
        query.table_rows = rows
        if None in found:
            return False
        query.outputs = _stack([row for row in rows if row is not None])
        return True

    def from_cache(self, query: Query) -> bool:
        """Answers the query from the cache, if the very same input was answered before.

        Inputs with one representation are the same, where one is declared.
        """
        asked = query.asked
        key = self._cache_key(query.inputs if isinstance(asked, Row) else asked)
        query.cache_key = key
        if not self.caches or not self.cache.takes(key):
            return False
        began = self._clock.monotonic()
        kept = self.cache.get(key, now=began)
        if kept is None:
            return False
        query.outputs = self._keeping.give(kept, query.n)
        self._stages["cache"].observe(self._clock.monotonic() - began)
        return True

    def keep(self, query: Query) -> None:
        """Keeps the model's answer for the next equal query."""
        key = query.cache_key
        if self.caches and key is not None and self.cache.keeps(key):
            kept, nbytes = self._keeping.take(query)
            self.cache.put(key, kept, nbytes=nbytes, now=self._clock.monotonic())

    async def aclose(self) -> None:
        """Waits until nothing waits or is out, then gives cache, replicas and table back."""
        if self.lookups is not None:
            await self.lookups.aclose()  # first: what it does not answer goes to the model
        await self.batcher.emptied()
        # Whoever still knows of this version, as what reads its application's requests, or the
        # collector that was told to leave alone what was loaded first, keeps no answers with it.
        self.cache = Cache(0, None)
        for replica in self.batcher.replicas:
            await replica.aclose()
        for each in (self.table, self.features):
            if each is not None:  # to give back what is mapped takes longer the more of it was read
                await asyncio.to_thread(each.close)

    def _arrays(self, value: bytes) -> Batch:
        return {
            name: _output_array(cell, *self._outputs[name])
            for name, cell in decode_answer(value).items()
        }


def _folded(
    signature: Signature, represent: Mapping[str, str]
) -> Callable[[Batch | Packed], bytes]:
    """Returns what makes the key of a cached answer where inputs are represented."""
    folding = Folding(signature.inputs, represent)

    def key(asked: Batch | Packed) -> bytes:
        return _cache_key(folding.fold(asked.arrays() if isinstance(asked, Packed) else asked))

    return key


def missing_rows(query: Query) -> Batch:
    """Returns the inputs of the rows that the table did not hold."""
    assert query.table_rows is not None
    at = [index for index, row in enumerate(query.table_rows) if row is None]
    return {name: array[at] for name, array in query.inputs.items()}


def merge_rows(query: Query, outputs: Batch) -> Batch:
    """Returns the whole answer: the table's rows and the model's, in the order of the request."""
    assert query.table_rows is not None
    rows: list[Batch] = []
    taken = 0
    for row in query.table_rows:
        if row is None:
            rows.append({name: array[taken : taken + 1] for name, array in outputs.items()})
            taken += 1
        else:
            rows.append(row)
    return _stack(rows)


def merge_part(query: Query, part: Query) -> None:
    """Completes a query by the model's answers to the rows that the table lacked."""
    rows = query.table_rows or []
    try:
        query.outputs = merge_rows(query, part.outputs)
    except (LookupError, TypeError, ValueError) as error:
        query.error = ModelFailed(
            f"the table's rows and the model's do not fit together: {error}",
            remedy="Build the table again with this version.",
        )
        return
    query.row_sources = ["model" if row is None else "table" for row in rows]


def fill_rows(query: Query, default: dict[str, Any], signature: Signature) -> None:
    """Completes a query by the default answer for the rows that the table lacked."""
    rows = query.table_rows or [None] * query.n
    missing = sum(row is None for row in rows)
    filled = constant_rows(default, signature, missing)
    if missing == query.n:
        query.outputs, query.source = filled, "default"
        return
    query.table_rows = rows
    query.outputs = merge_rows(query, filled)
    query.row_sources = ["default" if row is None else "table" for row in rows]


def constant_rows(default: dict[str, Any], signature: Signature, n: int) -> Batch:
    """Returns n rows of an application's default answer.

    Raises:
        InvalidInput: it is no answer of such a model.
    """
    return {
        column.name: np.repeat(from_rows([default[column.name]], column), n, axis=0)
        for column in signature.outputs
    }


def signature_of(deployment: Deployment, versions: Sequence[Signature]) -> Signature:
    """Returns what an application takes and gives: its own signature, or that of its versions.

    Args:
        deployment: the application.
        versions: the signature of each of its versions.

    Raises:
        InvalidInput: it has neither, or they differ.
    """
    known = [("the application", deployment.signature)] if deployment.signature else []
    known += [
        (f"{live.model!r} version {live.version}", signature)
        for live, signature in zip(deployment.versions, versions, strict=True)
    ]
    if not known:
        raise InvalidInput(
            f"application {deployment.application!r} has neither a version nor a signature",
            remedy="State its signature, or link a version.",
        )
    for name, signature in known[1:]:
        if signature != known[0][1]:
            raise InvalidInput(
                f"{known[0][0]} and {name} in {deployment.application!r} "
                "take or give other columns",
                remedy="Only versions of one signature can share an application.",
            )
    return known[0][1]


def check_default(deployment: Deployment, signature: Signature) -> None:
    """Does nothing for a deployment whose default, if it states one, is an answer of its model.

    Raises:
        InvalidInput: it is not: an output is missing or unknown, or a value does not fit.
    """
    if deployment.default is None:
        return
    expected = {column.name for column in signature.outputs}
    if deployment.default.keys() != expected:
        raise InvalidInput(
            f"the default answer of {deployment.application!r} has "
            f"{sorted(deployment.default)}, the model gives {sorted(expected)}",
            remedy="State one value for each output.",
        )
    try:
        constant_rows(deployment.default, signature, 1)
    except InvalidInput as error:
        raise InvalidInput(
            f"the default answer of {deployment.application!r} is none of its model's: "
            f"{error.what.replace('input', 'output', 1)}",
            remedy=error.remedy,
        ) from error


def _stack(rows: list[Batch]) -> Batch:
    if len(rows) == 1:
        return rows[0]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _output_array(cell: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Returns one row's output as an array (1, …)."""
    array = np.array([cell], dtype)
    return array if array.shape == shape else array.reshape(shape)


def _cache_key(inputs: Batch | Packed) -> bytes:
    """Returns the whole input as bytes: equal bytes, equal inputs (one signature's columns).

    Where there is no text, how many bytes they are says how many rows.
    """
    if isinstance(inputs, Packed):
        return inputs.data
    parts: list[bytes] = []
    if all(array.dtype != object for array in inputs.values()):
        return b"".join([array.tobytes() for array in inputs.values()])
    for array in inputs.values():
        if array.dtype == object:
            texts = [text.encode() for text in array.ravel().tolist()]
            parts.extend(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            parts.append(array.tobytes())
    rows = len(next(iter(inputs.values())))
    return rows.to_bytes(4, "little") + b"".join(parts)
