"""From what people have to a model folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidInput, InvalidModel
from tidemill.models.format import read_manifest, verify_model
from tidemill.models.kinds import find_kind, is_model_folder
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.packagers.sklearn import infer_sklearn_signature, package_sklearn
from tidemill.models.packaging import measure_latency
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Batch, Column, Signature

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(200, 4))
Y = (X[:, 0] > 0).astype(np.int64)


def test_digits_are_one_vector_in_and_ten_classes_out(digits: Any) -> None:
    """A forest on a matrix has the input x and the outputs label and probabilities."""
    assert digits.signature == Signature(
        (Column("x", "float64", (64,)),),
        (Column("label", "int64"), Column("probabilities", "float32", (10,))),
    )


def test_encoders_tell_the_types_of_columns(flights_rows: Any, make_tabular: Any) -> None:
    """Columns that an encoder knows have the type of its categories, others are float64."""
    frame, _, labels = flights_rows
    inferred = infer_sklearn_signature(make_tabular(trees=2).fit(frame, labels))
    kinds = {column.name: column.type for column in inferred.inputs}
    assert kinds == {
        "carrier": "string",
        "month": "float64",
        "distance": "float64",
        "temperature": "float64",
    }
    assert inferred.outputs[0] == Column("label", "string")


def test_encoders_inside_pipelines_are_seen() -> None:
    """Integer categories behind a pipeline inside a column transformer are integers."""
    frame = pd.DataFrame({"a": [1, 2, 3, 1], "b": [True, False, True, True], "c": [0.5] * 4})
    columns = ColumnTransformer(
        [
            ("first", make_pipeline(OrdinalEncoder(), StandardScaler()), ["a"]),
            ("second", OrdinalEncoder(), ["b"]),
            ("rest", "passthrough", slice(2, 3)),
        ]
    )
    estimator = make_pipeline(columns, LinearRegression()).fit(frame, [1.0, 2.0, 3.0, 4.0])
    inferred = infer_sklearn_signature(estimator)
    assert [column.type for column in inferred.inputs] == ["int64", "bool", "float64"]
    assert inferred.outputs == (Column("value", "float32"),)


def test_several_values_are_one_vector(tmp_path: Path) -> None:
    """A regressor of three values gives a vector of three, compiled too."""
    estimator = RandomForestRegressor(5, random_state=0).fit(X, X[:, :3])
    manifest = package_sklearn(estimator, "three", None, tmp_path / "m", {"x": X})
    assert manifest.signature.outputs == (Column("value", "float32", (3,)),)
    assert manifest.runtime == "onnx", manifest.compiled_from
    answer = open_runtime(tmp_path / "m").predict({"x": X[:2]})
    np.testing.assert_allclose(answer["value"], estimator.predict(X[:2]), rtol=1e-5)


def test_without_evaluation_rows_the_estimator_is_served(tmp_path: Path) -> None:
    """Equality that nobody checked is not claimed: the original is served, with the reason."""
    manifest = package_sklearn(LogisticRegression().fit(X, Y), "m", None, tmp_path / "m", None)
    assert manifest.runtime == "sklearn"
    assert manifest.trust == "code"
    assert manifest.compiled_from is not None
    assert "no evaluation rows" in str(manifest.compiled_from.reason)
    answer = open_runtime(tmp_path / "m", trust_code=True).predict({"x": X[:5]})
    np.testing.assert_array_equal(answer["label"], Y[:5])


def test_made_up_rows_are_not_called_evaluation(tmp_path: Path) -> None:
    """The report says what the model was compared on."""
    estimator = LogisticRegression().fit(X, Y)
    sources: Any = ("evaluation", "probes")
    for source in sources:
        folder = tmp_path / source
        package_sklearn(estimator, "m", None, folder, {"x": X}, rows_from=source)
        report = read_manifest(folder).compiled_from
        assert report is not None
        assert report.rows_from == source


def test_lineage_and_metrics_are_kept(tmp_path: Path) -> None:
    """What it comes from and how good it was is written, in the original too."""
    facts: Any = {"lineage": {"run": "r1", "snapshots": ["s1"]}, "metrics": {"auc": 0.9}}
    estimator = LogisticRegression().fit(X, Y)
    made = package_sklearn(estimator, "m", None, tmp_path / "m", {"x": X}, **facts)
    for manifest in (made, read_manifest(tmp_path / "m"), read_manifest(tmp_path / "m/original")):
        assert manifest.lineage == facts["lineage"]
        assert manifest.metrics == facts["metrics"]
    verify_model(tmp_path / "m", made)


def test_packaging_leaves_the_estimator_as_it_was(tmp_path: Path) -> None:
    """The caller's estimator keeps its settings; the served one uses the threads it is given."""
    estimator = RandomForestClassifier(3, n_jobs=2, random_state=0).fit(X, Y)
    package_sklearn(estimator, "m", None, tmp_path / "m", None)
    assert estimator.n_jobs == 2
    runtime: Any = open_runtime(tmp_path / "m", trust_code=True, threads=1)
    assert runtime._estimator.n_jobs == 1


