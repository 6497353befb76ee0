"""The proof that a key determines all other inputs, by rows that come in the order of their keys.

Rows with one key are one row if their inputs are equal; else the key would have several answers.
Where a number with a fraction is missing, it is NaN, and equal to another one that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.foundation.errors import InvalidInput
from tidemill.tables.runs import KEY, repeated

Flags = npt.NDArray[np.bool_]


class KeyProof:
    """Takes rows in the order of their keys, gives the first of each key, and finds what varies.

    Args:
        others: the column of each input that the key is to determine, by the input's name.
        times: the column that says how often a row counts; those of rows with one key are summed.
    """

    def __init__(self, others: Mapping[str, str], *, times: str | None = None) -> None:
        self._others = others
        self._times = times
        self._ahead: pa.Table | None = None  # the first row of a key whose last is not known yet
        self._varied = False  # whether that key's inputs varied
        self._several = 0
        self._varying: set[str] = set()

    def update(self, block: pa.Table) -> pa.Table:
        """Takes the next rows, one or more; returns the rows of the keys that are complete."""
        if self._ahead is not None:
            block = pa.concat_tables([self._ahead, block]).combine_chunks()
        same = repeated(block.column(KEY).chunk(0))
        if same.any():
            block = self._folded(block, same)
        else:
            self._varied = False
        self._ahead = block.slice(block.num_rows - 1)
        return block.slice(0, block.num_rows - 1)

    def finish(self) -> pa.Table | None:
        """Returns the last row; None if there was no row at all."""
        return self._ahead

    def check(self, key: tuple[str, ...]) -> None:
        """Does nothing where the key determines all else.

        Raises:
            InvalidInput: it does not; what varies is named.
        """
        if self._several:
            varying = [name for name in self._others if name in self._varying]
            raise InvalidInput(
                f"the key ({', '.join(key)}) does not determine {', '.join(varying)}: "
                f"{self._several} keys would have several answers",
                remedy="Add those columns to the key, or make them equal in the source.",
            )

    def _folded(self, block: pa.Table, same: Flags) -> pa.Table:
        """Returns the first row of each key, and learns whether others differ from it."""
        first = np.concatenate([[True], ~same])
        group = np.cumsum(first) - 1
        varied = np.zeros(int(group[-1]) + 1, np.bool_)
        for name, column in self._others.items():
            differs = same & _unequal(block.column(column).combine_chunks())
            if differs.any():
                self._varying.add(name)
                varied[group[1:][differs]] = True
        self._several += int(varied.sum()) - int(self._varied and varied[0])
        self._varied = bool(varied[-1]) or (self._varied and len(varied) == 1)
        folded = block.filter(pa.array(first)).combine_chunks()
        if self._times is None:
            return folded
        counted = block.column(self._times).to_numpy()
        sums = pa.array(np.add.reduceat(counted, np.flatnonzero(first)))
        at = folded.schema.get_field_index(self._times)
        return folded.set_column(at, self._times, sums)


def _unequal(column: Any) -> Flags:
    """Returns of each row but the first whether its value is another than that before it."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)  # what is missing is NaN
        missing = np.isnan(values)
        unequal = (values[1:] != values[:-1]) & ~(missing[1:] & missing[:-1])
        return np.asarray(unequal, np.bool_)
    differs = pc.fill_null(pc.not_equal(column[1:], column[:-1]), False)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    return np.asarray(differs.to_numpy(zero_copy_only=False) | (missing[1:] != missing[:-1]))
