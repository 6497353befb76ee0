"""What every runtime promises, over every kind of model."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tidemill.foundation.errors import InvalidInput, NotReady
from tidemill.models.format import read_manifest
from tidemill.models.runtime import open_runtime
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill.models.signature import Batch, check_batch


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


@pytest.mark.parametrize("rows", [0, 1, 7, 64])
def test_answers_are_what_the_signature_says(served: Any, rows: int) -> None:
    """Outputs come in the signature's order, types and shapes, for any number of rows."""
    folder, example = served
    runtime = open_runtime(folder, trust_code=True)
    assert runtime.signature == example.signature
    answer = runtime.predict(example.head(rows))
    assert list(answer) == [column.name for column in example.signature.outputs]
    for column in example.signature.outputs:
        assert answer[column.name].dtype == column.dtype
        assert answer[column.name].shape == (rows, *column.shape)
    runtime.close()


def test_answers_are_the_estimators_own(served: Any) -> None:
    """Whatever the runtime, a model answers as the estimator that was packaged."""
    folder, example = served
    runtime = open_runtime(folder, trust_code=True)
    original = SklearnRuntime(example.estimator, example.signature)
    assert_answers(runtime.predict(example.rows), original.predict(example.rows))


def test_a_batch_answers_as_its_rows_do(served: Any) -> None:
    """A row's answer does not depend on its neighbours."""
    folder, example = served
    runtime = open_runtime(folder, trust_code=True)
    rows = example.head(32)
    singles = [
        runtime.predict({name: array[i : i + 1] for name, array in rows.items()}) for i in range(32)
    ]
    joined = {name: np.concatenate([s[name] for s in singles]) for name in singles[0]}
    assert_answers(joined, runtime.predict(rows))


def test_text_answers_are_python_strings(served: Any) -> None:
    """Labels of text are str, as JSON and the ledger need them."""
    folder, example = served
    answer = open_runtime(folder, trust_code=True).predict(example.head(3))
    for column in example.signature.outputs:
        if column.type == "string":
            assert [type(text) for text in answer[column.name]] == [str] * 3


def test_checked_rows_in_other_layouts_answer_alike(served: Any) -> None:
    """Lists, reversed views and columns in another order make no difference once checked."""
    folder, example = served
    runtime = open_runtime(folder, trust_code=True)
    lists = {name: array[:9].tolist() for name, array in reversed(example.rows.items())}
    views = {name: array[8::-1] for name, array in example.rows.items()}
    expected = runtime.predict(example.head(9))
    assert_answers(runtime.predict(check_batch(example.signature, lists)), expected)
    backwards = runtime.predict(check_batch(example.signature, views))
    assert_answers({k: v[::-1] for k, v in backwards.items()}, expected)


def test_many_threads_may_ask_at_once(served: Any) -> None:
    """Concurrent calls answer as calls one after another."""
    folder, example = served
    runtime = open_runtime(folder, trust_code=True)
    batches = [{k: v[i * 5 : i * 5 + 5] for k, v in example.rows.items()} for i in range(12)]
    expected = [runtime.predict(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(runtime.predict, batches), expected, strict=True):
            assert_answers(got, wanted)


def test_a_closed_model_says_so(served: Any) -> None:
    """After close, twice even, predict raises NotReady."""
    folder, example = served
    runtime = open_runtime(folder, trust_code=True)
    runtime.close()
    runtime.close()
    with pytest.raises(NotReady, match="closed"):
        runtime.predict(example.head(1))


def test_what_the_model_itself_refuses_is_the_callers_error(served: Any) -> None:
    """A batch that passes no check ends as InvalidInput, never as the framework's error."""
    folder, example = served
    runtime = open_runtime(folder, trust_code=True)
    rows = example.head(2)
    name = example.signature.inputs[-1].name
    rows[name] = np.full((2, 3, 3), "x", dtype=object)
    with pytest.raises(InvalidInput):
        runtime.predict(rows)


def test_the_manifest_knows_what_a_call_costs(served: Any) -> None:
    """Every packaged model says how long one row and 64 rows take, and when it was made."""
    folder, _ = served
    manifest = read_manifest(folder)
    assert manifest.latency is not None
    assert 0 < manifest.latency.batch_1_s < 1
    assert 0 < manifest.latency.batch_64_s < 1
    assert manifest.requirements
    assert manifest.created_at.endswith("Z")