def test_the_same_estimator_is_the_same_content(tmp_path: Path) -> None:
    """Packaged twice, an estimator has one content, so that it is one version."""
    estimator = DecisionTreeClassifier(random_state=0).fit(X, Y)
    made = [package_sklearn(estimator, "m", None, tmp_path / n, {"x": X}) for n in "ab"]
    assert made[0].content_sha256 == made[1].content_sha256


@pytest.mark.parametrize(
    ("estimator", "signature", "message"),
    [
        (LogisticRegression(), None, "Fit it first"),
        (object(), None, "Fit it first"),
        (DecisionTreeClassifier().fit(X, np.column_stack([Y, Y])), None, "several outputs"),
        (
            LogisticRegression().fit(X, Y),
            Signature((Column("x", "float64", (9,)),), (Column("label", "int64"),)),
            "does not answer as its signature says",
        ),
        (
            LogisticRegression().fit(X, Y),
            Signature((Column("x", "float64", (4,)),), (Column("score", "int64"),)),
            "does not answer as its signature says",
        ),
        (
            LinearRegression().fit(X, Y),
            Signature((Column("x", "float64", (4,)),), (Column("value", "float32", (7,)),)),
            "not \\(2, 7\\)",
        ),
    ],
)
def test_estimators_that_do_not_fit_are_refused(
    estimator: Any, signature: Signature | None, message: str, tmp_path: Path
) -> None:
    """Unfitted estimators and signatures that are not theirs are refused before packaging."""
    with pytest.raises(InvalidModel, match=message):
        package_sklearn(estimator, "m", signature, tmp_path / "m", None)


def test_rows_and_folder_and_name_are_checked(tmp_path: Path) -> None:
    """Evaluation rows must fit, the folder must be empty, the name must be one."""
    estimator = LogisticRegression().fit(X, Y)
    with pytest.raises(InvalidInput, match="unknown: 'z'"):
        package_sklearn(estimator, "m", None, tmp_path / "m", {"z": X})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InvalidInput, match="not empty"):
        package_sklearn(estimator, "m", None, tmp_path / "full", None)
    with pytest.raises(InvalidInput, match="name"):
        package_sklearn(estimator, "../m", None, tmp_path / "m", None)


def write_onnx(path: Path, inputs: Any, outputs: Any, *nodes: Any) -> Path:
    """Writes a model with inputs and outputs of (name, type, shape)."""
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


FLOAT, DOUBLE, TEXT = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.STRING


