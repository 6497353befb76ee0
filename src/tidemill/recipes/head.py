"""The head of a table: of a source's rows, those whose keys are asked for most."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import orjson
import pyarrow as pa

from tidemill.data.ledger import each_part
from tidemill.data.queries import spilling
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home
from tidemill.models.signature import Column
from tidemill.recipes.keyed_rows import KeyedRows
from tidemill.tables.represented import Keys, keys_of
from tidemill.training.examples import feature_batch

MAX_HEAD = 1_000_000
"""A head of more keys is no head: they are held in memory."""

_AS_THEY_ARE: Mapping[str, str] = {}
_BATCH = 1 << 16
_MEMORY = "300MB"


def asked_keys(
    home: Home,
    application: str,
    key: Sequence[Column],
    *,
    head: int,
    share: float = 1.0,
    represent: Mapping[str, str] = _AS_THEY_ARE,
) -> list[bytes]:
    """Returns the keys that an application was asked for, the most frequent first.

    Questions by key alone count like any other. Those that lack a column of the key, or hold
    another type in it, do not count.

    Args:
        home: the installation.
        application: who was asked.
        key: the key's columns.
        head: at most so many keys.
        share: no more keys than got this share of the questions, from 0 to 1.
        represent: what represents columns of the key.

    Raises:
        InvalidInput: the head or the share is out of its range.
    """
    if not 0 < head <= MAX_HEAD:
        raise InvalidInput(f"a head has 1 to {MAX_HEAD:,} keys, not {head:,}")
    if not 0.0 < share <= 1.0:
        raise InvalidInput(f"a share is more than 0 and at most 1, not {share:g}")
    schema = pa.schema([("key", pa.binary()), ("times", pa.int64())])
    pairs = [(column.name, column.type) for column in key]
    with home.scratch("head") as work, spilling(work, memory=_MEMORY) as connection:
        reader = pa.RecordBatchReader.from_batches(
            schema, _counted(home, application, keys_of(pairs, represent), schema)
        )
        connection.register("counted", reader)
        connection.execute(
            "create temp table asked as "
            "select key, sum(times)::bigint as times from counted group by key"
        )
        (total,) = connection.execute("select coalesce(sum(times), 0) from asked").fetchone()
        most = connection.execute(
            "select key, times from asked order by times desc, key limit ?", [head]
        )
        keys: list[bytes] = []
        reached = 0
        while reached < share * total and (row := most.fetchone()) is not None:
            keys.append(bytes(row[0]))
            reached += row[1]
    return keys


def head_of(
    rows: KeyedRows,
    key: Sequence[Column],
    keys: Sequence[bytes],
    represent: Mapping[str, str] = _AS_THEY_ARE,
) -> KeyedRows:
    """Returns the rows of a source that have one of the keys.

    Args:
        rows: the source.
        key: the key's columns.
        keys: as ``asked_keys`` returns them.
        represent: what represents columns of the key.
    """
    wanted = frozenset(keys)
    encoder = keys_of([(column.name, column.type) for column in key], represent)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows.batches():
            arrays = feature_batch(pa.Table.from_batches([batch]), key)
            encoded = encoder.many([arrays[column.name] for column in key])
            yield batch.filter(pa.array([each in wanted for each in encoded], pa.bool_()))

    identity = None
    if rows.identity is not None:
        digest = hashlib.sha256(rows.identity.encode())
        for each in sorted(wanted):
            digest.update(len(each).to_bytes(4, "little") + each)
        identity = digest.hexdigest()
    name = f"the {len(keys):,} most frequent keys of {rows.name}"
    return replace(rows, name=name, batches=batches, identity=identity)


def _counted(
    home: Home, application: str, encoder: Keys, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yields the key of each distinct question with how often it was asked."""
    names = [name for name, _ in encoder.columns]
    parts = each_part(home.ledger_path, application)
    asked = (b for part in parts for b in part.select(["inputs"]).to_batches(_BATCH))
    with home.scratch("asked") as work, spilling(work, memory=_MEMORY) as connection:
        texts = pa.schema([("inputs", pa.large_string())])
        connection.register("asked", pa.RecordBatchReader.from_batches(texts, asked))
        query = "select inputs, count(*) as times from asked group by inputs"
        for batch in pa.RecordBatchReader.from_stream(connection.sql(query)):
            found = [
                (_key(encoder, names, text), times)
                for text, times in zip(
                    batch.column("inputs").to_pylist(),
                    batch.column("times").to_pylist(),
                    strict=True,
                )
            ]
            known = [(each, times) for each, times in found if each is not None]
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([each for each, _ in known], pa.binary()),
                    pa.array([times for _, times in known], pa.int64()),
                ],
                schema=schema,
            )


def _key(encoder: Keys, names: Sequence[str], inputs: str) -> bytes | None:
    """Returns the key of a question; None if it has none."""
    row = orjson.loads(inputs)
    try:
        return encoder.one([row[name] for name in names])
    except (KeyError, InvalidInput):
        return None
