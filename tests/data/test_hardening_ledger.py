"""A ledger whose files are taken away says so; it does not write where nobody will ever read."""

from __future__ import annotations

import queue
import shutil
from pathlib import Path

import pytest

from tidemill.data.ledger import LabelRecord, LedgerWriter, read_ledger
from tidemill.foundation.errors import TidemillError, Unavailable


def label(n: int) -> LabelRecord:
    """A label of some prediction."""
    return LabelRecord(
        prediction_id=f"{n:032x}", application="a", label=1, observed_at=1.0, received_at=2.0
    )


def told(writer: LedgerWriter, n: int) -> TidemillError | None:
    """Writes a label and returns what became of it."""
    answers: queue.SimpleQueue[TidemillError | None] = queue.SimpleQueue()
    writer.append_labels([label(n)], answers.put)  # type: ignore[arg-type]
    return answers.get(timeout=10)


def test_a_removed_segment_acknowledges_nothing(tmp_path: Path) -> None:
    """A label is not acknowledged once its file is gone; the next one goes to a new file."""
    writer = LedgerWriter(tmp_path, "g", sync_interval_s=0.01)
    writer.start()
    try:
        assert told(writer, 1) is None
        for segment in (tmp_path / "segments").iterdir():
            segment.unlink()
        assert isinstance(told(writer, 2), Unavailable)
        with pytest.raises(Unavailable, match="was removed"):
            told(writer, 3)
        assert told(writer, 4) is None
    finally:
        writer.close()
    assert read_ledger(tmp_path).labels["prediction_id"].to_pylist() == [f"{4:032x}"]


def test_a_removed_ledger_answers_nothing(tmp_path: Path) -> None:
    """Without its folder nothing can be recorded, and every record is refused."""
    writer = LedgerWriter(tmp_path / "ledger", "g", sync_interval_s=0.01)
    writer.start()
    try:
        shutil.rmtree(tmp_path / "ledger")
        assert isinstance(told(writer, 1), Unavailable)
        for n in range(2, 5):
            with pytest.raises(Unavailable):
                told(writer, n)
    finally:
        writer.close()
