"""What every runtime promises, over every kind of model: a runtime is added here by one entry."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.models.format import MANIFEST, ORIGINAL, read_manifest
from tidemill.models.packagers.boosted import package_lightgbm, package_xgboost
from tidemill.models.packagers.mlflow import package_pyfunc
from tidemill.models.packagers.python import package_function
from tidemill.models.packagers.sklearn import package_pickle
from tidemill.models.packagers.torch import package_torch
from tidemill.models.packaging import Given
from tidemill.models.runtime import RUNTIMES, Opener, Runtime, open_runtime, runs_code
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill.models.signature import Batch, Column, Signature, check_batch
from tidemill_worker.loading import open_model

NUMBERS = np.random.default_rng(11).normal(size=(400, 4))
CLASSES = np.digitize(NUMBERS[:, 0] + NUMBERS[:, 1] ** 2, [0.5, 1.5])


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model in one runtime.

    Args:
        folder: the packaged model.
        rows: at least 64 that it answers, as ``check_batch`` returns them.
        own: what the framework itself answers, in the signature's names and types.
        library: the module without which it cannot be opened; None if there is none.
        extra: of Tidemill's, that brings the library.
        parallel: a call with two threads starts one, where many rows are asked.
        opens: the function that opens it.
    """

    folder: Path
    rows: Batch
    own: Callable[[Batch], Batch]
    library: str | None
    extra: str | None
    parallel: bool
    opens: Callable[..., Any] = open_runtime

    def open(self, *, trust_code: bool = True, threads: int = 1) -> Runtime:
        """Opens it."""
        runtime: Runtime = self.opens(self.folder, trust_code=trust_code, threads=threads)
        return runtime

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return read_manifest(self.folder).signature

    def head(self, n: int) -> Batch:
        """Returns the first rows."""
        return {name: array[:n] for name, array in self.rows.items()}


Maker = Callable[[pytest.FixtureRequest, Path], Subject]


def compiled(example: str) -> Maker:
    """An estimator of ``conftest.py``, compiled."""

    def make(request: pytest.FixtureRequest, folder: Path) -> Subject:
        found = request.getfixturevalue(example)
        return Subject(
            folder=found.folder,
            rows=found.rows,
            own=SklearnRuntime(found.estimator, found.signature).predict,
            library="onnxruntime",
            extra="onnx",
            parallel=True,
        )

    return make


def estimator(example: str) -> Maker:
    """The same, as it is."""

    def make(request: pytest.FixtureRequest, folder: Path) -> Subject:
        found = request.getfixturevalue(example)
        original = found.folder / ORIGINAL
        return Subject(
            folder=original if original.exists() else found.folder,
            rows=found.rows,
            own=SklearnRuntime(found.estimator, found.signature).predict,
            library="sklearn",
            extra="sklearn",
            parallel=True,
        )

    return make


def isolated_estimator(request: pytest.FixtureRequest, folder: Path) -> Subject:
    """An estimator where there is nothing of Tidemill's but the worker."""
    found = request.getfixturevalue("digits")
    return Subject(
        folder=found.folder / ORIGINAL,
        rows=found.rows,
        own=SklearnRuntime(found.estimator, found.signature).predict,
        library=None,
        extra=None,
        parallel=True,
        opens=open_model,
    )


FUNCTION = """
import numpy as np

def predict(batch):
    if batch["word"].ndim > 1:
        raise ValueError("one word at a time")
    return {"shout": [word.upper() for word in batch["word"]], "half": batch["x"] / 2}
"""


def function(opens: Callable[..., Any] = open_runtime) -> Maker:
    """A Python function, among Tidemill's libraries or where there is only the worker."""

    def make(request: pytest.FixtureRequest, folder: Path) -> Subject:
        (folder / "shouting.py").write_text(FUNCTION)
        signature = Signature(
            (Column("x", "float32", (2,)), Column("word", "string")),
            (Column("shout", "string"), Column("half", "float32", (2,))),
        )
        source, place = folder / "shouting.py", folder / "packaged"
        package_function(source, "function", place, Given(signature=signature))
        numbers = np.arange(200, dtype=np.float32).reshape(100, 2)
        words = np.array([f"wörd{i}" for i in range(100)], dtype=object)
        return Subject(
            folder=place,
            rows={"x": numbers, "word": words},
            own=lambda rows: {
                "shout": np.array([word.upper() for word in rows["word"]], dtype=object),
                "half": rows["x"] / 2,
            },
            library=None,
            extra=None,
            parallel=False,
            opens=opens,
        )

    return make


