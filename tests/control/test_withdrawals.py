"""Labels of a key that went bad are withdrawn: audited, in every score and export, for ever."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import numpy as np
import pyarrow.parquet as pq
import pytest

from tidemill.control.audit import read_audit
from tidemill.control.keys import create_key, revoke_key
from tidemill.control.scores import score_application
from tidemill.control.withdrawals import withdraw_labels
from tidemill.data.ledger import (
    LabelRecord,
    LedgerWriter,
    PredictionRecord,
    compact,
    export_parquet,
    read_ledger,
)
from tidemill.foundation.errors import Conflict, Corrupted, NotFound
from tidemill.foundation.home import Home

ROWS = 8


def predict(writer: LedgerWriter) -> None:
    """Writes predictions of which every second one is right, if labels are 1."""
    writer.append_predictions(
        [
            PredictionRecord(
                request_id=f"{row:032x}",
                time=float(row),
                application="app",
                version=1,
                source="model",
                n=1,
                inputs={"x": np.array([1.0])},
                outputs={"value": np.array([float(row % 2)], np.float32)},
            )
            for row in range(ROWS)
        ]
    )


def label(writer: LedgerWriter, key: str | None, value: float, at: float) -> None:
    """Writes a label for each prediction, as this key brings them."""
    synced = Event()
    records = [
        LabelRecord(
            prediction_id=f"{row:032x}",
            application="app",
            label=value,
            observed_at=at,
            received_at=at,
            key=key,
        )
        for row in range(ROWS)
    ]
    writer.append_labels(records, lambda error: synced.set())
    assert synced.wait(20)


@pytest.fixture
def poisoned(home: Home) -> Home:
    """A ledger where key ``good`` said 1 of all, and ``bad`` later said 9."""
    for name in ("good", "bad"):
        create_key(home, name, scopes=["feedback"], by="tests")
    with LedgerWriter(home.ledger_path, "gateway-0") as writer:
        predict(writer)
        label(writer, "good", 1.0, 10.0)
        label(writer, "bad", 9.0, 20.0)
    return home


def labels_of(home: Home) -> list[float]:
    """The labels that count."""
    found: list[float] = read_ledger(home.ledger_path).labels["label"].to_pylist()
    return found


@pytest.mark.parametrize("compacted", [False, True])
def test_withdrawn_labels_count_nowhere(poisoned: Home, tmp_path: Path, *, compacted: bool) -> None:
    """What they had replaced counts again; before and after compaction, in scores and exports."""
    if compacted:
        compact(poisoned.ledger_path)
    before = score_application(poisoned, "app")
    assert (before.labels.replaced, before.labels.withdrawn) == (ROWS, 0)
    done = withdraw_labels(poisoned, "bad", by="ann", reason="a stolen key")
    assert (done.labels, done.state) == (ROWS, "in force")
    after = score_application(poisoned, "app")
    assert after.labels.withdrawn == ROWS
    assert (after.labels.received, after.labels.replaced) == (ROWS, 0)
    assert after.report.overall.loss == pytest.approx(0.5)
    assert before.report.overall.loss == pytest.approx((81 + 64) / 2)
    (tmp_path / "out").mkdir()
    exported = export_parquet(poisoned.ledger_path, tmp_path / "out")
    assert (exported.label_rows, exported.withdrawn_labels) == (ROWS, ROWS)
    rows = pq.read_table(exported.labels)
    assert set(rows["key"].to_pylist()) == {"good"}


def test_labels_that_come_later_are_withdrawn_too(poisoned: Home) -> None:
    """And those of others stay, those without a key among them."""
    withdraw_labels(poisoned, "bad", by="ann", reason="a stolen key")
    with LedgerWriter(poisoned.ledger_path, "gateway-0") as writer:
        label(writer, "bad", 9.0, 30.0)
        label(writer, None, 2.0, 40.0)
    assert labels_of(poisoned) == [1.0] * ROWS + [2.0] * ROWS
    assert read_ledger(poisoned.ledger_path).withdrawn_labels == 2 * ROWS


def test_a_withdrawal_is_audited_once(poisoned: Home) -> None:
    """With how many labels, by whom and why; also of a key that was revoked before."""
    revoke_key(poisoned, "bad", by="ann", reason="stolen")
    assert withdraw_labels(poisoned, "bad", by="ann", reason="stolen").state == "revoked"
    (entry, *_) = read_audit(poisoned.store, subject="key bad")
    assert (entry.verb, entry.by, entry.reason) == ("labels-withdraw", "ann", "stolen")
    assert entry.detail == {"labels": ROWS}
    with pytest.raises(Conflict, match="stolen"):
        withdraw_labels(poisoned, "bad", by="ann", reason="again")
    with pytest.raises(NotFound, match="'other'"):
        withdraw_labels(poisoned, "other", by="ann", reason="none")


def test_damage_of_the_file_is_told(poisoned: Home) -> None:
    """Labels that may be withdrawn are not counted in silence."""
    withdraw_labels(poisoned, "bad", by="ann", reason="stolen")
    (poisoned.ledger_path / "withdrawn.json").write_bytes(b"{")
    with pytest.raises(Corrupted, match="withdrawals"):
        labels_of(poisoned)


def test_a_ledger_from_before_there_were_keys_is_read(home: Home) -> None:
    """Compacted labels without the column have no key; those beside them keep theirs."""
    with LedgerWriter(home.ledger_path, "gateway-0") as writer:
        predict(writer)
        label(writer, None, 1.0, 10.0)
    compact(home.ledger_path)
    (old,) = (home.ledger_path / "labels").glob("*.parquet")
    pq.write_table(pq.read_table(old).drop_columns(["key"]), old)
    with LedgerWriter(home.ledger_path, "gateway-0") as writer:
        label(writer, "new", 2.0, 20.0)
    found = read_ledger(home.ledger_path, "app").labels["key"].to_pylist()
    assert found == [None] * ROWS + ["new"] * ROWS
