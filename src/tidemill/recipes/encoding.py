"""What a table keeps of files of answers: the bytes of their keys, and of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.models.signature import Signature
from tidemill.recipes.scored_rows import column_array, output_name, read_answers
from tidemill.tables.answer import pack_answers
from tidemill.tables.packing import Packed
from tidemill.tables.predictions import PredictionPart
from tidemill.tables.represented import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file of answers, and what a table keeps of it.

    Args:
        path: of the file.
        keys: of its rows.
        values: the answers to them.
        part: what it is in the files, if it is there already.
    """

    path: Path
    keys: Packed
    values: Packed
    part: PredictionPart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Makes of answers what a table keeps.

    Args:
        keys: makes the keys.
        signature: of the model that answered.
    """

    keys: Keys
    signature: Signature

    def kept(self, path: Path) -> Kept:
        """Returns what a table keeps of a file of answers."""
        return self.of(read_answers(path), path)

    def of(self, rows: Any, path: Path) -> Kept:
        """Returns what a table keeps of a file with these rows."""
        key = tuple(name for name, _ in self.keys.columns)
        inputs = {column.name: column for column in self.signature.inputs}
        outputs = {
            column.name: column_array(rows, output_name(column.name, key), column)
            for column in self.signature.outputs
        }
        arrays = [column_array(rows, name, inputs[name]) for name in key]
        return Kept(path=path, keys=self.keys.packed(arrays), values=pack_answers(outputs))