def network(kind: str, *, compiles: bool = False) -> Maker:
    """A network of ``conftest.py``, as PyTorch saved it, or compiled."""

    def make(request: pytest.FixtureRequest, folder: Path) -> Subject:
        found = request.getfixturevalue(kind)
        package_torch(
            found.path,
            "network",
            folder / "model",
            Given(signature=found.signature, compiles=compiles),
        )
        return Subject(
            folder=folder / "model",
            rows=found.rows,
            own=found.own,
            library="onnxruntime" if compiles else "torch",
            extra="onnx" if compiles else "torch",
            parallel=True,
        )

    return make


def lightgbm(*, original: bool) -> Maker:
    """A text file of LightGBM's with three classes, as it is or compiled."""

    def make(request: pytest.FixtureRequest, folder: Path) -> Subject:
        import lightgbm as library

        x, y = NUMBERS, CLASSES
        options = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_leaves": 8}
        library.train(options, library.Dataset(x, y), 10).save_model(folder / "model.txt")
        package_lightgbm(folder / "model.txt", "m", folder / "m", Given(rows=lambda _: {"x": x}))
        booster = library.Booster(model_file=folder / "model.txt")
        return Subject(
            folder=folder / "m" / ORIGINAL if original else folder / "m",
            rows={"x": x},
            own=lambda rows: classified(booster.predict(rows["x"])),
            library="lightgbm" if original else "onnxruntime",
            extra="lightgbm" if original else "onnx",
            parallel=True,
        )

    return make


def xgboost(*, original: bool) -> Maker:
    """XGBoost's own file with named columns and a probability, as it is or compiled."""

    def make(request: pytest.FixtureRequest, folder: Path) -> Subject:
        import xgboost as library

        names = ["width", "height", "depth", "weight"]
        given = library.DMatrix(NUMBERS, CLASSES > 1, feature_names=names)
        booster = library.train({"objective": "binary:logistic", "max_depth": 4}, given, 20)
        booster.save_model(folder / "model.ubj")
        rows = dict(zip(names, NUMBERS.astype(np.float32).T, strict=True))
        package_xgboost(folder / "model.ubj", "m", folder / "m", Given(rows=lambda _: rows))

        def own(rows: Batch) -> Batch:
            matrix = library.DMatrix(np.column_stack(list(rows.values())), feature_names=names)
            likely = booster.predict(matrix)
            return classified(np.stack([1 - likely, likely], axis=1))

        return Subject(
            folder=folder / "m" / ORIGINAL if original else folder / "m",
            rows=rows,
            own=own,
            library="xgboost" if original else "onnxruntime",
            extra="xgboost" if original else "onnx",
            parallel=True,
        )

    return make


def classified(probabilities: Any) -> Batch:
    """Labels and probabilities as boosters give them."""
    labels = probabilities.argmax(axis=1).astype(np.int64)
    return {"label": labels, "probabilities": probabilities.astype(np.float32)}


def river(example: str, opens: Callable[..., Any] = open_runtime) -> Maker:
    """A model of River's of ``conftest.py``, from its file."""

    def make(request: pytest.FixtureRequest, folder: Path) -> Subject:
        found = request.getfixturevalue("streams")[example]
        package_pickle(found.path, "river", folder / "packaged", Given())
        return Subject(
            folder=folder / "packaged",
            rows=found.rows,
            own=found.own,
            library="river" if opens is open_runtime else None,
            extra="river" if opens is open_runtime else None,
            parallel=False,
            opens=opens,
        )

    return make


def mlflow_frame(request: pytest.FixtureRequest, folder: Path) -> Subject:
    """A Python model of MLflow's, which takes a data frame and gives one."""
    saved = request.getfixturevalue("save_pyfunc")(folder / "saved")
    rows: Batch = {
        "a": np.linspace(-3, 3, 80),
        "b": np.arange(80),
        "word": np.array([f"wörd{i}" for i in range(80)], dtype=object),
    }
    package_pyfunc(saved, "pyfunc", folder / "packaged", Given())
    return Subject(
        folder=folder / "packaged",
        rows=rows,
        own=lambda batch: {
            "total": batch["a"] + batch["b"],
            "shout": np.array([word.upper() for word in batch["word"]], dtype=object),
        },
        library="mlflow",
        extra="mlflow",
        parallel=False,
    )


SUBJECTS: dict[str, Maker] = {
    "onnx-digits": compiled("digits"),
    "onnx-delays": compiled("delays"),
    "onnx-minutes": compiled("minutes"),
    "sklearn-digits": estimator("digits"),
    "sklearn-delays": estimator("delays"),
    "sklearn-minutes": estimator("minutes"),
    "sklearn-scaled": estimator("scaled"),
    "torch-script": network("script"),
    "torch-exported": network("exported"),
    "onnx-from-script": network("script", compiles=True),
    "onnx-from-exported": network("exported", compiles=True),
    "lightgbm-classes": lightgbm(original=True),
    "onnx-lightgbm": lightgbm(original=False),
    "xgboost-named": xgboost(original=True),
    "onnx-xgboost": xgboost(original=False),
    "isolated-estimator": isolated_estimator,
    "python-function": function(),
    "isolated-function": function(open_model),
    "river-classifier": river("classifier"),
    "river-regressor": river("regressor"),
    "river-detector": river("detector"),
    "isolated-river": river("classifier", open_model),
    "mlflow-frame": mlflow_frame,
}
"""A maker for each model; it is given an empty folder."""


