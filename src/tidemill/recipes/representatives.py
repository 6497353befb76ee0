"""Of rows that share a key, the one whose answer stands for all, and how far they agree with it.

The representative is the row that the source holds most often; of equals, the smallest by its key
columns. So the same source gives the same table. The rows are sorted on disk, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.data.queries import spilling
from tidemill.foundation.durable import replacing
from tidemill.foundation.errors import DataRefused, InvalidInput
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.recipes.scored_rows import column_array, file_options, output_name
from tidemill.tables.table import Agreement, OutputAgreement

ROWS = 1 << 16
"""So many representatives are a file."""

_MEMORY = "500MB"
_TIMES, _KEY = "times", "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Representing:
    """How a table's inputs are represented, and what that may cost.

    Args:
        columns: the representation of some key columns.
        min_agreement: a table whose share of rows that agree is lower is refused.
        tolerance: up to so much, real numbers agree.

    Raises:
        InvalidInput: a bound is none.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    min_agreement: float = 0.0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_agreement <= 1.0:
            raise InvalidInput(
                f"the least agreement is {self.min_agreement:g}", remedy="Give a share, 0 to 1."
            )
        if not 0.0 <= self.tolerance < float("inf"):
            raise InvalidInput(
                f"the tolerance is {self.tolerance:g}", remedy="Give a number, 0 or more."
            )

    def of(self, key: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Returns the columns of a key that are represented, with what represents them."""
        return tuple((name, self.columns[name]) for name in key if name in self.columns)

    def check(self, agreement: Agreement) -> None:
        """Does nothing where the answers agree enough.

        Raises:
            DataRefused: they do not.
        """
        if agreement.share < self.min_agreement:
            raise DataRefused(
                f"{agreement.share:.2%} of the rows agree with what represents them, "
                f"and at least {self.min_agreement:.2%} are to",
                remedy="Represent inputs more finely, or allow less agreement.",
            )


def fold_table(keys: Sequence[bytes], times: pa.Array) -> pa.Table:
    """Returns what scored rows are folded to, to be kept beside them as Parquet.

    Args:
        keys: of each row, what its representation is.
        times: how often the source holds it.
    """
    return pa.table({_KEY: pa.array(keys, pa.large_binary()), _TIMES: times})


def choose_representatives(
    scored: Sequence[Path],
    folds: Sequence[Path],
    key: tuple[str, ...],
    signature: Signature,
    *,
    tolerance: float,
    work: Path,
) -> tuple[list[Path], Agreement]:
    """Writes the representatives of scored rows, in the same form, and compares all with them.

    Args:
        scored: files of rows with their answers.
        folds: of each of them, what ``fold_table`` made.
        key: the key columns.
        signature: the model's.
        tolerance: up to so much, real numbers agree.
        work: a folder for the files.

    Returns:
        The files of representatives, and the agreement of all rows with them.
    """
    names: list[str] = pq.read_schema(scored[0]).names
    measured = _Measured(signature.outputs, key, tolerance)
    written: list[Path] = []
    waiting: list[pa.Table] = []
    rows = 0
    for batch, keys, times in _sorted(scored, folds, names, len(key), work):
        chosen = batch.filter(pa.array(measured.update(batch, keys, times)))
        waiting.append(chosen)
        rows += chosen.num_rows
        if rows >= ROWS:
            written.append(_write(waiting, work, len(written)))
            waiting, rows = [], 0
    if rows:
        written.append(_write(waiting, work, len(written)))
    return written, measured.result()


def _write(tables: list[pa.Table], work: Path, number: int) -> Path:
    path = work / f"chosen-{number:06}.parquet"
    table = pa.concat_tables(tables)
    # Of a build that was killed, a file of that name may be stored by now: it is left as it is.
    with replacing(path, work) as unfinished:
        pq.write_table(table, unfinished, **file_options(table.schema))
    return path


def _sorted(
    scored: Sequence[Path], folds: Sequence[Path], names: list[str], keys: int, work: Path
) -> Iterator[tuple[pa.Table, pa.Array, Array]]:
    """Yields all rows, their keys and how often each is there, by key, representatives first."""
    # Numbered names: the engine takes a and A for one.
    numbered = [f"c{at}" for at in range(len(names))]
    schema = pq.read_schema(scored[0])
    fields = [pa.field(new, schema.field(at).type) for at, new in enumerate(numbered)]
    fields += [pa.field(_KEY, pa.large_binary()), pa.field(_TIMES, pa.int64())]

    def read() -> Iterator[pa.RecordBatch]:
        for rows, fold in zip(scored, folds, strict=True):
            both = [*pq.read_table(rows).columns, *pq.read_table(fold).columns]
            yield from pa.table(both, schema=pa.schema(fields)).to_batches()

    reader = pa.RecordBatchReader.from_batches(pa.schema(fields), read())
    order = ", ".join([_KEY, f"{_TIMES} desc", *numbered[:keys]])
    with spilling(work, memory=_MEMORY) as connection:
        connection.register("scored", reader)
        query = f"select * from scored order by {order}"  # noqa: S608 - names of ours
        for batch in pa.RecordBatchReader.from_stream(connection.sql(query)):
            *columns, keys, times = batch.columns
            if batch.num_rows:
                yield pa.table(columns, names=names), keys, times.to_numpy()


class _Measured:
    """Compares rows that come sorted, batch by batch, with the first of their key."""

    def __init__(self, outputs: Sequence[Column], key: tuple[str, ...], tolerance: float) -> None:
        self._outputs = {output_name(column.name, key): column for column in outputs}
        self._tolerance = tolerance
        self._last: tuple[bytes, Batch] | None = None
        self._rows = self._inputs = self._keys = self._same = 0
        self._equal = dict.fromkeys(self._outputs, 0)
        self._sums = dict.fromkeys(self._outputs, 0.0)
        self._most = dict.fromkeys(self._outputs, 0.0)

    def update(self, batch: pa.Table, keys: pa.Array, times: Array) -> Array:
        """Takes the next rows, one or more; returns which of them are representatives."""
        count = batch.num_rows
        first: Array = np.ones(count, bool)
        first[1:] = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
        first[0] = self._last is None or self._last[0] != keys[0].as_py()
        answers = {
            name: column_array(batch, name, column) for name, column in self._outputs.items()
        }
        # The representative of each row, -1 for the last one of the batch before.
        of = np.maximum.accumulate(np.where(first, np.arange(count), -1))
        agree: Array = np.ones(count, bool)
        discrete = self._discrete
        for name, column in self._outputs.items():
            mine, theirs = answers[name], answers[name][of]
            if self._last is not None:
                theirs[of < 0] = self._last[1][name]
            equal = self._compare(name, mine, theirs, times)
            if (column.dtype.kind != "f") == discrete:
                agree &= equal
        self._rows += int(times.sum())
        self._inputs += count
        self._keys += int(first.sum())
        self._same += int(times[agree].sum())
        if of[-1] >= 0:
            own = {name: array[of[-1]].copy() if array.ndim > 1 else array[of[-1]]
                   for name, array in answers.items()}  # fmt: skip
            self._last = keys[-1].as_py(), own
        return first

    @property
    def _discrete(self) -> bool:
        return any(column.dtype.kind != "f" for column in self._outputs.values())

    def _compare(self, name: str, mine: Array, theirs: Array, times: Array) -> Array:
        """Says in which rows an output agrees, and learns by how much it differs."""
        count = len(mine)
        if mine.dtype.kind != "f":
            equal = _whole(np.asarray(mine == theirs, bool))
        else:
            difference = _difference(mine, theirs).reshape(count, -1)
            equal = _whole(difference <= self._tolerance)
            self._sums[name] += float((difference.mean(axis=1) * times).sum())
            self._most[name] = max(self._most[name], float(difference.max()))
        self._equal[name] += int(times[equal].sum())
        return equal

    def result(self) -> Agreement:
        """Returns what was found in all rows."""
        rows = self._rows or 1
        outputs = []
        for name, column in self._outputs.items():
            real = column.dtype.kind == "f" and np.isfinite(self._most[name])
            outputs.append(
                OutputAgreement(
                    output=column.name,
                    share=self._equal[name] / rows,
                    mean_abs=self._sums[name] / rows if real else None,
                    max_abs=self._most[name] if real else None,
                )
            )
        return Agreement(
            rows=self._rows,
            inputs=self._inputs,
            keys=self._keys,
            share=self._same / rows,
            tolerance=self._tolerance,
            outputs=tuple(outputs),
        )


def _whole(equal: Array) -> npt.NDArray[np.bool_]:
    """Says in which rows all values are equal."""
    return np.asarray(equal.reshape(len(equal), -1).all(axis=1))


def _difference(mine: Array, theirs: Array) -> Array:
    """Returns the absolute differences; equal where both are missing or the same infinity."""
    one, other = mine.astype(np.float64), theirs.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def shown_agreement(agreement: Agreement) -> str:
    """Returns an agreement as one line for people."""
    agree = f"{agreement.share:.2%} of {agreement.rows:,} rows agree with what represents them"
    parts = [f"{agree} ({agreement.inputs:,} inputs, {agreement.keys:,} keys)"]
    parts += [
        f"{each.output} differs by {each.mean_abs:.3g} on average, {each.max_abs:.3g} at most"
        for each in agreement.outputs
        if each.mean_abs is not None and each.max_abs is not None
    ]
    return "; ".join(parts)
