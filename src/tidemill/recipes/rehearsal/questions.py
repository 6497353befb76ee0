"""Questions as they came: the rows of a trace or of the ledger, as a model takes them."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow as pa

from tidemill.data.ledger import each_part
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.models.signature import Batch, Signature
from tidemill.planning.workload.sources import trace_format
from tidemill.training.examples import feature_batch

MAX_QUESTIONS = 200_000
"""The first so many are used: they are held in memory, and asked on one machine."""


def questions_of_trace(path: Path, signature: Signature, *, time: str = "time") -> Batch:
    """Returns the rows of a trace, the earliest first, with every input of the model.

    Args:
        path: CSV or Parquet, or a folder of Parquet files.
        signature: of the model.
        time: the column that they are sorted by.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read, lacks an input, or has no row.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist", remedy="Check the path.")
    import pyarrow.dataset as ds  # noqa: PLC0415 - takes its time

    inputs = [column.name for column in signature.inputs]
    try:
        found = ds.dataset(path, format=trace_format(path))
        missing = [name for name in (time, *inputs) if name not in found.schema.names]
        if missing:
            raise InvalidInput(
                f"{path} has no column {missing[0]!r}",
                remedy="To be rehearsed, a trace needs its time and every input of the model.",
            )
        rows = found.head(MAX_QUESTIONS, columns=[time, *inputs]).sort_by(time)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {str(error)[:300]}", remedy="Give a CSV or Parquet file."
        ) from error
    return _batch(rows.select(inputs), signature, str(path))


def questions_of_ledger(ledger: Path, application: str, signature: Signature) -> Batch:
    """Returns what an application was asked, one row for each query.

    Args:
        ledger: its folder.
        application: whose queries.
        signature: of the model.

    Raises:
        InvalidInput: nothing was asked, or other inputs than the model has.
    """
    asked: list[dict[str, object]] = []
    for part in each_part(ledger, application):
        some = part["inputs"].slice(0, MAX_QUESTIONS - len(asked)).to_pylist()
        asked += map(orjson.loads, some)
        if len(asked) >= MAX_QUESTIONS:
            break
    rows = pa.Table.from_pylist(asked) if asked else pa.table({})
    return _batch(rows, signature, f"the ledger of {application!r}")


def _batch(rows: pa.Table, signature: Signature, where: str) -> Batch:
    if not rows.num_rows:
        raise InvalidInput(
            f"{where} has no questions", remedy="Give a trace, or let the application be asked."
        )
    return feature_batch(rows, signature.inputs)
