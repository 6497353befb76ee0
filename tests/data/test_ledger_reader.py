from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.data.ledger import (
    LabelRecord,
    LedgerWriter,
    PredictionRecord,
    compact,
    each_part,
    export_parquet,
    join_counts,
    join_labels,
    read_ledger,
)
from tidemill.data.ledger_frames import MAGIC, whole_segment
from tidemill.data.ledger_manifest import Manifest, write_manifest
from tidemill.foundation.errors import Corrupted, InvalidSettings


def prediction(number: int, **given: Any) -> PredictionRecord:
    values: dict[str, Any] = {
        "request_id": f"{number:032x}",
        "time": float(number),
        "application": "flights",
        "version": 1,
        "source": "model",
        "n": 1,
        "inputs": {"x": np.array([number])},
        "outputs": {"probabilities": np.array([[0.25, 0.75]])},
    }
    return PredictionRecord(**{**values, **given})


def label(number: int, value: Any = 1, received_at: float = 0.0, **given: Any) -> LabelRecord:
    values: dict[str, Any] = {
        "prediction_id": f"{number:032x}",
        "application": "flights",
        "label": value,
        "observed_at": received_at,
        "received_at": received_at,
    }
    return LabelRecord(**{**values, **given})


def write(
    path: Path,
    predictions: list[PredictionRecord],
    labels: list[LabelRecord] | None = None,
    gateway: str = "gw",
) -> None:
    with LedgerWriter(path, gateway) as writer:
        writer.append_predictions(predictions)
        writer.append_labels(labels or [], lambda error: None)


def spoil_group(file: Path, group: int) -> None:
    """Overwrites the pages of one group of rows of a Parquet file; its end stays as it was."""
    told = pq.read_metadata(file).row_group(group)
    chunks = [told.column(at) for at in range(told.num_columns)]
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    end = max(s + c.total_compressed_size for s, c in zip(starts, chunks, strict=True))
    file.chmod(0o600)
    with file.open("r+b") as raw:
        raw.seek(min(starts))
        raw.write(b"\xff" * (end - min(starts)))


def test_of_parts_and_groups_of_rows_from_before_a_moment_nothing_is_read(tmp_path: Path) -> None:
    """Nor are those of a file that is not from before it; what has just begun counts by its rows.

    Whatever is read of what is spoilt is a problem, so that none is a proof.
    """
    times = {"old": range(10), "later": range(10, 30), "now": range(25, 35)}
    for name in ("old", "later"):
        write(tmp_path, [prediction(number) for number in times[name]], gateway=name)
        before = set(tmp_path.glob("predictions/*.parquet"))
        compact(tmp_path)
        made = next(iter({*tmp_path.glob("predictions/*.parquet")} - before or before))
        rows = pq.read_table(made)
        made.chmod(0o600)
        pq.write_table(rows, made, row_group_size=10, write_page_checksum=True)
        spoil_group(made, 0)
    with LedgerWriter(tmp_path, "now") as writer:
        writer.append_predictions([prediction(number) for number in times["now"]])
        problems: list[Any] = []
        found = [*each_part(tmp_path, "flights", since=22.0, problems=problems)]
        assert problems == []
        assert [part["time"].to_pylist() for part in found if part.num_rows] == [
            [float(number) for number in range(22, 30)],
            [float(number) for number in range(25, 35)],
        ]
        whole = [*each_part(tmp_path, None, problems=problems)]
        assert len(problems) == 2
        assert sum(part.num_rows for part in whole) == 10


def test_a_request_is_a_row_for_each_prediction(tmp_path: Path) -> None:
    """Ids, sources, JSON and scores are those of the row; the rows keep their order."""
    batch = prediction(
        7,
        request_id=bytes(15) + b"\x07",
        event_time=3.5,
        n=12,
        row_sources=["table", *["model"] * 11],
        inputs={
            "carrier": np.array([f"A{k}" for k in range(12)], dtype=object),
            "distance": np.arange(12, dtype=np.int32),
            "image": np.ones((12, 40), dtype=np.float32) / 10,
        },
        outputs={
            "label": np.arange(12) % 2,
            "probabilities": np.linspace(0, 1, 24).reshape(12, 2),
        },
    )
    write(tmp_path, [batch])
    rows = read_ledger(tmp_path, "flights").predictions.to_pylist()
    identity = "00000000000000000000000000000007"
    assert [row["prediction_id"] for row in rows] == [f"{identity}-{k}" for k in range(12)]
    assert [row["sequence"] for row in rows] == list(range(12))
    assert [row["source"] for row in rows][:2] == ["table", "model"]
    assert {row["event_time"] for row in rows} == {3.5}
    inputs = json.loads(rows[11]["inputs"])
    assert (inputs["carrier"], inputs["distance"]) == ("A11", 11)
    assert inputs["image"] == [0.1] * 40
    assert json.loads(rows[11]["outputs"])["label"] == 1
    assert rows[11]["score"] == 1.0


