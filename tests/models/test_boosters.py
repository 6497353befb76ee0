"""Boosters' own files: checked before a library sees them, compiled where that is equal."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

from tidemill.foundation.errors import InvalidInput, InvalidModel
from tidemill.foundation.home import Home
from tidemill.models.boosters.forest import Forest
from tidemill.models.boosters.lightgbm import read_lightgbm
from tidemill.models.boosters.ubjson import read_ubjson
from tidemill.models.boosters.xgboost import read_xgboost
from tidemill.models.format import ORIGINAL, ModelManifest, read_manifest, write_model
from tidemill.models.packagers import boosted
from tidemill.models.packagers.boosted import package_lightgbm, package_xgboost
from tidemill.models.packagers.sklearn import package_pickle
from tidemill.models.packaging import Given
from tidemill.models.registry import Registry
from tidemill.models.runtime import open_registered, open_runtime
from tidemill.models.signature import Batch, Column, Signature

X = np.random.default_rng(2).normal(size=(400, 3))
VALUE = X[:, 0] + X[:, 1] * X[:, 2]
COUNT = np.exp(X[:, 0]).round()
CLASS = np.digitize(VALUE, [-0.5, 0.5])
CITY = pd.Categorical(np.where(X[:, 0] > 0, "Ulm", "Rom"))
NAMED = pd.DataFrame({"a b": X[:, 0], "n": (X[:, 1] > 0).astype(int), "city": CITY})

Values = Any


def lgb(path: Path, labels: Values, rows: Any = X, rounds: int = 8, **options: Any) -> Path:
    """Trains and saves a booster of LightGBM's."""
    settings = {"verbosity": -1, "num_leaves": 6, "num_threads": 1, **options}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, labels), rounds)
    booster.save_model(path / "model.txt")
    return path / "model.txt"


def xgb(path: Path, labels: Values, rows: Any = X, rounds: int = 8, **options: Any) -> Path:
    """Trains and saves a booster of XGBoost's."""
    given = xgboost.DMatrix(rows, labels, enable_categorical=True)
    depth = {} if options.get("booster") == "gblinear" else {"max_depth": 3}
    booster = xgboost.train({"nthread": 1, **depth, **options}, given, rounds)
    booster.save_model(path / "model.json")
    return path / "model.json"


