"""Stored features at serving: what a query by key alone lacks, so that a model can be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.tables.answer import decode_answer
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.represented import keys_of, standing_for
from tidemill.tables.table import Table


class StoredFeatures:
    """Completes queries by key to all inputs of a model.

    Args:
        table: of features, whose inputs are the signature's.
        signature: of the model.
    """

    def __init__(self, table: Table, signature: Signature) -> None:
        self.info = table.info
        self._table = table
        self._inputs = signature.inputs
        self._key = [name for name, _ in table.info.key]
        self._encoder = KeyEncoder(table.info.key)
        represent = dict(table.info.represent)
        self._represented = keys_of(table.info.key, represent) if represent else None

    def complete(self, keys: Batch) -> Batch | None:
        """Returns all inputs of the model, in its order; None if a key is not known, or no key.

        A key that is not known as it is has the features of what represents it, if that is known.

        Args:
            keys: arrays (n,), one per column that was asked by.

        Raises:
            Corrupted: what is stored is not what was written.
        """
        if any(name not in keys for name in self._key):
            return None
        asked = [keys[name] for name in self._key]
        found = self._table.get(self._encoder.many(asked))
        if None in found and self._represented is not None:
            standing = [standing_for(key) for key in self._represented.many(asked)]
            others = self._table.get(standing)
            found = [
                other if own is None else own for own, other in zip(found, others, strict=True)
            ]
        if None in found:
            return None
        rows = [decode_answer(each) for each in found if each is not None]
        return {
            column.name: keys[column.name]
            if column.name in self._key
            else _array([row[column.name] for row in rows], column)
            for column in self._inputs
        }

    def close(self) -> None:
        """Gives the table back."""
        self._table.close()


def open_features(folder: Path | None, signature: Signature) -> StoredFeatures | None:
    """Opens stored features; none where there are none, or they are inputs of another model.

    Raises:
        Corrupted: the folder is not what was stored.
    """
    if folder is None:
        return None
    table = LmdbTable.open(folder)
    if table.info.inputs != tuple((column.name, column.type) for column in signature.inputs):
        table.close()
        return None
    return StoredFeatures(table, signature)


def _array(values: list[object], column: Column) -> Array:
    array = np.empty(len(values), column.dtype)
    array[:] = values
    return array
