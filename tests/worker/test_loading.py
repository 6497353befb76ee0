"""A worker in an environment of its own checks a model's files before it loads any."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tidemill_worker.functions import Corrupted, InvalidModel
from tidemill_worker.loading import open_model, verify

CODE = b"def predict(x: float) -> float:\n    return x + 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with one function."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "adds.py").write_bytes(CODE)
    manifest = {
        "name": "adds",
        "runtime": "python",
        "entry": "code/adds.py",
        "signature": {
            "inputs": [{"name": "x", "type": "float64"}],
            "outputs": [{"name": "value", "type": "float64"}],
        },
        "files": {"code/adds.py": hashlib.sha256(CODE).hexdigest()},
        "runtime_options": {"function": "adds:predict"},
    }
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    return tmp_path


def test_whole_it_is_loaded(folder: Path) -> None:
    """A folder as it was written answers."""
    model = open_model(folder, trust_code=True, threads=1)
    assert [column.name for column in model.signature.inputs] == ["x"]
    model.close()


def test_a_changed_missing_or_added_file_is_refused(folder: Path) -> None:
    """Whatever is not what ``model.json`` names is told by its name, and nothing is loaded."""
    source = folder / "code" / "adds.py"
    source.write_bytes(CODE + b"#")
    with pytest.raises(Corrupted, match=r"adds\.py.*not what was written"):
        open_model(folder, trust_code=True, threads=1)
    source.unlink()
    with pytest.raises(Corrupted, match=r"adds\.py"):
        verify(folder)
    source.write_bytes(CODE)
    (folder / "more").write_bytes(b"")
    with pytest.raises(Corrupted, match=r"more.*not the model's"):
        verify(folder)
    (folder / "more").unlink()
    source.rename(folder.parent / "aside.py")
    source.symlink_to(folder.parent / "aside.py")
    with pytest.raises(Corrupted, match="not the model's"):
        verify(folder)


def test_no_manifest_is_no_model(tmp_path: Path) -> None:
    """The refusal names the folder."""
    with pytest.raises(InvalidModel, match="no model folder"):
        verify(tmp_path)