@pytest.fixture(scope="session")
def made() -> dict[str, Subject]:
    """What was made already: order is random, and each is made once."""
    return {}


@pytest.fixture(params=SUBJECTS)
def subject(
    request: pytest.FixtureRequest,
    made: dict[str, Subject],
    tmp_path_factory: pytest.TempPathFactory,
) -> Subject:
    """Every kind of model in every runtime."""
    name = request.param
    if name not in made:
        made[name] = SUBJECTS[name](request, tmp_path_factory.mktemp(name))
    return made[name]


def assert_answers(got: Batch, expected: Batch) -> None:
    """Labels are the same, numbers within what 32 bits of floating point leave open."""
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(got[name], array)


def assert_raises(kind: str, act: Callable[[], object], said: str | None = None) -> None:
    """The error has this name: what a worker raises becomes Tidemill's own by its name."""
    with pytest.raises(Exception, match=said) as caught:
        act()
    assert type(caught.value).__name__ == kind


@pytest.mark.parametrize("rows", [0, 1, 7, 64])
def test_answers_are_what_the_signature_says(subject: Subject, rows: int) -> None:
    """Outputs come in the signature's order, types and shapes, for any number of rows."""
    runtime = subject.open()
    assert [column.name for column in runtime.signature.outputs] == [
        column.name for column in subject.signature.outputs
    ]
    answer = runtime.predict(subject.head(rows))
    assert list(answer) == [column.name for column in subject.signature.outputs]
    for column in subject.signature.outputs:
        assert answer[column.name].dtype == column.dtype
        assert answer[column.name].shape == (rows, *column.shape)
    runtime.close()


def test_answers_are_the_frameworks_own(subject: Subject) -> None:
    """Whatever the runtime, a model answers as where it was made."""
    runtime = subject.open()
    assert_answers(runtime.predict(subject.rows), subject.own(subject.rows))
    runtime.close()


def test_a_batch_answers_as_its_rows_do(subject: Subject) -> None:
    """A row's answer does not depend on its neighbours."""
    runtime = subject.open()
    rows = subject.head(32)
    singles = [
        runtime.predict({name: array[i : i + 1] for name, array in rows.items()}) for i in range(32)
    ]
    joined = {name: np.concatenate([s[name] for s in singles]) for name in singles[0]}
    assert_answers(joined, runtime.predict(rows))
    runtime.close()


def test_text_answers_are_python_strings(subject: Subject) -> None:
    """Labels of text are str, as JSON and the ledger need them."""
    runtime = subject.open()
    answer = runtime.predict(subject.head(3))
    for column in subject.signature.outputs:
        if column.type == "string":
            assert [type(text) for text in answer[column.name]] == [str] * 3
    runtime.close()


def test_checked_rows_in_other_layouts_answer_alike(subject: Subject) -> None:
    """Lists, reversed views and columns in another order make no difference once checked."""
    runtime, signature = subject.open(), subject.signature
    lists = {name: array[:9].tolist() for name, array in reversed(subject.rows.items())}
    views = {name: array[8::-1] for name, array in subject.rows.items()}
    expected = runtime.predict(subject.head(9))
    assert_answers(runtime.predict(check_batch(signature, lists)), expected)
    backwards = runtime.predict(check_batch(signature, views))
    assert_answers({k: v[::-1] for k, v in backwards.items()}, expected)
    runtime.close()