@pytest.mark.parametrize(
    ("outputs", "score"),
    [
        ({"value": np.array([2.5])}, 2.5),
        ({"value": np.array([[2.5]], np.float32)}, 2.5),
        ({"value": np.array([[2.5, 1.0]])}, None),
        ({"label": np.array([1])}, None),
        ({"label": np.array(["a"], object), "probabilities": np.array([[0.5, 0.3, 0.2]])}, 0.2),
        ({"probabilities": np.ones((1, 100)) / 100}, 0.01),
        ({"probabilities": np.ones((1, 0))}, None),
        ({"value": np.array(["text"], object)}, None),
        ({}, None),
    ],
)
def test_the_score_is_the_positive_classs_probability_or_the_value(
    tmp_path: Path, outputs: dict[str, np.ndarray], score: float | None
) -> None:
    """A number where there is one, null where there is none, never an error."""
    write(tmp_path, [prediction(1, outputs=outputs)])
    assert read_ledger(tmp_path).predictions["score"].to_pylist() == [score]


def test_what_is_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    """JSON knows neither NaN nor infinity; DuckDB must be able to read every row."""
    odd = np.array([[np.nan, np.inf, 1.0]])
    write(tmp_path, [prediction(1, inputs={"small": odd, "large": np.repeat(odd, 20, axis=1)})])
    inputs = json.loads(read_ledger(tmp_path).predictions["inputs"][0].as_py())
    assert inputs["small"] == [None, None, 1.0]
    assert inputs["large"] == [None] * 40 + [1.0] * 20


def test_gateways_are_merged_in_order_of_time_then_id(tmp_path: Path) -> None:
    """Whoever wrote it and wherever it lies, a prediction has its place."""
    write(tmp_path, [prediction(k) for k in range(0, 20, 2)], gateway="gw-0")
    compact(tmp_path)
    write(tmp_path, [prediction(k) for k in range(1, 20, 4)], gateway="gw-1")
    same = [prediction(k, time=5.5) for k in (40, 30)]
    with LedgerWriter(tmp_path, "gw-0") as writer:
        writer.append_predictions([*same, prediction(3)])
        found = read_ledger(tmp_path).predictions
    expected = [0, 1, 2, 3, 4, 5, 30, 40, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18]
    assert [int(i, 16) for i in found["prediction_id"].to_pylist()] == expected
    assert found["sequence"].to_pylist() == list(range(len(expected)))


def test_an_application_sees_its_own(tmp_path: Path) -> None:
    """The filter holds for segments and for Parquet, for predictions and for labels."""
    for number, application in enumerate(["flights", "digits"]):
        write(
            tmp_path,
            [prediction(number, application=application)],
            [label(number, application=application)],
        )
        for _ in range(2):
            for wanted in ("flights", "digits"):
                found = read_ledger(tmp_path, wanted)
                count = int(wanted == "flights" or number == 1)
                assert found.predictions["application"].to_pylist() == [wanted] * count
                assert found.labels["application"].to_pylist() == [wanted] * count
            compact(tmp_path)
    assert read_ledger(tmp_path).predictions.num_rows == 2


def test_inputs_may_be_left_out(tmp_path: Path) -> None:
    """Without inputs the columns are the same and the inputs null."""
    write(tmp_path, [prediction(1)])
    compact(tmp_path)
    write(tmp_path, [prediction(2)])
    full, lean = read_ledger(tmp_path), read_ledger(tmp_path, with_inputs=False)
    assert lean.predictions.schema == full.predictions.schema
    assert lean.predictions["inputs"].to_pylist() == [None, None]
    assert lean.predictions.drop_columns("inputs") == full.predictions.drop_columns("inputs")


def test_an_empty_ledger_is_empty_tables(tmp_path: Path) -> None:
    """Before anything is served there is nothing, of the right columns."""
    found = read_ledger(tmp_path / "nowhere")
    assert (found.predictions.num_rows, found.labels.num_rows) == (0, 0)
    joined = join_labels(found.predictions, found.labels)
    assert joined.num_rows == 0
    assert join_counts(joined).received == 0


