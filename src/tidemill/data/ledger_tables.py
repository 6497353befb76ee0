"""The ledger's records as Arrow tables: one row for each prediction, one for each label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson

from tidemill.data.ledger_frames import (
    LabelFrame,
    Layout,
    PredictionFrame,
    StoredPrediction,
    decode,
    per_row,
)
from tidemill.data.ledger_records import LabelRecord, Problem, prediction_ids

if TYPE_CHECKING:
    import pyarrow as pa

# Arrow takes a fifth of a second and 40 MB to import: a gateway, which only writes, does without.

REQUEST_ID_CHARACTERS = 32

_FLUSH_BYTES = 8 << 20
_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATETIME


def prediction_schema(*, sequence: bool) -> pa.Schema:
    """Returns the columns of predictions.

    ``time`` and ``event_time`` are seconds since the epoch. ``inputs`` and ``outputs`` are JSON
    objects of one row's values, in which what is not a number, or infinite, is null. ``score`` is
    the last entry of the output ``probabilities`` (the positive class, of two), else the output
    ``value``, else null. ``sequence`` counts from 0 in the order of ``time``, then of the request's
    id, then of the row.
    """
    import pyarrow as pa  # noqa: PLC0415

    columns = [
        ("prediction_id", pa.string()),
        ("time", pa.float64()),
        ("event_time", pa.float64()),
        ("application", pa.string()),
        ("version", pa.int64()),
        ("source", pa.string()),
        ("sequence", pa.int64()),
        ("inputs", pa.large_string()),
        ("outputs", pa.large_string()),
        ("score", pa.float64()),
    ]
    return pa.schema([column for column in columns if sequence or column[0] != "sequence"])


def label_schema() -> pa.Schema:
    """Returns the columns of labels.

    ``label`` is the label as a number (true is 1), null if it is text; ``label_text`` is it as
    text, null if it is a number. ``key`` is the name of the key that brought it, if one did.
    """
    import pyarrow as pa  # noqa: PLC0415

    return pa.schema(
        [
            ("prediction_id", pa.string()),
            ("application", pa.string()),
            ("label", pa.float64()),
            ("label_text", pa.string()),
            ("observed_at", pa.float64()),
            ("received_at", pa.float64()),
            ("key", pa.string()),
        ]
    )


@dataclass(slots=True)
class Rows:
    """Decoded frames on their way to being tables; ``add`` them, then take ``tables``.

    Of other applications nothing is taken, if one is given, and of predictions those alone that
    were made ``since`` a moment.
    """

    application: str | None = None
    with_inputs: bool = True
    since: float | None = None
    problems: list[Problem] = field(default_factory=list)
    _predictions: list[tuple[Any, ...]] = field(default_factory=list)
    _labels: list[tuple[Any, ...]] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)
    _pending_bytes: int = 0

    def add(self, segment: str, frames: Iterable[tuple[int, memoryview]]) -> None:
        """Decodes whole frames; one that cannot be understood is a problem, not an error."""
        for offset, payload in frames:
            try:
                predictions, labels = self._rows(decode(payload))
            except (msgspec.DecodeError, ValueError, TypeError, LookupError) as error:
                what = f"a frame cannot be understood: {error}"
                self.problems.append(
                    Problem(segment=segment, offset=offset, size_bytes=len(payload) + 8, what=what)
                )
                continue
            self._predictions += predictions
            self._labels += labels
            self._pending_bytes += len(payload)
            if self._pending_bytes > _FLUSH_BYTES:
                self._flush()

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Returns the predictions, without ``sequence``, and the labels, both unordered."""
        import pyarrow as pa  # noqa: PLC0415

        self._flush()
        return pa.concat_tables(self._tables), _table(self._labels, label_schema())

    def _flush(self) -> None:
        # Arrow holds text in a fraction of what Python's strings take.
        self._tables.append(_table(self._predictions, prediction_schema(sequence=False)))
        self._predictions, self._pending_bytes = [], 0

    def _rows(
        self, frame: PredictionFrame | LabelFrame
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        wanted = self.application
        if isinstance(frame, LabelFrame):
            labels = [r for r in frame.records if wanted is None or r.application == wanted]
            return [], [_label_row(record) for record in labels]
        rows: list[tuple[Any, ...]] = []
        for record in frame.records:
            if (wanted is None or record.application == wanted) and (
                self.since is None or record.time >= self.since
            ):
                layout = frame.layouts[record.layout]
                rows += _prediction_rows(record, layout, with_inputs=self.with_inputs)
        return rows, []


def _label_row(record: LabelRecord) -> tuple[Any, ...]:
    text = isinstance(record.label, str)
    return (
        record.prediction_id,
        record.application,
        None if text else float(record.label),
        record.label if text else None,
        record.observed_at,
        record.received_at,
        record.key,
    )


def _prediction_rows(
    record: StoredPrediction, layout: Layout, *, with_inputs: bool
) -> list[tuple[Any, ...]]:
    n = record.n
    divider = layout.index(None)
    inputs = _columns(layout[:divider], record.inputs, n) if with_inputs else None
    outputs = _columns(layout[divider + 1 :], record.outputs, n)
    sources = [record.source] * n if isinstance(record.source, str) else record.source
    scores = _scores(outputs, n)
    return [
        (
            identity,
            record.time,
            record.event_time,
            record.application,
            record.version,
            sources[row],
            None if inputs is None else _row_json(inputs, row),
            _row_json(outputs, row),
            scores[row],
        )
        for row, identity in enumerate(prediction_ids(record.request_id, n))
    ]


def _columns(names: Sequence[str | None], stored: list[Any], n: int) -> dict[str, list[Any]]:
    return {str(name): per_row(values, n) for name, values in zip(names, stored, strict=True)}


def _row_json(columns: dict[str, list[Any]], row: int) -> str:
    # orjson writes a float32 array with the digits that a float32 has.
    values = {name: rows[row] for name, rows in columns.items()}
    return orjson.dumps(values, default=_as_list, option=_JSON).decode()


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} in the ledger")


def _scores(outputs: dict[str, list[Any]], n: int) -> list[float | None]:
    if "probabilities" in outputs:
        return [_last(row) for row in outputs["probabilities"]]
    return [_last(row) if np.size(row) == 1 else None for row in outputs.get("value", [None] * n)]


def _last(row: Any) -> float | None:
    if isinstance(row, list | np.ndarray):
        return _last(row[-1]) if len(row) else None
    return float(row) if isinstance(row, int | float | np.number) else None


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415

    if not rows:
        return schema.empty_table()
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def in_order(predictions: pa.Table) -> pa.Table:
    """Returns the predictions ordered by time, then request id, then row."""
    import pyarrow.compute as pc  # noqa: PLC0415

    request = pc.utf8_slice_codeunits(predictions["prediction_id"], 0, REQUEST_ID_CHARACTERS)
    keyed = predictions.append_column("request", request)
    # The sort is stable, and a request's rows are together and in order: they stay so.
    order = pc.sort_indices(keyed, sort_keys=[("time", "ascending"), ("request", "ascending")])
    return predictions.take(order)


def with_sequence(predictions: pa.Table) -> pa.Table:
    """Returns predictions in order with ``sequence`` added."""
    import pyarrow as pa  # noqa: PLC0415

    schema = prediction_schema(sequence=True)
    sequence = pa.array(np.arange(predictions.num_rows, dtype=np.int64))
    position = schema.get_field_index("sequence")
    return predictions.add_column(position, "sequence", sequence)
