"""River's models say what they take and give, answer row by row, and learn nothing from it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from river import (
    anomaly,
    base,
    cluster,
    compose,
    dummy,
    linear_model,
    multioutput,
    naive_bayes,
    neighbors,
    preprocessing,
    tree,
)

from tidemill_worker.functions import InvalidInput, InvalidModel, NotReady
from tidemill_worker.river_models import RiverModel, describe_river, is_river
from tidemill_worker.signatures import Column, Signature

DRAW = random.Random(2)
NUMBERS = [{"heat": DRAW.uniform(-5, 30), "load": DRAW.random()} for _ in range(120)]
MIXED = [{**row, "city": DRAW.choice(["oslo", "åbo"]), "day": DRAW.randrange(7)} for row in NUMBERS]
BUSY = [row["load"] > 0.5 for row in NUMBERS]
KINDS = ["cold" if row["heat"] < 5 else "warm" if row["load"] < 0.5 else "hot" for row in NUMBERS]
INPUTS = (Column("heat", "float64"), Column("load", "float64"))


def learned(model: Any, rows: list[Any], targets: list[Any] | None = None) -> Any:
    """Lets a model learn from rows, one after another."""
    for i, row in enumerate(rows):
        if targets is None:
            model.learn_one(row)
        else:
            model.learn_one(row, targets[i])
    return model


def batch_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Puts rows into columns."""
    return {
        name: np.array([row[name] for row in rows], dtype=object if name == "city" else None)
        for name in rows[0]
    }


def opened(model: Any) -> RiverModel:
    """Opens a model as what it says of itself."""
    signature, classes = describe_river(model)
    return RiverModel(model, signature, classes)