def test_damage_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    """A flipped bit in the middle, a frame of nonsense and a broken Parquet file."""
    for part in range(2):
        with LedgerWriter(tmp_path, "gw") as writer:
            for number in range(part * 5, part * 5 + 5):
                writer.append_predictions([prediction(number)])
        if part == 0:
            compact(tmp_path)
    segment = next((tmp_path / "segments").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    frame_bytes = (len(data) - 20) // 5
    data[20 + 2 * frame_bytes + 30] ^= 1
    nonsense = whole_segment([b"\x93\x00\x90\x01", b"\x05"])[20:]
    segment.write_bytes(bytes(data) + nonsense)
    found = read_ledger(tmp_path)
    assert found.predictions["time"].to_pylist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    offsets = [problem.offset for problem in found.problems]
    assert offsets == [20 + 2 * frame_bytes, len(data), len(data) + 12]
    assert {problem.segment for problem in found.problems} == {segment.stem}
    error = found.problems[0].error()
    assert isinstance(error, Corrupted)
    assert segment.stem in str(error)

    parquet = next((tmp_path / "predictions").glob("*.parquet"))
    whole = parquet.read_bytes()
    parquet.write_bytes(whole[:200] + bytes(20) + whole[220:])
    found = read_ledger(tmp_path)
    assert found.predictions["time"].to_pylist() == [5, 6, 8, 9]
    assert found.problems[-1].segment == f"predictions/{parquet.name}"
    parquet.unlink()
    assert "cannot be read" in read_ledger(tmp_path).problems[-1].what


def test_a_newer_or_damaged_ledger_is_refused(tmp_path: Path) -> None:
    """Half of the truth would look like the whole of it."""
    folder = tmp_path / "segments"
    folder.mkdir()
    newer = folder / "gw-0000000000000001-00000000.seg"
    newer.write_bytes(MAGIC + struct.pack("<I", 2))
    for call in (read_ledger, compact):
        with pytest.raises(InvalidSettings, match=r"gw-0+1-0+ has schema 2"):
            call(tmp_path)
    assert newer.exists()
    newer.unlink()
    write_manifest(tmp_path, Manifest(schema=2))
    for call in (read_ledger, compact):
        with pytest.raises(InvalidSettings, match="Upgrade Tidemill"):
            call(tmp_path)
    (tmp_path / "compacted.json").write_text("{")
    with pytest.raises(Corrupted, match="manifest"):
        read_ledger(tmp_path)


def test_the_ledger_is_read_while_it_is_written_and_compacted(tmp_path: Path) -> None:
    """Every reading is a whole beginning of what was written, each record once, and grows."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def keep_compacting() -> None:
        try:
            while not stop.is_set():
                compact(tmp_path)
        except BaseException as error:  # noqa: BLE001 - told to the test below
            errors.append(error)

    with LedgerWriter(tmp_path, "gw", segment_bytes=3000, sync_interval_s=0.001) as writer:
        thread = threading.Thread(target=keep_compacting)
        thread.start()
        seen = 0
        try:
            for turn in range(40):
                for number in range(turn * 50, turn * 50 + 50):
                    writer.append_predictions([prediction(number)])
                found = read_ledger(tmp_path).predictions["time"].to_pylist()
                assert found == list(range(turn * 50 + 50))
                assert len(found) > seen
                seen = len(found)
        finally:
            stop.set()
            thread.join()
    assert errors == []


def test_the_last_label_received_wins(tmp_path: Path) -> None:
    """Each prediction keeps its place; labels that lost or found nothing are counted."""
    write(
        tmp_path,
        [prediction(3), prediction(1), prediction(2), prediction(4, application="digits")],
        [
            label(1, 0, received_at=5.0),
            label(1, "cancelled", received_at=9.0),
            label(1, 1, received_at=7.0),
            label(3, True, received_at=1.0),
            label(3, 0.5, received_at=1.0),  # received later in the same moment
            label(99, 1),
            label(4, 1),  # of another application
        ],
    )
    ledger = read_ledger(tmp_path)
    joined = join_labels(ledger.predictions, ledger.labels)
    assert joined["label"].to_pylist() == [None, None, 0.5, None]
    assert joined["label_text"].to_pylist() == ["cancelled", None, None, None]
    assert joined["observed_at"].to_pylist() == [9.0, None, 1.0, None]
    assert joined["prediction_id"].to_pylist() == ledger.predictions["prediction_id"].to_pylist()
    counts = join_counts(joined)
    assert (counts.received, counts.joined, counts.replaced, counts.unmatched) == (7, 2, 3, 2)


def test_exported_parquet_is_a_database_for_sql(tmp_path: Path) -> None:
    """DuckDB reads columns, JSON and labels; what is compacted can be queried where it lies."""
    write(tmp_path, [prediction(k) for k in range(10)], [label(k, k % 2) for k in range(5)])
    exported = export_parquet(tmp_path, tmp_path / "out", "flights")
    assert (exported.prediction_rows, exported.label_rows, exported.problems) == (10, 5, ())
    with duckdb.connect() as connection:
        query = f"""
            SELECT sum(CAST(p.inputs->>'$.x' AS INTEGER)), sum(l.label), max(p.sequence),
                   avg(p.score), min(p.outputs->'$.probabilities')
            FROM '{exported.predictions}' p LEFT JOIN '{exported.labels}' l USING (prediction_id)
        """
        assert connection.execute(query).fetchone() == (45, 2.0, 9, 0.75, "[0.25,0.75]")
        compact(tmp_path)
        count = f"SELECT count(*) FROM '{tmp_path}/predictions/*.parquet'"
        assert connection.execute(count).fetchone() == (10,)


def test_a_gateway_does_not_pay_for_reading(tmp_path: Path) -> None:
    """Importing and starting a writer loads no Arrow, which takes a fifth of a second and 40 MB."""
    code = (
        "import sys; from pathlib import Path; from tidemill.data.ledger import LedgerWriter\n"
        "with LedgerWriter(Path(sys.argv[1]), 'gw'): pass\n"
        "sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
    assert pa.__version__