def test_an_onnx_files_columns_are_inferred(tmp_path: Path) -> None:
    """Types and shapes come from the graph; outputs without a shape from an answer."""
    path = write_onnx(
        tmp_path / "m.onnx",
        [("image", FLOAT, ["n", 2, 3])],
        [("sum", FLOAT, None), ("same", FLOAT, ["n", 2, 3])],
        helper.make_node("ReduceMax", ["image"], ["sum"], keepdims=0),
        helper.make_node("Identity", ["image"], ["same"]),
    )
    with pytest.raises(InvalidModel, match="'sum' has the shape"):
        package_onnx(path, "m", tmp_path / "bad")
    path = write_onnx(
        tmp_path / "m.onnx",
        [("image", FLOAT, ["n", 2, 3])],
        [("shape", FLOAT, None), ("same", FLOAT, ["n", 2, 3])],
        helper.make_node("Flatten", ["image"], ["shape"]),
        helper.make_node("Identity", ["image"], ["same"]),
    )
    manifest = package_onnx(path, "m", tmp_path / "m", lineage={"source": "m.onnx"})
    assert manifest.signature == Signature(
        (Column("image", "float32", (2, 3)),),
        (Column("shape", "float32", (6,)), Column("same", "float32", (2, 3))),
    )
    assert manifest.trust == "data"
    assert manifest.latency is not None
    assert open_runtime(tmp_path / "m").signature == manifest.signature


def test_several_single_columns_are_scalars(tmp_path: Path) -> None:
    """Inputs of (n, 1) are scalars where there are several, as tabular exports have them."""
    path = write_onnx(
        tmp_path / "m.onnx",
        [("a", DOUBLE, [None, 1]), ("b", TEXT, [None, 1])],
        [("c", DOUBLE, [None, 1]), ("d", TEXT, [None, 1])],
        helper.make_node("Add", ["a", "a"], ["c"]),
        helper.make_node("Identity", ["b"], ["d"]),
    )
    manifest = package_onnx(path, "m", tmp_path / "m")
    assert manifest.signature.inputs == (Column("a", "float64"), Column("b", "string"))
    rows: Batch = {"a": np.array([1.0, 2.0]), "b": np.array(["é", ""], dtype=object)}
    answer = open_runtime(tmp_path / "m").predict(rows)
    np.testing.assert_array_equal(answer["c"], [[2.0], [4.0]])
    assert answer["d"].tolist() == [["é"], [""]]


def test_a_given_signature_renames_nothing_but_casts(tmp_path: Path) -> None:
    """A signature may hold wider numbers and scalars, and must name what the graph names."""
    path = write_onnx(
        tmp_path / "m.onnx",
        [("a", FLOAT, ["n", 1])],
        [("b", FLOAT, ["n", 1])],
        helper.make_node("Add", ["a", "a"], ["b"]),
    )
    wide = Signature((Column("a", "int64"),), (Column("b", "float64"),))
    package_onnx(path, "m", tmp_path / "m", wide)
    answer = open_runtime(tmp_path / "m").predict({"a": np.array([1, 2])})
    assert answer["b"].dtype == np.float64
    assert answer["b"].tolist() == [2.0, 4.0]
    for bad, message in (
        (Signature((Column("z", "int64"),), wide.outputs), "inputs are"),
        (Signature(wide.inputs, (Column("z", "float64"),)), "none of the model's"),
        (Signature((Column("a", "string"),), wide.outputs), "string"),
        (Signature((Column("a", "float32", (2,)),), wide.outputs), "in the model"),
        (Signature(wide.inputs, (Column("b", "string"),)), "string"),
        (Signature(wide.inputs, (Column("b", "float64", (5,)),)), "not"),
    ):
        with pytest.raises(InvalidModel, match=message):
            package_onnx(path, "m", tmp_path / "bad", bad)


