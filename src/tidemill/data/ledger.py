"""The ledger: every prediction that was served and every label that came back, append-only.

LedgerWriter     a gateway's own segments: one write per append, synced in groups
read_ledger      predictions and labels as Arrow tables, while they are written
join_labels      brings each label to its prediction
compact          segments become Parquet
export_parquet   two Parquet files for whoever asks in SQL
"""

from tidemill.data.ledger_compaction import CompactResult, compact
from tidemill.data.ledger_labels import JoinCounts, join_counts, join_labels
from tidemill.data.ledger_reader import Ledger, LedgerExport, export_parquet, read_ledger
from tidemill.data.ledger_records import LabelRecord, PredictionRecord, Problem, prediction_ids
from tidemill.data.ledger_writer import LedgerCounts, LedgerWriter

__all__ = [
    "CompactResult",
    "JoinCounts",
    "LabelRecord",
    "Ledger",
    "LedgerCounts",
    "LedgerExport",
    "LedgerWriter",
    "PredictionRecord",
    "Problem",
    "compact",
    "export_parquet",
    "join_counts",
    "join_labels",
    "prediction_ids",
    "read_ledger",
]
