"""A chunk of a build: some rows of a source, and the files of the answers to them.

What makes the files is the same wherever it runs, so that a table does not tell where it was built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.models.runtime import Runtime
from tidemill.recipes.distinct_rows import TIMES, column_names
from tidemill.recipes.refresh import DIGEST, digests
from tidemill.recipes.representatives import fold_table
from tidemill.recipes.scored_rows import answers_table, file_options
from tidemill.tables.represented import keys_of
from tidemill.training.examples import feature_batch

Where = Literal["here", "ray"]
"""Where a model scores: in this process, or in a Ray cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is made of each chunk of a build.

    Args:
        key: the columns that make a key.
        fold: name and type of each, where rows are folded to what represents them.
        represent: what represents them.
    """

    key: tuple[str, ...]
    fold: tuple[tuple[str, str], ...] | None = None
    represent: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The bytes of a chunk's files: its answers, and what its rows are folded to, if they are.

    ``cpu_s`` is what it took of processors that are not this process's.
    """

    answers: bytes
    fold: bytes | None
    cpu_s: float = 0.0


Keep = Callable[[int, Chunk], None]
"""Keeps the files of the chunk of that number; several threads may do so at once."""


class Pool(Protocol):
    """Scores chunks, several at once; entered before, and left when it has scored all."""

    @property
    def cpu_s(self) -> float:
        """What was used of processors that are not this process's."""

    def scored(self, rows: Path, todo: Sequence[int], keep: Keep) -> Iterator[int]:
        """Yields the number of each chunk once it is kept, in any order.

        Args:
            rows: a Parquet file; its row groups are the chunks.
            todo: the numbers of those that are to be scored.
            keep: is given the files.
        """


Opened = AbstractContextManager[Pool]


def score_chunk(runtime: Runtime, rows: pa.Table, asked: Asked) -> Chunk:
    """Returns the files of a chunk: keys and answers, with what a refresh compares.

    Args:
        runtime: the model.
        rows: of a file of distinct rows.
        asked: of the whole build.
    """
    inputs = runtime.signature.inputs
    named = rows.select(column_names(inputs)).rename_columns([each.name for each in inputs])
    batch = feature_batch(named, inputs)
    answers = answers_table(batch, runtime.predict(batch), asked.key, runtime.signature)
    if asked.fold is not None:
        keys = keys_of(asked.fold, dict(asked.represent)).many([batch[n] for n in asked.key])
        fold = fold_table(keys, rows.column(TIMES))
        return Chunk(answers=_file(answers), fold=_file(fold))
    answers = answers.append_column(DIGEST, digests(named))
    return Chunk(answers=_file(answers), fold=None)


class Threads:
    """Scores in this process, as ``Pool`` promises.

    Args:
        runtime: the model.
        asked: of the whole build.
        workers: calls of the model at once.
    """

    cpu_s = 0.0

    def __init__(self, runtime: Runtime, asked: Asked, workers: int) -> None:
        self._runtime = runtime
        self._asked = asked
        self._workers = workers

    def scored(self, rows: Path, todo: Sequence[int], keep: Keep) -> Iterator[int]:  # noqa: D102
        def score(at: int) -> int:
            with pq.ParquetFile(rows) as mine:
                part = mine.read_row_group(at)
            keep(at, score_chunk(self._runtime, part, self._asked))
            return at

        with ThreadPoolExecutor(self._workers, "tidemill.score") as pool:
            yield from pool.map(score, todo)


def _file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **file_options(table.schema))
    found: bytes = sink.getvalue().to_pybytes()
    return found