@pytest.mark.parametrize(
    ("kind", "wide", "fits", "beyond"),
    [
        (FLOAT, "float64", [3.4e38, -3.4e38], [1.0, -1e39]),
        (TensorProto.FLOAT16, "float32", [65504.0, 1e-9], [7e4, 1.0]),
        (TensorProto.FLOAT16, "int64", [65504, -1], [1, 70_000]),
        (TensorProto.INT32, "int64", [2**31 - 1, -(2**31)], [0, 2**31]),
        (TensorProto.UINT8, "int64", [0, 255], [-1, 0]),
        (TensorProto.INT64, "uint64", [0, 2**63 - 1], [2**63, 1]),
        (FLOAT, "float64", [np.inf, np.nan], [1e308, np.inf]),
    ],
)
def test_a_number_that_the_graph_cannot_hold_is_refused(
    kind: int, wide: str, fits: list[float], beyond: list[float], tmp_path: Path
) -> None:
    """Neither infinity nor another number stands in for it; the error names input and value."""
    path = write_onnx(
        tmp_path / "m.onnx",
        [("a", kind, ["n"])],
        [("b", kind, ["n"])],
        helper.make_node("Identity", ["a"], ["b"]),
    )
    columns = Column("a", wide), Column("b", wide)
    package_onnx(path, "m", tmp_path / "m", Signature(columns[:1], columns[1:]))
    runtime = open_runtime(tmp_path / "m")
    answer = runtime.predict({"a": np.array(fits, wide)})["b"]
    np.testing.assert_allclose(answer.astype("float64"), fits, rtol=1e-6, atol=1e-7)
    with pytest.raises(InvalidInput, match="input 'a'") as caught:
        runtime.predict({"a": np.array(beyond, wide)})
    worst = max(np.array(beyond, wide), key=lambda x: (np.isfinite(x), abs(float(x))))
    assert f"has {worst!s}," in caught.value.what
    runtime.close()


@pytest.mark.parametrize(
    ("shape", "message"),
    [([1, 3], "dynamic first dimension"), (["n", "m"], "fixed sizes"), ([], "fixed shape")],
)
def test_the_batch_is_the_only_open_dimension(shape: Any, message: str, tmp_path: Path) -> None:
    """Graphs for a fixed batch, or with other open dimensions, are refused with the way out."""
    path = write_onnx(
        tmp_path / "m.onnx",
        [("a", FLOAT, shape)],
        [("b", FLOAT, shape)],
        helper.make_node("Add", ["a", "a"], ["b"]),
    )
    with pytest.raises(InvalidModel, match=message):
        package_onnx(path, "m", tmp_path / "m")


def test_paths_are_known_by_their_names(digits: Any, tmp_path: Path) -> None:
    """Files and folders of models are told apart without being loaded."""
    for name in ("a.onnx", "b.joblib", "c.pkl", "d.csv", "e"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty.onnx").touch()
    assert find_kind(tmp_path / "a.onnx").name == "onnx"
    assert find_kind(tmp_path / "b.joblib").name == "joblib"
    assert find_kind(tmp_path / "c.pkl").name == "joblib"
    assert is_model_folder(digits.folder)
    assert not is_model_folder(tmp_path)
    for name, message in (
        ("d.csv", "does not look like a model"),
        ("e", "does not look like a model"),
        ("empty.onnx", "is empty"),
        ("gone.onnx", "no file"),
        (".", "no model folder"),
    ):
        with pytest.raises(InvalidModel, match=message):
            find_kind(tmp_path / name)


class Ticking:
    """A runtime whose calls take a stated time on a fake clock."""

    def __init__(self, clock: FakeClock, signature: Signature) -> None:
        self.clock = clock
        self.signature = signature

    def predict(self, batch: Batch) -> Batch:
        self.clock.advance(0.25 if len(batch["x"]) == 1 else 2.0)
        return {}

    def close(self) -> None:
        pass


def test_latency_is_the_median_of_calls(digits: Any) -> None:
    """One row and 64 rows are timed on the clock given, a slow model only a few times."""
    clock = FakeClock()
    latency = measure_latency(Ticking(clock, digits.signature), digits.head(64), clock)
    assert latency.batch_1_s == 0.25
    assert latency.batch_64_s == 2.0
    assert clock.at < 20