def shapes(columns: tuple[Column, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Columns as plain tuples."""
    return [(column.name, column.type, column.shape) for column in columns]


def test_features_are_those_that_it_has_seen() -> None:
    """Selected, scaled or encoded, in the order that they came in, with the types of categories."""
    scaled = compose.SelectType(float) | preprocessing.StandardScaler()
    encoded = compose.Select("city", "day") | preprocessing.OneHotEncoder()
    model = (scaled + encoded) | linear_model.LogisticRegression()
    signature, classes = describe_river(learned(model, MIXED, BUSY))
    assert shapes(signature.inputs) == [
        ("heat", "float64", ()),
        ("load", "float64", ()),
        ("city", "string", ()),
        ("day", "int64", ()),
    ]
    assert shapes(signature.outputs) == [
        ("label", "bool", ()),
        ("probabilities", "float32", (2,)),
    ]
    assert classes == (False, True)


def test_numbered_features_are_one_vector() -> None:
    """What ``stream.iter_array`` gives a model has numbers for names."""
    rows = [dict(enumerate(row.values())) for row in NUMBERS]
    model = learned(linear_model.LinearRegression(), rows, [row[0] * 2 for row in rows])
    runtime = opened(model)
    assert shapes(runtime.signature.inputs) == [("x", "float64", (2,))]
    matrix = np.array([list(row.values()) for row in NUMBERS])
    wanted = np.array([model.predict_one(row) for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(runtime.predict({"x": matrix})["value"], wanted)


@pytest.mark.parametrize(
    ("make", "outputs"),
    [
        (
            lambda: learned(
                preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=3, seed=1), NUMBERS
            ),
            [("score", "float32", ())],
        ),
        (
            lambda: learned(
                preprocessing.MinMaxScaler()
                | anomaly.ThresholdFilter(anomaly.HalfSpaceTrees(n_trees=3, seed=1), threshold=0.5),
                NUMBERS,
            ),
            [("score", "float32", ()), ("anomaly", "bool", ())],
        ),
        (
            lambda: learned(preprocessing.StandardScaler() | cluster.KMeans(2, seed=1), NUMBERS),
            [("cluster", "int64", ())],
        ),
        (
            lambda: learned(
                preprocessing.StandardScaler() | neighbors.KNNClassifier(),
                NUMBERS,
                [int(each == "hot") * 7 for each in KINDS],
            ),
            [("label", "int64", ()), ("probabilities", "float32", (2,))],
        ),
    ],
)
def test_outputs_are_those_of_its_kind(make: Callable[[], Any], outputs: list[Any]) -> None:
    """Detectors score and may decide, clusterers name a cluster, classifiers one of the classes."""
    runtime = opened(make())
    assert shapes(runtime.signature.outputs) == outputs
    answer = runtime.predict(batch_of(NUMBERS))
    for name, kind, shape in outputs:
        assert answer[name].dtype == kind
        assert answer[name].shape == (len(NUMBERS), *shape)


def test_probabilities_are_in_the_sorted_order_of_the_classes() -> None:
    """Whatever the order in which a row's answer names them; a class that it leaves out has 0."""
    model = learned(preprocessing.StandardScaler() | naive_bayes.GaussianNB(), NUMBERS, KINDS)
    signature, classes = describe_river(model)
    assert classes == ("cold", "hot", "warm")
    answer = RiverModel(model, signature, classes).predict(batch_of(NUMBERS[:9]))
    for i, row in enumerate(NUMBERS[:9]):
        told = model.predict_proba_one(row)
        np.testing.assert_allclose(
            answer["probabilities"][i], [told.get(each, 0) for each in classes], rtol=1e-6
        )
        assert answer["label"][i] == model.predict_one(row)


def test_a_class_that_came_later_is_told_not_hidden() -> None:
    """A model that answers with a class that its signature does not have fails, by its name."""
    model = learned(preprocessing.StandardScaler() | neighbors.KNNClassifier(), NUMBERS, KINDS)
    signature, _ = describe_river(model)
    fewer = Signature(
        signature.inputs, (signature.outputs[0], Column("probabilities", "float32", (2,)))
    )
    runtime = RiverModel(model, fewer, ("cold", "warm"))
    with pytest.raises(InvalidModel, match="'hot'"):
        runtime.predict(batch_of(NUMBERS))


def test_asking_teaches_nothing() -> None:
    """Asked again after other rows, it answers alike, even if its code had said to learn."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    stored = pickle.dumps(learned(model, NUMBERS, BUSY))
    strange = batch_of([{"heat": 1e6 * i, "load": -1e6} for i in range(50)])
    compose.Pipeline._LEARN_UNSUPERVISED_DURING_PREDICT = True
    try:
        runtime = opened(pickle.loads(stored))
        first = runtime.predict(batch_of(NUMBERS))
        runtime.predict(strange)
        again = runtime.predict(batch_of(NUMBERS))
    finally:
        compose.Pipeline._LEARN_UNSUPERVISED_DURING_PREDICT = False
    np.testing.assert_array_equal(first["probabilities"], again["probabilities"])
    runtime.check_steady(batch_of(NUMBERS))


class Counts(base.Regressor):
    """Predicts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def learn_one(self, x: Any, y: Any) -> None:
        pass

    def predict_one(self, x: Any) -> float:
        self.asked += 1
        return self.asked


def test_a_model_that_learns_while_it_predicts_is_found_out() -> None:
    """Its answers to the same rows differ, and the refusal says in what."""
    signature = Signature(INPUTS, (Column("value", "float32"),))
    with pytest.raises(InvalidModel, match="another 'value'"):
        RiverModel(Counts(), signature, ()).check_steady(batch_of(NUMBERS))


@pytest.mark.parametrize("names", [{"heat": 1, "load": 2}, {"heat": 0, "load": "load"}])
def test_features_under_other_numbers_are_not_asked_for_by_name(names: dict[str, Any]) -> None:
    """As text they would be features that it never saw; one vector holds them under theirs."""
    rows = [{names[name]: value for name, value in row.items()} for row in NUMBERS]
    model = learned(linear_model.LinearRegression(), rows, [row["heat"] for row in NUMBERS])
    with pytest.raises(InvalidModel, match="otherwise than from 0 on"):
        describe_river(model)
    if names["load"] == 2:
        signature, classes = describe_river(model, (Column("x", "float64", (3,)),))
        answer = RiverModel(model, signature, classes).predict({"x": np.array([[9.0, 5.0, 0.5]])})
        asked = {0: 9.0, 1: 5.0, 2: 0.5}
        assert answer["value"].tolist() == [np.float32(model.predict_one(asked))]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (learned(tree.HoeffdingTreeClassifier(), NUMBERS, KINDS), "names of its features"),
        (preprocessing.StandardScaler() | linear_model.LinearRegression(), "names of its features"),
        (learned(preprocessing.StandardScaler(), NUMBERS), "answers no single rows"),
    ],
)
def test_what_it_cannot_tell_is_asked_for(model: Any, said: str) -> None:
    """A model that does not know its features, or answers no rows, is refused with what lacks."""
    with pytest.raises(InvalidModel, match=said):
        describe_river(model)


