"""Brings labels to the predictions that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_JOINED = b"tidemill.joined_labels"
_REPLACED = b"tidemill.replaced_labels"
_UNMATCHED = b"tidemill.unmatched_labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCounts:
    """What became of the labels: ``received`` is the sum of the other three."""

    received: int
    joined: int
    replaced: int
    unmatched: int


def join_labels(predictions: pa.Table, labels: pa.Table) -> pa.Table:
    """Returns the predictions, all and in their order, with the columns of their labels.

    Joined are ``label``, ``label_text``, ``observed_at`` and ``received_at``, null where no label
    came. A label belongs to a prediction of the same id and application; the one received last
    wins. ``join_counts`` tells how many were replaced by a later one, and how many belong to no
    prediction here.

    Args:
        predictions: as ``read_ledger`` gives them.
        labels: as ``read_ledger`` gives them.
    """
    import numpy as np  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    # Newest first, since index_in finds the first; ties are kept in the order of reading.
    newest_first = labels.sort_by("received_at").take(
        pa.array(np.arange(labels.num_rows)[::-1].copy())
    )
    label_keys, prediction_keys = _key(newest_first), _key(predictions)
    labelled_by = pc.index_in(prediction_keys, value_set=label_keys)
    joined = predictions
    for name in ("label", "label_text", "observed_at", "received_at"):
        joined = joined.append_column(name, newest_first[name].take(labelled_by))
    distinct = pc.unique(label_keys)
    matched = pc.count(pc.index_in(distinct, value_set=prediction_keys)).as_py()
    counts = {
        _JOINED: matched,
        _REPLACED: labels.num_rows - len(distinct),
        _UNMATCHED: len(distinct) - matched,
    }
    metadata = {name: str(count).encode() for name, count in counts.items()}
    return joined.replace_schema_metadata({**(joined.schema.metadata or {}), **metadata})


def join_counts(joined: pa.Table) -> JoinCounts:
    """Returns what ``join_labels`` counted while it made the table.

    Raises:
        KeyError: the table is not one of its results.
    """
    metadata = joined.schema.metadata or {}
    matched, replaced, unmatched = (
        int(metadata[name]) for name in (_JOINED, _REPLACED, _UNMATCHED)
    )
    return JoinCounts(
        received=matched + replaced + unmatched,
        joined=matched,
        replaced=replaced,
        unmatched=unmatched,
    )


def _key(table: pa.Table) -> pa.ChunkedArray:
    import pyarrow.compute as pc  # noqa: PLC0415

    return pc.binary_join_element_wise(
        table["application"], table["prediction_id"], "\n"
    ).combine_chunks()
