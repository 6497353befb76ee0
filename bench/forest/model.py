"""The work: a random forest of 100 trees on scikit-learn's digits, and questions to ask it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier


@dataclass(frozen=True, kw_only=True)
class Work:
    """The files of one benchmark; each line of a bodies file is one distinct question."""

    forest: Path
    sample: Path
    plain_bodies: Path
    v2_bodies: Path
    expected: Path
    questions: int


def make_work(folder: Path) -> Work:
    """Fits the forest and writes it with its questions (all 1,797 digits) and their answers."""
    digits = load_digits()
    rows = np.asarray(digits.data, np.float64)
    forest = RandomForestClassifier(100, random_state=0, n_jobs=-1).fit(rows, digits.target)
    forest.set_params(n_jobs=1)
    work = Work(
        forest=folder / "forest.joblib",
        sample=folder / "sample.npy",
        plain_bodies=folder / "plain.jsonl",
        v2_bodies=folder / "v2.jsonl",
        expected=folder / "expected.json",
        questions=len(np.unique(rows, axis=0)),
    )
    joblib.dump(forest, work.forest)
    np.save(work.sample, rows)
    lists = rows.tolist()
    _write_lines(work.plain_bodies, [{"x": row} for row in lists])
    _write_lines(work.v2_bodies, [_v2(row) for row in lists])
    answers = [
        {"label": int(row.argmax()), "probabilities": row.tolist()}
        for row in forest.predict_proba(rows)
    ]
    work.expected.write_text(json.dumps(answers), encoding="utf-8")
    return work


def _v2(row: list[float]) -> dict[str, object]:
    tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}
    return {"inputs": [tensor]}


def _write_lines(path: Path, bodies: list[dict[str, object]]) -> None:
    lines = (json.dumps(body, separators=(",", ":")) for body in bodies)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
