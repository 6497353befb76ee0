"""Pushing what is odd, and pushing it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tidemill.foundation.errors import InvalidInput, InvalidModel
from tidemill.foundation.home import Home
from tidemill.recipes.push import push_model

ROWS = np.random.default_rng(5).random((200, 4))
LABELS = (ROWS.sum(axis=1) > 2).astype(int)


def strict(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Takes numbers from 0 to 1 only."""
    if rows.min() < 0 or rows.max() > 1:
        raise ValueError("out of range")
    return rows


def test_the_same_file_is_the_same_version_in_another_process(home: Home, tmp_path: Path) -> None:
    """Pickling is not the same in every process; a version depends on the file alone."""
    path = tmp_path / "forest.joblib"
    joblib.dump(RandomForestClassifier(5, random_state=0).fit(ROWS, LABELS), path)
    program = (
        "import sys; from pathlib import Path\n"
        "from tidemill.foundation.home import open_home\n"
        "from tidemill.foundation.settings import Settings\n"
        "from tidemill.recipes.push import push_model\n"
        "with open_home(Settings(home=Path(sys.argv[1]))) as home:\n"
        "    print(push_model(home, Path(sys.argv[2]), 'forest', trust_code=True).version)\n"
    )
    command = (sys.executable, "-c", program, str(home.path), str(path))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert push_model(home, path, "forest", trust_code=True).version == 1


def test_a_model_that_refuses_made_up_rows_asks_for_real_ones(home: Home, tmp_path: Path) -> None:
    """It says which rows were refused, and that --sample brings others; with them it works."""
    path, sample = tmp_path / "strict.joblib", tmp_path / "rows.npy"
    estimator = make_pipeline(FunctionTransformer(strict), LogisticRegression())
    joblib.dump(estimator.fit(ROWS, LABELS), path)
    np.save(sample, ROWS)
    with pytest.raises(InvalidModel, match="--sample"):
        push_model(home, path, "strict", trust_code=True)
    assert push_model(home, path, "strict", trust_code=True, sample=sample).version == 1


def test_a_sample_of_bytes(home: Home, tmp_path: Path) -> None:
    """A sample that is no text is wrong input, whatever its bytes."""
    path, sample = tmp_path / "m.joblib", tmp_path / "rows.csv"
    joblib.dump(LogisticRegression().fit(ROWS, LABELS), path)
    sample.write_bytes(b"a\x80b,c\xff\n1,2\n")
    with pytest.raises(InvalidInput):
        push_model(home, path, "m", trust_code=True, sample=sample)
