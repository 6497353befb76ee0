"""The keys that an application was asked for, and the questions about the most frequent of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.ledger import each_part
from tidemill.data.queries import spilling
from tidemill.data.represented_rows import key_columns
from tidemill.foundation.home import Home

_BATCH = 1 << 16
_MEMORY = "500MB"
_SCHEMA = pa.schema([("inputs", pa.large_string()), ("key", pa.large_string())])
_HEAD = """
with questions as materialized (
    select inputs, key, count(*) as times from asked group by inputs, key
), heads as (
    select key, sum(times) as times, min(inputs) as one from questions group by key
    order by times desc, one limit {head}
)
select questions.inputs from questions join heads using (key)
order by heads.times desc, heads.one, questions.times desc, questions.inputs
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedKeys:
    """Where the keys are that are counted.

    Args:
        home: the installation, whose ledger is read.
        application: who was asked.
        inputs: of its model; questions that lack one are left out.
        key: the columns of the key, at least one.
        represent: what represents some of them: questions with one representation have one key.
    """

    home: Home
    application: str
    inputs: Sequence[str]
    key: Sequence[str]
    represent: Mapping[str, str] = field(default_factory=dict)

    def count(self) -> int:
        """Returns how many distinct keys were asked for."""
        with self._asked() as connection:
            ((found,),) = connection.sql("select count(distinct key) from asked").fetchall()
        return int(found)

    def head(self, keys: int) -> Iterator[list[str]]:
        """Yields the questions about the most frequent keys, each once, as JSON, in pieces.

        Args:
            keys: so many.
        """
        with self._asked() as connection:
            reader = pa.RecordBatchReader.from_stream(connection.sql(_HEAD.format(head=int(keys))))
            for batch in reader:
                yield batch.column("inputs").to_pylist()

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """Gives a connection with all questions and their keys as ``asked``, to be read once."""
        parts = each_part(self.home.ledger_path, self.application)
        batches = (b for part in parts for b in part.select(["inputs"]).to_batches(_BATCH))
        with self.home.scratch("asked") as work, spilling(work, memory=_MEMORY) as connection:
            reader = pa.RecordBatchReader.from_batches(_SCHEMA, self._keyed(batches))
            connection.register("asked", reader)
            yield connection

    def _keyed(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        wanted = {*self.inputs, *self.key}
        for batch in batches:
            coded = batch.column("inputs").dictionary_encode()
            rows = [orjson.loads(each) for each in coded.dictionary.to_pylist()]
            whole = [wanted <= row.keys() for row in rows]
            texts = iter(self._texts([row for row, has in zip(rows, whole, strict=True) if has]))
            keys = pa.array([next(texts) if has else None for has in whole], pa.large_string())
            found = pa.record_batch([batch.column("inputs"), keys.take(coded.indices)], _SCHEMA)
            yield found.filter(pc.is_valid(found.column("key")))

    def _texts(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        if not rows:
            return []
        found = key_columns(rows, self.key, self.represent)
        lists = (found.column(name).to_pylist() for name in self.key)
        return [repr(each) for each in zip(*lists, strict=True)]