def test_many_threads_may_ask_at_once(subject: Subject) -> None:
    """Concurrent calls answer as calls one after another."""
    runtime = subject.open()
    batches = [{k: v[i * 5 : i * 5 + 5] for k, v in subject.rows.items()} for i in range(12)]
    expected = [runtime.predict(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(runtime.predict, batches), expected, strict=True):
            assert_answers(got, wanted)
    runtime.close()


def test_a_closed_model_says_so(subject: Subject) -> None:
    """After close, twice even, predict raises NotReady, for no rows too."""
    runtime = subject.open()
    runtime.close()
    runtime.close()
    for rows in (0, 1):
        assert_raises("NotReady", lambda n=rows: runtime.predict(subject.head(n)), "closed")


def test_what_the_model_itself_refuses_is_the_callers_error(subject: Subject) -> None:
    """A batch that passes no check ends as InvalidInput, never as the framework's error."""
    runtime, rows = subject.open(), subject.head(2)
    rows[subject.signature.inputs[-1].name] = np.full((2, 3, 3), "x", dtype=object)
    assert_raises("InvalidInput", lambda: runtime.predict(rows))
    runtime.close()


def changed(subject: Subject, folder: Path, **fields: Any) -> Subject:
    """A copy whose manifest says something else."""
    copy = Path(shutil.copytree(subject.folder, folder / "copy"))
    manifest = json.loads((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).write_text(json.dumps(manifest | fields))
    return Subject(**{**subject.__dict__, "folder": copy})


def test_a_changed_file_is_not_loaded(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte that is not what was written, and nothing is given to the framework."""
    copy = changed(subject, tmp_path)
    manifest = read_manifest(copy.folder)
    entry = copy.folder / manifest.entry
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.chmod(0o600)
    entry.write_bytes(data)
    if manifest.runtime in RUNTIMES:
        trust = RUNTIMES[manifest.runtime].trust
        monkeypatch.setitem(RUNTIMES, manifest.runtime, Opener(trust=trust, open=pytest.fail))
    assert_raises("Corrupted", copy.open)


def test_code_needs_somebodys_word(subject: Subject, tmp_path: Path) -> None:
    """Where loading runs code, it needs trust, whatever a manifest claims; data needs none."""
    manifest = read_manifest(subject.folder)
    if runs_code(manifest):
        for trust in ("code", "data"):
            copy = changed(subject, tmp_path / trust, trust=trust)
            assert_raises("NotTrusted", lambda at=copy: at.open(trust_code=False))
    else:
        subject.open(trust_code=False).close()


def test_a_missing_library_is_named(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its framework a model is Unavailable, and the error says what to install."""
    if subject.library is None:  # it has an environment of its own, or needs what Tidemill does
        assert subject.opens is open_model or read_manifest(subject.folder).runtime == "python"
        return
    monkeypatch.setitem(sys.modules, subject.library, None)
    with pytest.raises(Exception, match="need") as caught:
        subject.open()
    assert type(caught.value).__name__ == "Unavailable"
    assert f"pip install 'tidemill[{subject.extra}]'" in str(caught.value)


COUNTING = """
import importlib, json, os, sys, threading
from pathlib import Path
import numpy as np
import threadpoolctl

folder, opens, stored = sys.argv[1:]
module, name = opens.split(":")
started, start = [], threading.Thread.start
threading.Thread.start = lambda self: (started.append(self), start(self))[1]
with np.load(stored) as arrays:
    rows = {n: a.astype(object) if a.dtype.kind == "U" else a for n, a in arrays.items()}

def count(threads):
    model = getattr(importlib.import_module(module), name)(
        Path(folder), trust_code=True, threads=threads
    )
    before = len(os.listdir("/proc/self/task")), len(started)
    model.predict(rows)
    after = len(os.listdir("/proc/self/task")), len(started)
    model.close()
    return after[0] - before[0] + after[1] - before[1], before[0]

one, threads = count(1)
threadpoolctl.threadpool_limits(2, "openmp")  # as a worker's environment would say
two, more = count(2)
print(json.dumps([one, two + more - threads]))
"""


def test_a_call_uses_the_threads_that_it_may(subject: Subject, tmp_path: Path) -> None:
    """With one thread a call starts none; with two, what can use two does."""
    rows = {
        name: np.resize(array, (3000, *array.shape[1:])) for name, array in subject.rows.items()
    }
    plain = {name: a.astype("U") if a.dtype.kind == "O" else a for name, a in rows.items()}
    np.savez(tmp_path / "rows.npz", allow_pickle=False, **plain)
    opens = f"{subject.opens.__module__}:{subject.opens.__qualname__}"
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, str(subject.folder), opens, str(tmp_path / "rows.npz")],
        # Else OpenMP would start all its threads where a model is loaded, and none later.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    one, two = json.loads(done.stdout)
    assert one == 0
    assert (two > 0) == subject.parallel


def test_the_manifest_knows_what_a_call_costs(subject: Subject) -> None:
    """Every packaged model says how long one row and 64 rows take, and when it was made."""
    manifest = read_manifest(subject.folder)
    if subject.opens is open_model and not manifest.created_at:  # written by hand, above
        return
    assert manifest.latency is not None
    assert 0 < manifest.latency.batch_1_s < 1
    assert 0 < manifest.latency.batch_64_s < 1
    assert manifest.requirements
    assert manifest.created_at.endswith("Z")


def test_every_runtime_is_here() -> None:
    """What can be opened is tested: a runtime without an entry fails here."""
    named = {name.partition("-")[0] for name in SUBJECTS}
    assert set(RUNTIMES) <= named