def test_inputs_may_be_told() -> None:
    """Given the inputs, the rest is found: trees do not keep the names of what they have seen."""
    model = learned(tree.HoeffdingTreeClassifier(), NUMBERS, KINDS)
    signature, classes = describe_river(model, INPUTS)
    assert signature.inputs == INPUTS
    assert classes == ("cold", "hot", "warm")


def test_a_classifier_that_has_learned_nothing_is_refused() -> None:
    """Without classes there is nothing to answer."""
    with pytest.raises(InvalidModel, match="knows no classes"):
        describe_river(dummy.NoChangeClassifier(), INPUTS)


def test_several_targets_are_outputs_of_their_names() -> None:
    """A regressor of several targets answers those that a signature names."""
    model = multioutput.RegressorChain(linear_model.LinearRegression(), order=["up", "down"])
    learned(model, NUMBERS, [{"up": row["heat"], "down": -row["heat"]} for row in NUMBERS])
    outputs = (Column("down", "float32"), Column("up", "float64"))
    answer = RiverModel(model, Signature(INPUTS, outputs), ()).predict(batch_of(NUMBERS[:3]))
    told = [model.predict_one(row) for row in NUMBERS[:3]]
    np.testing.assert_allclose(answer["up"], [each["up"] for each in told])
    np.testing.assert_allclose(answer["down"], [each["down"] for each in told], rtol=1e-6)
    wrong = Signature(INPUTS, (Column("up", "float32"), Column("sideways", "float32")))
    with pytest.raises(InvalidModel, match="sideways"):
        RiverModel(model, wrong, ()).predict(batch_of(NUMBERS[:3]))


def test_values_are_single_and_inputs_are_flat() -> None:
    """A list in a value's place is the caller's error, a matrix in a signature the pusher's."""
    model = learned(preprocessing.StandardScaler() | linear_model.LinearRegression(), NUMBERS, BUSY)
    runtime = opened(model)
    with pytest.raises(InvalidInput, match="heat"):
        runtime.predict({"heat": np.zeros((2, 3)), "load": np.zeros(2)})
    with pytest.raises(InvalidInput, match="refuses"):
        runtime.predict({"heat": np.array(["x"], dtype=object), "load": np.zeros(1)})
    with pytest.raises(InvalidModel, match="one value per feature"):
        RiverModel(model, Signature((Column("x", "float64", (2, 2)),), INPUTS), ())
    runtime.close()
    with pytest.raises(NotReady):
        runtime.predict(batch_of(NUMBERS))


def test_it_is_known_by_its_kind() -> None:
    """Pipelines and models are River's, other objects are not."""
    assert is_river(preprocessing.StandardScaler() | linear_model.LinearRegression())
    assert is_river(Counts())
    assert not is_river(object())