def own_answer(path: Path, rows: Any) -> Any:
    """What the library itself answers."""
    if path.suffix == ".txt":
        return lightgbm.Booster(model_file=path).predict(rows)
    return xgboost.Booster(model_file=path).predict(xgboost.DMatrix(rows))


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries files in this process but where a test is about the other one: they are good."""
    if "apart" not in request.node.name:
        monkeypatch.setattr(boosted, "_try_apart", lambda manifest, write: None)


def packaged(path: Path, given: Given | None = None) -> ModelManifest:
    """Packages a file into ``m`` beside it."""
    package = package_lightgbm if path.suffix == ".txt" else package_xgboost
    return package(path, "m", path.parent / "m", given or Given())


def named(each: Any) -> str | None:
    """Names a test by its options."""
    words = each.values() if isinstance(each, dict) else ()
    return "-".join(map(str, words)) or getattr(each, "__name__", "-")


KINDS: list[tuple[Callable[..., Path], dict[str, Any], Any]] = [
    (lgb, {"objective": "regression"}, VALUE),
    (lgb, {"objective": "regression_l1", "boosting": "rf", "feature_fraction": 0.7}, VALUE),
    (lgb, {"objective": "regression", "boosting": "dart"}, VALUE),
    (lgb, {"objective": "poisson"}, COUNT),
    (lgb, {"objective": "cross_entropy"}, VALUE > 0),
    (lgb, {"objective": "binary", "sigmoid": 2.0}, VALUE > 0),
    (lgb, {"objective": "multiclass", "num_class": 3}, CLASS),
    (lgb, {"objective": "multiclassova", "num_class": 3}, CLASS),
    (lgb, {"objective": "regression", "min_data_in_leaf": 400}, VALUE),
    (xgb, {"objective": "reg:squarederror"}, VALUE),
    (xgb, {"objective": "reg:squarederror", "num_parallel_tree": 3}, VALUE),
    (xgb, {"objective": "reg:squarederror", "booster": "dart", "rate_drop": 0.5}, VALUE),
    (xgb, {"objective": "reg:quantileerror", "quantile_alpha": [0.2, 0.8]}, VALUE),
    (xgb, {"objective": "count:poisson"}, COUNT),
    (xgb, {"objective": "reg:logistic"}, VALUE > 0),
    (xgb, {"objective": "binary:logistic"}, VALUE > 0),
    (xgb, {"objective": "binary:logitraw"}, VALUE > 0),
    (xgb, {"objective": "multi:softprob", "num_class": 3}, CLASS),
    (xgb, {"objective": "rank:pairwise"}, CLASS),
]


@pytest.mark.parametrize(("make", "options", "labels"), KINDS, ids=named)
def test_it_is_compiled_and_answers_as_its_library(
    make: Callable[..., Path], options: dict[str, Any], labels: Any, tmp_path: Path
) -> None:
    """Of every objective, values, the chance of class 1 or of each are the library's own."""
    path = make(tmp_path, labels, **options)
    manifest = packaged(path)
    assert manifest.runtime == "onnx", manifest.compiled_from
    report = manifest.compiled_from
    assert report is not None
    assert report.equal
    assert report.rows_from == "probes"
    expected = own_answer(path, X)
    rows = {"x": X.astype(manifest.signature.inputs[0].dtype)}
    for folder in (tmp_path / "m", tmp_path / "m" / ORIGINAL):
        answer = open_runtime(folder).predict(rows)
        found = answer["value"] if "value" in answer else answer["probabilities"]
        if found.ndim > expected.ndim:
            np.testing.assert_array_equal(answer["label"], expected > 0.5)
            found = found[:, 1]
        elif "label" in answer:
            np.testing.assert_array_equal(answer["label"], expected.argmax(axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


NATIVE: list[tuple[Callable[..., Path], dict[str, Any], str]] = [
    (lgb, {"objective": "regression", "linear_tree": True}, "linear models"),
    (lgb, {"objective": "regression", "zero_as_missing": True}, "zero as missing"),
    (lgb, {"objective": "regression", "reg_sqrt": True}, "objective 'regression' is not known"),
    (xgb, {"booster": "gblinear"}, "linear model"),
    (xgb, {"objective": "reg:pseudohubererror", "booster": "gblinear"}, "linear model"),
    (xgb, {"multi_strategy": "multi_output_tree"}, "vectors"),
    (xgb, {"objective": "survival:cox"}, "objective 'survival:cox' is not known"),
    (xgb, {"objective": "binary:hinge"}, "a step"),
]


@pytest.mark.parametrize(("make", "options", "reason"), NATIVE, ids=named)
def test_what_cannot_be_compiled_is_served_as_it_is(
    make: Callable[..., Path], options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """By its own library, still as data, and with the reason."""
    labels = np.abs(VALUE)
    if "multi_strategy" in options:
        labels = np.stack([VALUE, -VALUE], axis=1)
    elif "hinge" in str(options):
        labels = (VALUE > 0).astype(int)
    path = make(tmp_path, labels, **options)
    manifest = packaged(path)
    assert manifest.runtime == ("lightgbm" if make is lgb else "xgboost")
    assert manifest.trust == "data"
    assert manifest.compiled_from is not None
    assert reason in str(manifest.compiled_from.reason)
    answer = open_runtime(tmp_path / "m").predict(
        {"x": X.astype(manifest.signature.inputs[0].type)}
    )
    (found,) = answer.values()
    np.testing.assert_allclose(found, own_answer(path, X), rtol=1e-5, atol=1e-6)


def test_multi_softmax_gives_probabilities_too(tmp_path: Path) -> None:
    """Its own answer is a label alone: that stays, and the chances that it comes from are given."""
    path = xgb(tmp_path, CLASS, objective="multi:softmax", num_class=3)
    packaged(path)
    for folder in (tmp_path / "m", tmp_path / "m" / ORIGINAL):
        answer = open_runtime(folder).predict({"x": X.astype(np.float32)})
        np.testing.assert_array_equal(answer["label"], own_answer(path, X))
        np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("make", [lgb, xgb])
def test_named_features_are_columns(make: Callable[..., Path], tmp_path: Path) -> None:
    """Each has its own; what is made of whole numbers or categories takes whole numbers."""
    rows = NAMED.rename(columns={"a b": "a_b"}) if make is lgb else NAMED
    path = make(tmp_path, VALUE, rows)
    manifest = packaged(path)
    kinds = [(column.name, column.type) for column in manifest.signature.inputs]
    if make is lgb:
        assert kinds == [("a_b", "float64"), ("n", "float64"), ("city", "int64")]
    else:
        assert kinds == [("a b", "float32"), ("n", "int64"), ("city", "int64")]
    batch = {
        name: np.asarray(rows[name].cat.codes if name == "city" else rows[name]).astype(kind)
        for name, kind in kinds
    }
    answer = open_runtime(tmp_path / "m").predict(batch)
    if make is lgb:
        expected = lightgbm.Booster(model_file=path).predict(rows)
    else:
        given = xgboost.DMatrix(rows, enable_categorical=True)
        expected = xgboost.Booster(model_file=path).predict(given)
    np.testing.assert_allclose(answer["value"], expected, rtol=1e-5, atol=1e-6)


def test_splits_by_category_are_the_librarys_own(tmp_path: Path) -> None:
    """They are not compiled, and their codes are asked for."""
    codes = np.random.default_rng(1).integers(0, 5, 400)
    rows = pd.DataFrame({"code": pd.Categorical(codes), "size": X[:, 1]})
    path = lgb(tmp_path, (codes % 2) * 1.0, rows, min_data_per_group=1, cat_smooth=1)
    manifest = packaged(path)
    assert manifest.runtime == "lightgbm"
    assert "categories" in str(manifest.compiled_from and manifest.compiled_from.reason)
    answer = open_runtime(tmp_path / "m").predict({"code": codes, "size": X[:, 1]})
    np.testing.assert_allclose(answer["value"], own_answer(path, rows), rtol=1e-6)


def test_a_signature_must_hold_the_features(tmp_path: Path) -> None:
    """Names of one's own for a matrix without names; other sizes and outputs are refused."""
    path = lgb(tmp_path, VALUE, objective="regression")
    inputs = tuple(Column(name, "float32") for name in "abc")
    outputs = (Column("value", "float64"),)
    manifest = packaged(path, Given(signature=Signature(inputs, outputs)))
    assert manifest.signature.inputs == inputs
    batch = {name: X[:, i].astype(np.float32) for i, name in enumerate("abc")}
    answer = open_runtime(tmp_path / "m").predict(batch)
    assert answer["value"].dtype == np.float64
    for wrong, said in (
        (Signature(inputs[:2], outputs), "takes 3 numbers"),
        (Signature((Column("x", "string", (3,)),), outputs), "takes 3 numbers"),
        (Signature(inputs, (Column("label", "int64"),)), "does not give 'label'"),
        (Signature(inputs, (Column("value", "float32", (2,)),)), "does not give 'value'"),
    ):
        with pytest.raises(InvalidModel, match=said):
            package_lightgbm(path, "m", tmp_path / "other", Given(signature=wrong))


def test_rows_of_a_sample_are_compared(tmp_path: Path) -> None:
    """A sample counts as evaluation; one that does not fit is told."""
    path = xgb(tmp_path, VALUE, objective="reg:squarederror")
    manifest = packaged(path, Given(rows=lambda _: {"x": X}))
    assert manifest.compiled_from is not None
    assert manifest.compiled_from.rows_from == "evaluation"
    assert manifest.compiled_from.rows == len(X)
    with pytest.raises(InvalidInput, match="shape"):
        package_xgboost(path, "m", tmp_path / "n", Given(rows=lambda _: {"x": X[:, :2]}))


def test_equal_files_are_equal_content(tmp_path: Path) -> None:
    """Packaged twice, a file is one version."""
    path = xgb(tmp_path, VALUE > 0, objective="binary:logistic")
    first = packaged(path)
    again = package_xgboost(path, "m", tmp_path / "again", Given())
    assert first.content_sha256 == again.content_sha256


def test_ubjson_says_what_json_says(tmp_path: Path) -> None:
    """Both of XGBoost's formats are read to the same record."""
    path = xgb(tmp_path, CLASS, NAMED.drop(columns="city"), objective="multi:softprob", num_class=3)
    xgboost.Booster(model_file=path).save_model(tmp_path / "model.ubj")
    texts, packed = (
        read_xgboost(path.read_bytes()),
        read_xgboost((tmp_path / "model.ubj").read_bytes()),
    )
    assert facts(texts) == facts(packed)
    for one, other in zip(texts.trees, packed.trees, strict=True):
        for name in ("feature", "threshold", "left", "right", "missing_left", "value"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def facts(forest: Forest) -> dict[str, Any]:
    """What is not its trees."""
    names = ("width", "groups", "names", "types", "base", "link", "answer", "only_native")
    return {name: getattr(forest, name) for name in names}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{i\x01a",
        b"{i\x01aSi\x7fhi}",
        b"{i\xffaZ}",
        b"{i\x01aZi\x01aZ}",
        b"{i\x01a[$L#L\x7f\xff\xff\xff\xff\xff\xff\xff}",
        b"{i\x01a[#i\xff]}",
        b"{i\x01a[$S#i\x01]}",
        b"{i\x01aX}",
        b"{i\x02\xff\xffZ}",
        b"{}}",
        b"[" * 200,
    ],
)
def test_ubjson_that_is_none_is_refused(data: bytes) -> None:
    """Cut off, longer than it is, nested without end: one error, and no memory taken."""
    with pytest.raises(InvalidModel):
        read_ubjson(data)


def test_texts_cut_anywhere_are_refused(tmp_path: Path) -> None:
    """A file that stops early is never given to LightGBM, whose parser would end the process."""
    data = lgb(tmp_path, VALUE, objective="regression", rounds=2).read_bytes()
    end = data.index(b"end of trees")
    for cut in range(0, end, 37):
        with pytest.raises(InvalidModel, match="damaged"):
            read_lightgbm(data[:cut])


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb"left_child=\S+", b"left_child=0"),
        (rb"left_child=\S+", b"left_child=77"),
        (rb"left_child=\S+", b"left_child=1_0"),
        (rb"right_child=\S+", b"right_child=-99"),
        (rb"split_feature=\S+", b"split_feature=3"),
        (rb"threshold=\S+", b"threshold=nan"),
        (rb"threshold=\S+", b"threshold=1e999"),
        (rb"leaf_value=\S+", b"leaf_value="),
        (rb"num_leaves=\d+", b"num_leaves=900000000"),
        (rb"decision_type=\d+", b"decision_type=1"),
        (rb"tree_sizes=\d+", b"tree_sizes=9"),
        (rb"max_feature_idx=2", b"max_feature_idx=1"),
        (rb"num_class=1", b"num_class=3"),
        (rb"objective=regression", b"objective=multiclass num_class:9"),
        (rb"objective=regression", b"objective=\x00"),
        (rb"is_linear=0", b"is_linear=1"),
    ],
)
def test_texts_that_lead_nowhere_are_refused(
    pattern: bytes, replacement: bytes, tmp_path: Path
) -> None:
    """Indices, counts and numbers are checked before the library follows them."""
    data = lgb(tmp_path, VALUE, objective="regression", rounds=1).read_bytes()
    changed, found = re.subn(pattern, replacement, data, count=1)
    assert found
    head, _, tree = changed.partition(b"\n\nTree=0")
    if b"tree_sizes" not in replacement:  # the tree is where its header says, and yet wrong
        length = len(b"Tree=0" + tree.partition(b"end of trees")[0])
        head = re.sub(rb"tree_sizes=\d+", b"tree_sizes=%d" % length, head)
    changed = head + b"\n\nTree=0" + tree
    with pytest.raises(InvalidModel, match="damaged"):
        read_lightgbm(changed)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("learner", "gradient_booster", "model", "trees", 0, "left_children", 0), 0),
        (("learner", "gradient_booster", "model", "trees", 0, "left_children", 0), 4096),
        (("learner", "gradient_booster", "model", "trees", 0, "left_children", 0), -7),
        (("learner", "gradient_booster", "model", "trees", 0, "left_children", 0), 1 << 33),
        (("learner", "gradient_booster", "model", "trees", 0, "left_children", 0), 1.5),
        (("learner", "gradient_booster", "model", "trees", 0, "split_indices", 0), 3),
        (("learner", "gradient_booster", "model", "trees", 0, "split_conditions"), []),
        (("learner", "gradient_booster", "model", "trees", 0, "parents"), [0]),
        (("learner", "gradient_booster", "model", "trees", 0, "parents", 1), 4096),
        (("learner", "gradient_booster", "model", "trees", 0, "parents", 0), -9),
        (("learner", "gradient_booster", "model", "trees", 0, "id"), 1),
        (("learner", "gradient_booster", "model", "trees", 0, "tree_param", "num_nodes"), "9999"),
        (("learner", "gradient_booster", "model", "trees", 0, "tree_param", "num_feature"), "1"),
        (("learner", "gradient_booster", "model", "trees"), []),
        (("learner", "gradient_booster", "model", "tree_info", 0), 5),
        (("learner", "gradient_booster", "model", "iteration_indptr", 1), 9),
        (("learner", "gradient_booster", "model", "gbtree_model_param", "num_trees"), "9"),
        (("learner", "gradient_booster", "name"), "gbforest"),
        (("learner", "learner_model_param", "num_feature"), "0"),
        (("learner", "learner_model_param", "num_feature"), "0_3"),
        (("learner", "learner_model_param", "num_feature"), 3.5),
        (("learner", "learner_model_param", "num_class"), "7"),
        (("learner", "learner_model_param", "base_score"), "[1,2]"),
        (("learner", "feature_names"), ["a"]),
        (("learner", "objective", "name"), "multi:softprob"),
        (("learner",), []),
    ],
)
def test_json_that_leads_nowhere_is_refused(
    place: tuple[Any, ...], value: Any, tmp_path: Path
) -> None:
    """As with texts: whatever the library would follow is followed first."""
    told = json.loads(xgb(tmp_path, VALUE, objective="reg:squarederror").read_bytes())
    inside = told
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(InvalidModel, match="damaged"):
        read_xgboost(json.dumps(told).encode())


