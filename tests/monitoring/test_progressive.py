from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as reference

from tidemill.data.ledger import (
    LabelRecord,
    LedgerWriter,
    PredictionRecord,
    export_parquet,
    join_labels,
    read_ledger,
)
from tidemill.foundation.errors import InvalidInput
from tidemill.monitoring.progressive import ProgressiveReport, score_served


def joined(**given: Any) -> pa.Table:
    """One row per prediction; what is not given is as if nothing special had happened."""
    n = len(given["score"])
    times = given.get("time", [float(k) for k in range(n)])
    outputs = [json.dumps({"probabilities": [1 - (s or 0), s]}) for s in given["score"]]
    columns: dict[str, Any] = {
        "event_time": [None] * n,
        "version": [1] * n,
        "source": ["model"] * n,
        "outputs": outputs,
        "label": [None] * n,
        "label_text": [None] * n,
        "observed_at": [None] * n,
        **given,
        "time": times,
    }
    types = {
        "event_time": pa.float64(),
        "label": pa.float64(),
        "label_text": pa.string(),
        "observed_at": pa.float64(),
        "score": pa.float64(),
    }
    return pa.table({name: pa.array(v, types.get(name)) for name, v in columns.items()})


def served(path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Serves n predictions of two versions through a real ledger and labels most of them."""
    random = np.random.default_rng(1)
    scores = np.round(random.random(n), 2)  # ties
    truth = random.random(n) < scores
    with LedgerWriter(path, "gw") as writer:
        for k in range(n):
            record = PredictionRecord(
                request_id=f"{k:032x}",
                time=1000.0 + k,
                application="flights",
                version=1 + k % 2,
                source="table" if k % 3 == 0 else "model",
                n=1,
                inputs={"x": np.array([k])},
                outputs={"probabilities": np.array([[1 - scores[k], scores[k]]])},
            )
            writer.append_predictions([record])
        labels = [
            LabelRecord(
                prediction_id=f"{k:032x}",
                application="flights",
                label=bool(truth[k]),
                observed_at=1000.0 + k + 10,
                received_at=1000.0 + k + 11,
            )
            for k in random.permutation(n)
            if k % 10
        ]
        writer.append_labels(labels, lambda error: None)
    return scores, truth


def report_of(path: Path, **given: Any) -> ProgressiveReport:
    ledger = read_ledger(path, "flights", with_inputs=False)
    return score_served(join_labels(ledger.predictions, ledger.labels), **given)


def test_the_ledgers_score_is_scikit_learns(tmp_path: Path) -> None:
    """From records to report, over all, by version and by source, the numbers are right."""
    scores, truth = served(tmp_path, 1500)
    report = report_of(tmp_path)
    numbers = np.arange(1500)
    has_label = numbers % 10 != 0
    assert (report.kind, report.predictions, report.mature) == ("binary", 1500, 1500)
    for chosen, found in (
        (has_label, report.overall),
        (has_label & (numbers % 2 == 1), report.versions["2"]),
        (has_label & (numbers % 3 == 0), report.sources["table"]),
    ):
        assert found.labelled == chosen.sum()
        assert found.loss == pytest.approx(
            reference.log_loss(truth[chosen], scores[chosen]), rel=1e-12
        )
        assert found.auc == pytest.approx(
            reference.roc_auc_score(truth[chosen], scores[chosen]), abs=1e-12
        )
        assert found.brier == pytest.approx(
            reference.brier_score_loss(truth[chosen], scores[chosen]), abs=1e-12
        )
        assert found.accuracy == np.mean((scores[chosen] > 0.5) == truth[chosen])
        assert found.reasons == ()
    assert report.overall.coverage == 0.9
    assert report.overall.label_delay_s == {"p50": 10.0, "p90": 10.0, "p99": 10.0, "max": 10.0}
    assert sum(bucket.predictions for bucket in report.overall.coverage_by_score) == 1500
    assert sum(bucket.labelled for bucket in report.overall.coverage_by_score) == 1350


def test_anybody_can_recompute_auc_in_sql(tmp_path: Path) -> None:
    """The exported Parquet and the rank formula in DuckDB give the report's AUC to 1e-9."""
    served(tmp_path / "ledger", 1000)
    report = report_of(tmp_path / "ledger")
    files = export_parquet(tmp_path / "ledger", tmp_path)
    query = f"""
        WITH labelled AS (
            SELECT p.score, l.label
            FROM '{files.predictions}' p JOIN '{files.labels}' l USING (prediction_id)
        ), ranked AS (
            SELECT label, rank() OVER (ORDER BY score)
                + (count(*) OVER (PARTITION BY score) - 1) / 2.0 AS mid_rank
            FROM labelled
        )
        SELECT (sum(mid_rank) FILTER (label = 1) - count(*) FILTER (label = 1)
                * (count(*) FILTER (label = 1) + 1) / 2.0)
            / (count(*) FILTER (label = 1) * count(*) FILTER (label = 0))
        FROM ranked
    """
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchone()
    assert found is not None
    assert found[0] == pytest.approx(report.overall.auc, abs=1e-9)


def test_only_mature_predictions_count() -> None:
    """A prediction younger than the horizon is in no score, with or without its label."""
    table = joined(score=[0.9] * 10, label=[1.0] * 10, observed_at=[k + 1.0 for k in range(10)])
    report = score_served(table, horizon_s=4, now=9.5)
    assert (report.mature, report.immature) == (6, 4)
    assert report.overall.predictions == report.overall.labelled == 6
    assert score_served(table, horizon_s=4).now == 10.0
    assert score_served(table, horizon_s=0, now=9.5).immature == 0
    assert score_served(table, horizon_s=1e9, now=9.5).overall.labelled == 0


def test_the_event_time_is_the_moment_of_a_prediction() -> None:
    """What is replayed later keeps its place: order, age and delay are those of the event."""
    table = joined(
        score=[0.1, 0.2, 0.3],
        time=[100.0, 101.0, 102.0],
        event_time=[3.0, None, 1.0],
        label=[0.0, 1.0, 1.0],
        observed_at=[5.0, 103.0, 2.0],
    )
    report = score_served(table, horizon_s=2, now=4.0)
    assert report.mature == 1
    assert report.overall.label_delay_s == {"p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0}
    curve = score_served(table).overall.curve
    assert [point.time for point in curve] == [1.0, 3.0, 101.0]


def test_informative_delay_does_not_bias_what_is_mature() -> None:
    """Positives are labelled at once, negatives late: the mature score shows the true loss.

    Scoring what has arrived, which ``horizon_s=None`` does, is far off: that is why arrival order
    must not decide anything.
    """
    random = np.random.default_rng(2)
    n, late = 4000, 2000.0
    truth = random.random(n) < 0.3
    scores = np.full(n, 0.3)
    now = float(n)
    observed = np.arange(n) + np.where(truth, 10.0, late)
    seen = observed <= now
    table = joined(
        score=scores.tolist(),
        label=[float(t) if s else None for t, s in zip(truth, seen, strict=True)],
        observed_at=[o if s else None for o, s in zip(observed, seen, strict=True)],
    )
    true_loss = reference.log_loss(truth, scores)
    mature = score_served(table, horizon_s=late, now=now).overall
    arrived = score_served(table, now=now).overall
    assert mature.coverage == 1.0
    assert mature.loss == pytest.approx(true_loss, abs=0.03)
    assert arrived.loss is not None
    assert arrived.loss > true_loss + 0.05
    assert mature.late == 0


def test_labels_after_the_horizon_are_counted_and_shown() -> None:
    """They are truth; a decision at the horizon could not have known them."""
    table = joined(score=[0.9, 0.8], label=[1.0, 1.0], observed_at=[5.0, 50.0])
    assert score_served(table, horizon_s=10, now=100.0).overall.late == 1


def test_the_baseline_knows_only_the_past() -> None:
    """Each prediction's constant forecast is made of the labels before it, with Laplace's start."""
    labels = [1.0, 0.0, 1.0, 1.0]
    found = score_served(joined(score=[0.5] * 4, label=labels)).overall
    forecasts = [1 / 2, 2 / 3, 2 / 4, 3 / 5]
    expected = -np.mean([np.log(p if y else 1 - p) for p, y in zip(forecasts, labels, strict=True)])
    assert found.baseline_loss == pytest.approx(expected, abs=1e-12)
    assert found.prevalence == 0.75


def test_the_curve_ends_in_the_score() -> None:
    """Its points rise in n, number at most 200, and the last is the whole."""
    random = np.random.default_rng(3)
    scores = random.random(3000)
    labels = (random.random(3000) < scores) * 1.0
    found = score_served(joined(score=scores.tolist(), label=labels.tolist())).overall
    assert len(found.curve) == 200
    assert [p.n for p in found.curve] == sorted({p.n for p in found.curve})
    last = found.curve[-1]
    assert (last.n, last.time) == (3000, 2999.0)
    assert last.loss == pytest.approx(found.loss, abs=1e-12)
    assert last.baseline_loss == pytest.approx(found.baseline_loss, abs=1e-12)
    window = reference.log_loss(labels[-500:], scores[-500:])
    assert last.window_loss == pytest.approx(window, abs=1e-9)


def test_the_order_of_the_rows_given_does_not_matter() -> None:
    """Prediction order is made here, from times; whoever shuffled the table changes nothing."""
    random = np.random.default_rng(4)
    scores = random.random(300)
    table = joined(score=scores.tolist(), label=(random.random(300) < 0.5).astype(float).tolist())
    shuffled = table.take(pa.array(random.permutation(300)))
    assert score_served(shuffled) == score_served(table)


def test_few_labels_are_no_error() -> None:
    """No prediction, no label, one class: what is not defined is None, and says why."""
    nothing = score_served(joined(score=[]), horizon_s=5.0)
    assert (nothing.now, nothing.overall.coverage, nothing.versions) == (None, None, {})
    unlabelled = score_served(joined(score=[0.5, 0.6])).overall
    assert (unlabelled.labelled, unlabelled.loss, unlabelled.coverage) == (0, None, 0.0)
    assert unlabelled.reasons == ("no mature prediction has a label",)
    one = score_served(joined(score=[0.5, 0.6], label=[1.0, 1.0])).overall
    assert (one.auc, one.accuracy) == (None, 0.5)
    assert one.reasons == ("AUC needs labels of both classes",)


def test_text_labels_have_a_positive_text() -> None:
    """A label of the other kind than ``positive`` is of no use, and counted as such."""
    table = joined(
        score=[0.9, 0.2, 0.6, 0.5],
        label=[None, None, 1.0, None],
        label_text=["yes", "no", None, None],
    )
    found = score_served(table, positive="yes").overall
    assert (found.labelled, found.unusable, found.auc, found.accuracy) == (2, 1, 1.0, 1.0)
    assert "1 labelled predictions" in found.reasons[0]
    numbers = score_served(table, positive=1).overall
    assert (numbers.labelled, numbers.unusable) == (1, 2)


def test_answers_without_a_score_are_counted_not_guessed() -> None:
    """A default answer may have no probability; one outside 0 … 1 is none."""
    table = joined(
        score=[0.9, None, 2.0],
        outputs=['{"probabilities":[0.1,0.9]}', '{"label":1}', '{"probabilities":[0,2.0]}'],
        label=[1.0, 1.0, 1.0],
        source=["model", "default", "model"],
    )
    report = score_served(table)
    assert (report.overall.labelled, report.overall.unusable) == (1, 2)
    assert report.sources["default"].unusable == 1


def test_rounding_beyond_one_is_forgiven() -> None:
    """Sums of float32 end a little above 1; they are certain, and keep their order for AUC."""
    scores = [1.0000001, 1.0, 0.5, -0.0000001]
    found = score_served(joined(score=scores, label=[1.0, 0.0, 1.0, 0.0])).overall
    assert (found.labelled, found.unusable) == (4, 0)
    assert found.auc == 0.75
    assert found.brier == pytest.approx((0 + 1 + 0.25 + 0) / 4)


def test_regressions_have_errors() -> None:
    """``value`` is a number to be near to; the baseline is the mean of the labels before."""
    table = joined(
        score=[1.0, 2.0, 4.0],
        outputs=['{"value":1.0}', '{"value":2.0}', '{"value":4.0}'],
        label=[1.0, 4.0, 3.0],
    )
    report = score_served(table, output="value")
    found = report.overall
    assert report.kind == "regression"
    assert found.rmse == pytest.approx(np.sqrt(5 / 3))
    assert found.loss == pytest.approx(5 / 3)
    assert found.mae == 1.0
    assert found.baseline_loss == pytest.approx(((4 - 1) ** 2 + (3 - 2.5) ** 2) / 2)
    assert (found.auc, found.accuracy) == (None, None)


def test_more_than_two_classes_are_judged_by_the_class() -> None:
    """The label is the number of the class (log loss) or the label that was answered (accuracy)."""
    outputs = [
        {"label": 2, "probabilities": [0.1, 0.2, 0.7]},
        {"label": 0, "probabilities": [0.6, 0.3, 0.1]},
        {"label": 1, "probabilities": [0.1, 0.8, 0.1]},
    ]
    table = joined(
        score=[0.7, 0.1, 0.1],
        outputs=[json.dumps(each) for each in outputs],
        label=[2.0, 1.0, None],
        label_text=[None, None, "one"],
    )
    report = score_served(table)
    assert report.kind == "multiclass"
    assert report.overall.accuracy == pytest.approx(1 / 3)
    assert report.overall.loss == pytest.approx(-np.mean(np.log([0.7, 0.3])))
    assert (report.overall.auc, report.overall.baseline_loss) == (None, None)
    assert len(report.overall.reasons) == 2


def test_another_output_may_hold_the_probabilities() -> None:
    """Models that name it otherwise are judged by that name; a lone number is the positive's."""
    table = joined(
        score=[None, None],
        outputs=['{"chance":0.9}', '{"chance":[[0.8,0.2]]}'],
        label=[1.0, 0.0],
    )
    assert score_served(table, output="chance").overall.auc == 1.0


def test_a_wrong_table_is_refused() -> None:
    """A missing column is named; a horizon is not negative."""
    with pytest.raises(InvalidInput, match="no column 'score'"):
        score_served(joined(score=[0.5]).drop_columns("score"))
    for horizon in (-1.0, float("nan")):
        with pytest.raises(InvalidInput, match="horizon"):
            score_served(joined(score=[0.5]), horizon_s=horizon)


def test_a_report_is_plain_data() -> None:
    """``to_dict`` can be written as JSON and read back as the same report."""
    report = score_served(joined(score=[0.5, 0.9], label=[0.0, 1.0], observed_at=[1.0, 2.0]))
    text = json.dumps(report.to_dict())
    assert msgspec.json.decode(text, type=ProgressiveReport) == report
