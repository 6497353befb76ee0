from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tidemill.foundation.errors import InvalidInput, InvalidModel
from tidemill.models.compilation import compile_sklearn
from tidemill.models.runtimes.sklearn import SklearnRuntime
from tidemill.models.signature import Column, check_batch
from tidemill.training.examples import feature_batch
from tidemill.training.trainer import TrainingPlan, fit

PLAN = TrainingPlan(features=("carrier", "hour", "delay"), label="late")


def examples(rows: int = 2_000, seed: int = 0) -> pa.Table:
    """Flights that are late the later it is, most of all with one carrier."""
    generator = np.random.default_rng(seed)
    carrier = generator.choice(["AA", "B6", "UA"], rows)
    hour = generator.integers(5, 23, rows)
    chance = 0.03 * hour + 0.2 * (carrier == "B6") - 0.1
    return pa.table({
        "carrier": carrier,
        "hour": hour,
        "delay": generator.normal(size=rows),
        "late": generator.random(rows) < chance,
    })  # fmt: skip


@pytest.mark.parametrize("kind", ["random-forest", "logistic-regression"])
def test_a_model_learns_compiles_and_answers_as_its_signature_says(
    kind: str, tmp_path: Path
) -> None:
    """Each kind beats chance on new rows, and its compiled form answers the same."""
    plan = msgspec.structs.replace(PLAN, kind=kind)
    estimator, signature = fit(examples(), plan)
    assert signature.inputs == (
        Column("carrier", "string"),
        Column("hour", "int64"),
        Column("delay", "float64"),
    )
    assert signature.outputs == (Column("label", "int64"), Column("probabilities", "float32", (2,)))
    new = examples(seed=1)
    batch = check_batch(signature, feature_batch(new, signature.inputs))
    answers = SklearnRuntime(estimator, signature).predict(batch)
    late = np.asarray(new["late"].to_numpy(zero_copy_only=False))
    scores = answers["probabilities"][:, 1]
    assert scores[late].mean() > scores[~late].mean() + 0.05
    report = compile_sklearn(estimator, signature, batch, folder=tmp_path)
    assert report.equal, report.reason


def test_the_same_plan_makes_the_same_model() -> None:
    """Training is repeatable by its seed, whatever the number of cores."""
    scores = []
    for seed in (0, 0, 1):
        estimator, signature = fit(examples(), msgspec.structs.replace(PLAN, seed=seed))
        batch = feature_batch(examples(seed=1), signature.inputs)
        scores.append(SklearnRuntime(estimator, signature).predict(batch)["probabilities"])
    assert (scores[0] == scores[1]).all()
    assert (scores[0] != scores[2]).any()
    assert estimator[-1].n_jobs is None


def test_an_unknown_category_is_answered() -> None:
    """A carrier that was never seen gets an answer, not an error."""
    estimator, signature = fit(examples(), PLAN)
    batch = check_batch(signature, {"carrier": ["ZZ"], "hour": [12], "delay": [0.0]})
    assert SklearnRuntime(estimator, signature).predict(batch)["probabilities"].shape == (1, 2)


def test_classes_may_be_text_and_more_than_two() -> None:
    """The signature has as many probabilities as there are classes, and labels of their type."""
    table = examples(300).append_column("where", pa.array(["EWR", "JFK", "LGA"] * 100))
    plan = msgspec.structs.replace(PLAN, label="where", features=("hour",))
    _, signature = fit(table, plan)
    assert signature.outputs == (
        Column("label", "string"),
        Column("probabilities", "float32", (3,)),
    )


def test_parameters_reach_the_estimator() -> None:
    """What the plan gives overrides the defaults, and what does not exist is refused."""
    plan = msgspec.structs.replace(PLAN, params={"n_estimators": 3, "max_depth": 2})
    estimator, _ = fit(examples(), plan)
    assert (len(estimator[-1].estimators_), estimator[-1].min_samples_leaf) == (3, 20)
    plan = msgspec.structs.replace(PLAN, params={"trees": 3})
    with pytest.raises(InvalidInput, match=r"trees.*Known parameters: .*n_estimators"):
        fit(examples(), plan)
    plan = msgspec.structs.replace(PLAN, params={"n_estimators": -1})
    with pytest.raises(InvalidInput, match="n_estimators"):
        fit(examples(), plan)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (examples().slice(0, 0), "no examples"),
        (examples().filter(examples()["late"]), "all .* examples have the 'late' 1"),
        (examples().drop_columns("late").append_column("late", examples()["delay"]), "no classes"),
        (examples().drop_columns("hour"), "'hour' is not there"),
    ],
)
def test_examples_that_teach_nothing_are_refused(table: pa.Table, message: str) -> None:
    """No rows, one class, no classes, a missing column: each is an error in words."""
    with pytest.raises(InvalidInput, match=message):
        fit(table, PLAN)


def test_the_label_is_no_feature() -> None:
    """A plan that gives the answer away is refused."""
    with pytest.raises(InvalidInput, match="both a feature and the label"):
        fit(examples(), msgspec.structs.replace(PLAN, features=("hour", "late")))


def test_a_function_of_one_s_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MODULE:FUNCTION is given the features, labels, parameters and seed, and may regress."""
    (tmp_path / "own_model_for_tests.py").write_text(
        "from sklearn.tree import DecisionTreeRegressor\n"
        "def make(features, labels, *, params, seed):\n"
        "    return DecisionTreeRegressor(random_state=seed, **params).fit(features, labels)\n"
        "def nothing(features, labels, *, params, seed):\n"
        "    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan = TrainingPlan(
        features=("hour",),
        label="delay",
        kind="own_model_for_tests:make",
        params={"max_depth": 3},
        seed=4,
    )
    estimator, signature = fit(examples(), plan)
    assert (estimator.max_depth, estimator.random_state) == (3, 4)
    assert signature.outputs == (Column("value", "float32"),)
    plan = msgspec.structs.replace(plan, kind="own_model_for_tests:nothing")
    with pytest.raises(InvalidModel, match="returned a int"):
        fit(examples(), plan)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("forest", "not known"),
        ("no_such_module:make", "cannot be imported"),
        ("json:no_such_function", "cannot be imported"),
        ("json:__name__", "not a function"),
    ],
)
def test_a_kind_that_is_not_there_is_named(kind: str, message: str) -> None:
    """Unknown kinds, modules and functions are refused in words."""
    with pytest.raises(InvalidInput, match=message):
        fit(examples(), msgspec.structs.replace(PLAN, kind=kind))


def test_a_plan_is_stored_as_json() -> None:
    """A plan comes back as it was, and unknown keys are refused."""
    data = msgspec.json.encode(PLAN)
    assert msgspec.json.decode(data, type=TrainingPlan) == PLAN
    broken: dict[str, Any] = {**msgspec.json.decode(data), "feature": []}
    with pytest.raises(msgspec.ValidationError, match="feature"):
        msgspec.convert(broken, TrainingPlan)