def test_json_that_says_a_key_twice_is_refused() -> None:
    """Which of the two counts is up to the reader, and there are two of them."""
    with pytest.raises(InvalidModel, match="twice"):
        read_xgboost(b'{"learner": {}, "learner": {}}')


def test_a_file_that_kills_its_library_apart_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process loads it first: if that one dies, this one says so."""
    path = xgb(tmp_path, VALUE, objective="reg:squarederror")
    packaged(path)  # that process lives
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'ask' in sys.argv: os.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InvalidModel, match="xgboost does not survive the file"):
        package_xgboost(path, "m", tmp_path / "n", Given())
    assert not list((tmp_path / "n").iterdir())


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("classes", ["numbers", "names"])
def test_estimators_of_boosters_are_compiled(library: str, classes: str, tmp_path: Path) -> None:
    """In joblib they are scikit-learn's: with its signature, compiled, and their own answers."""
    kinds: dict[str, Any] = {"lightgbm": lightgbm.LGBMClassifier, "xgboost": xgboost.XGBClassifier}
    options: dict[str, Any] = {"verbosity": -1} if library == "lightgbm" else {}
    # XGBoost's take numbers only.
    words = classes == "names" and library == "lightgbm"
    labels = np.array(["low", "mid", "high"])[CLASS] if words else CLASS
    estimator = kinds[library](n_estimators=5, n_jobs=1, **options).fit(X, labels)
    joblib.dump(estimator, tmp_path / "model.joblib")
    manifest = package_pickle(tmp_path / "model.joblib", "m", tmp_path / "m", Given())
    place = tmp_path / "m"
    original = place if words else place / ORIGINAL
    assert any(each.startswith(library) for each in read_manifest(original).requirements)
    if not words:
        assert (manifest.runtime, manifest.trust) == ("onnx", "data"), manifest.compiled_from
    else:  # its classes have names: it is served as it is
        assert (manifest.runtime, manifest.trust) == ("sklearn", "code")
    assert manifest.signature.outputs[1] == Column("probabilities", "float32", (3,))
    rows: Batch = {"x": X}
    answer = open_runtime(tmp_path / "m", trust_code=True).predict(rows)
    np.testing.assert_allclose(answer["probabilities"], estimator.predict_proba(X), rtol=1e-5)
    np.testing.assert_array_equal(answer["label"], estimator.predict(X))


def test_a_folder_that_was_not_packaged_here_is_checked(home: Home, tmp_path: Path) -> None:
    """A model folder with a file that leads nowhere is not registered, and never loaded."""
    path = xgb(tmp_path, VALUE, booster="gblinear")
    manifest = packaged(path)
    folder = tmp_path / "m"
    told = json.loads(path.read_bytes())
    told["learner"]["gradient_booster"]["model"]["weights"].pop()
    (folder / manifest.entry).write_text(json.dumps(told))
    write_model(folder, manifest)
    with pytest.raises(InvalidModel, match="damaged"):
        Registry(home).register(folder, "m", blessed=True, blessing={})
    with pytest.raises(InvalidModel, match="damaged"):
        open_registered(folder)


def test_the_manifest_names_the_library(tmp_path: Path) -> None:
    """So that it can be installed again."""
    packaged(xgb(tmp_path, VALUE, booster="gblinear"))
    requirements = read_manifest(tmp_path / "m").requirements
    assert any(each.startswith("xgboost") for each in requirements)
