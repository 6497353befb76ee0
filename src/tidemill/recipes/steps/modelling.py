"""Trainer and Compiler: from examples to a model folder that may be served."""

from __future__ import annotations

from pathlib import Path

import joblib
import msgspec
import pyarrow.parquet as pq

from tidemill.models.packagers.sklearn import package_sklearn
from tidemill.models.signature import Signature
from tidemill.recipes.steps.examples import EVALUATION, TRAIN
from tidemill.training.examples import feature_batch
from tidemill.training.trainer import TrainingPlan, fit

ESTIMATOR = "estimator.joblib"
MAX_VERIFIED_ROWS = 20_000
"""At most so many evaluation rows are asked of both the original and the compiled model."""


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What the trainer made, and from how many rows."""

    rows: int
    signature: Signature


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model was compiled and found equal, and what it gained."""

    runtime: str
    equal: bool
    reason: str | None
    rows: int
    max_difference: float | None
    batch_1_ms: float | None
    original_batch_1_ms: float | None


def trainer(examples: Path, plan: TrainingPlan, code: str | None, out: Path) -> Trained:
    """Fits the estimator on the training split.

    Args:
        examples: the splits.
        plan: what is fitted.
        code: the hash of the plan's own function, if it names one: a changed function is fitted
            anew.
        out: where the estimator goes.
    """
    assert code is None or ":" in plan.kind
    table = pq.read_table(examples / TRAIN)
    estimator, signature = fit(table, plan)
    joblib.dump(estimator, out / ESTIMATOR)
    return Trained(rows=table.num_rows, signature=signature)


def compiler(
    trained: Path,
    signature: Signature,
    examples: Path,
    name: str,
    lineage: dict[str, str | list[str]],
    out: Path,
) -> Compiled:
    """Packages the estimator, compiled if it answers evaluation rows equally when compiled.

    Args:
        trained: the trainer's folder; its file was verified by the runner just before.
        signature: the model's columns.
        examples: the splits; the evaluation split is what both are asked.
        name: the model's name.
        lineage: what it is made from.
        out: becomes the model folder.
    """
    estimator = joblib.load(trained / ESTIMATOR)
    rows = pq.read_table(examples / EVALUATION).slice(0, MAX_VERIFIED_ROWS)
    manifest = package_sklearn(
        estimator, name, signature, out, feature_batch(rows, signature.inputs), lineage=lineage
    )
    report = manifest.compiled_from
    assert report is not None
    latency, original = manifest.latency, report.original_latency
    return Compiled(
        runtime=manifest.runtime,
        equal=report.equal,
        reason=report.reason,
        rows=report.rows,
        max_difference=report.max_difference,
        batch_1_ms=None if latency is None else latency.batch_1_s * 1000,
        original_batch_1_ms=None if original is None else original.batch_1_s * 1000,
    )
