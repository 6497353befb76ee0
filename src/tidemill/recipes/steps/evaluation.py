"""Evaluator: the candidate against the champion and a constant, on rows neither was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.models.runtime import open_runtime
from tidemill.recipes.steps.examples import EVALUATION
from tidemill.training.evaluator import (
    Blessing,
    BlessingRules,
    EvaluationReport,
    compare,
    evaluate,
)
from tidemill.training.examples import feature_batch, label_array

CHUNK = 8192


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How good the candidate and the champion are on the same rows, and whether it is blessed."""

    candidate: EvaluationReport
    champion: EvaluationReport | None
    blessing: Blessing


def evaluator(
    model: Path,
    champion: list[Path],
    examples: Path,
    label: str,
    slices: tuple[str, ...],
    rules: BlessingRules,
) -> Verdict:
    """Asks the candidate, as it would be served, and the champion, if there is one.

    Args:
        model: the candidate's folder.
        champion: the champion's folder, or nothing.
        examples: the splits; the evaluation split is asked.
        label: the column of the truth.
        slices: columns by whose values the report is divided.
        rules: what the candidate must pass.
    """
    table = pq.read_table(examples / EVALUATION)
    labels = label_array(table, label)
    by = {name: table[name].to_numpy(zero_copy_only=False) for name in slices}
    candidate = evaluate(score(model, table), labels, by)
    before = evaluate(score(champion[0], table), labels, by) if champion else None
    return Verdict(candidate=candidate, champion=before, blessing=compare(candidate, before, rules))


def score(model: Path, table: pa.Table) -> np.ndarray[Any, Any]:
    """Returns a model's score for each row: the last class's probability, or the value.  # (n,)"""
    runtime = open_runtime(model, trust_code=True)
    try:
        batch = feature_batch(table, runtime.signature.inputs)
        parts = []
        for start in range(0, table.num_rows, CHUNK):
            rows = {name: array[start : start + CHUNK] for name, array in batch.items()}
            answers = runtime.predict(rows)
            found = answers.get("probabilities")
            parts.append(answers["value"] if found is None else found[:, -1])
    finally:
        runtime.close()
    return np.concatenate(parts).astype(np.float64)
