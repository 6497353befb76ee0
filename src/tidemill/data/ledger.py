"""The ledger: every prediction that was served and every label that came back, append-only.

LedgerWriter     a gateway's own segments: one write per append, synced in groups
read_ledger      predictions and labels as Arrow tables, while they are written
each_part        the same predictions in pieces, where they are more than memory holds
PredictionIds    names predictions, and knows its own again
join_labels      brings each label to its prediction
withdraw         lets one key's labels count no more
compact          segments become Parquet
export_parquet   two Parquet files for whoever asks in SQL
"""

from tidemill.data.ledger_compaction import CompactResult, compact
from tidemill.data.ledger_frames import stored_rows
from tidemill.data.ledger_ids import SECRET_BYTES, PredictionIds, open_ids
from tidemill.data.ledger_labels import JoinCounts, join_counts, join_labels
from tidemill.data.ledger_reader import Ledger, LedgerExport, each_part, export_parquet, read_ledger
from tidemill.data.ledger_records import (
    LabelRecord,
    PlainRows,
    PredictionRecord,
    Problem,
    StoredRows,
    prediction_ids,
)
from tidemill.data.ledger_withdrawals import Withdrawal, read_withdrawals, withdraw
from tidemill.data.ledger_writer import LedgerCounts, LedgerWriter

__all__ = [
    "SECRET_BYTES",
    "CompactResult",
    "JoinCounts",
    "LabelRecord",
    "Ledger",
    "LedgerCounts",
    "LedgerExport",
    "LedgerWriter",
    "PlainRows",
    "PredictionIds",
    "PredictionRecord",
    "Problem",
    "StoredRows",
    "Withdrawal",
    "compact",
    "each_part",
    "export_parquet",
    "join_counts",
    "join_labels",
    "open_ids",
    "prediction_ids",
    "read_ledger",
    "read_withdrawals",
    "stored_rows",
    "withdraw",
]
