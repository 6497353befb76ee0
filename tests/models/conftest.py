"""Models that the tests of this room share; fitted and packaged once."""

import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tidemill.models.packagers.sklearn import package_sklearn
from tidemill.models.signature import Batch, Column, Signature

TABULAR = Signature(
    (
        Column("carrier", "string"),
        Column("month", "int64"),
        Column("distance", "int64"),
        Column("temperature", "float64"),
    ),
    (Column("label", "string"), Column("probabilities", "float32", (2,))),
)


@dataclass(frozen=True)
class Example:
    """A fitted estimator, rows for it, and the folder that it is packaged in."""

    estimator: Any
    signature: Signature
    rows: Batch
    folder: Path

    def head(self, n: int) -> Batch:
        """Returns the first rows."""
        return {name: array[:n] for name, array in self.rows.items()}


def flights(n: int = 600) -> tuple[pd.DataFrame, Batch]:
    """Returns rows with strings, integers and floats, as a data frame and as a batch."""
    random = np.random.default_rng(7)
    carriers = np.array(["UA", "B6", "Ünïted"], dtype=object)
    batch: Batch = {
        "carrier": carriers[random.integers(0, 3, n)],
        "month": random.integers(1, 13, n),
        "distance": random.integers(80, 4900, n),
        "temperature": random.normal(50, 20, n),
    }
    return pd.DataFrame(batch), batch


def late(batch: Batch) -> Any:
    """Returns labels that depend on every column."""
    score = batch["month"] + batch["distance"] / 900 + batch["temperature"] / 20
    return np.where(score + 2 * (batch["carrier"] == "UA") > 12, "late", "on time")


def tabular(scaler: Any = "passthrough", trees: int = 10) -> Any:
    """Returns an unfitted forest over one-hot strings and numbers."""
    columns = ColumnTransformer(
        [
            (
                "strings",
                OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ["carrier"],
            ),
            ("numbers", scaler, ["month", "distance", "temperature"]),
        ]
    )
    return make_pipeline(columns, RandomForestClassifier(trees, min_samples_leaf=5, random_state=0))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """The forest of 100 trees on handwritten digits: one vector in, ten classes out."""
    x, y = load_digits(return_X_y=True)
    estimator = RandomForestClassifier(100, random_state=0).fit(x, y)
    folder = tmp_path_factory.mktemp("digits")
    manifest = package_sklearn(estimator, "digits", None, folder, {"x": x})
    return Example(estimator, manifest.signature, {"x": x}, folder)


@pytest.fixture(scope="session")
def delays(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """A classifier of flights: strings, integers and floats in, labels of text out."""
    frame, batch = flights()
    estimator = tabular().fit(frame, late(batch))
    folder = tmp_path_factory.mktemp("delays")
    package_sklearn(estimator, "delays", TABULAR, folder, batch)
    return Example(estimator, TABULAR, batch, folder)


@pytest.fixture(scope="session")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """A regressor with named columns."""
    _, batch = flights()
    numbers = {name: batch[name] for name in ("month", "distance", "temperature")}
    value = batch["distance"] / 8 + batch["temperature"]
    estimator = RandomForestRegressor(10, min_samples_leaf=5, random_state=0)
    estimator.fit(pd.DataFrame(numbers), value)
    columns = tuple(column for column in TABULAR.inputs if column.name in numbers)
    signature = Signature(columns, (Column("value", "float32"),))
    folder = tmp_path_factory.mktemp("minutes")
    package_sklearn(estimator, "minutes", signature, folder, numbers)
    return Example(estimator, signature, numbers, folder)


@pytest.fixture(scope="session")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """A forest behind a scaler, which no 32-bit graph answers alike: it stays an estimator."""
    frame, batch = flights(3000)
    estimator = tabular(StandardScaler()).fit(frame, late(batch))
    folder = tmp_path_factory.mktemp("scaled")
    package_sklearn(estimator, "scaled", TABULAR, folder, batch)
    return Example(estimator, TABULAR, batch, folder)


@pytest.fixture(scope="session")
def make_tabular() -> Any:
    """The maker of unfitted forests over one-hot strings and numbers."""
    return tabular


@pytest.fixture(scope="session")
def flights_rows() -> tuple[pd.DataFrame, Batch, Any]:
    """3000 flights as a data frame and as a batch, and whether they were late."""
    frame, batch = flights(3000)
    return frame, batch, late(batch)


@dataclass(frozen=True)
class Network:
    """What PyTorch saved, rows for it, and what it answers itself; it may not say its columns."""

    path: Path
    rows: Batch
    own: Callable[[Batch], Batch]
    signature: Signature | None = None


NETWORK = Signature(
    (Column("x", "float32", (16,)), Column("kind", "int64")),
    (Column("label", "int64"), Column("probabilities", "float32", (3,))),
)


def make_network() -> Any:
    """Returns a network of numbers and a word's index, with a dropout that must be off."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kinds = torch.nn.Embedding(5, 16)
            self.wide = torch.nn.Linear(16, 256)
            self.drop = torch.nn.Dropout(0.5)
            self.out = torch.nn.Linear(256, 3)

        def forward(self, x: torch.Tensor, kind: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = self.drop(torch.relu(self.wide(x + self.kinds(kind))))
            scores = self.out(hidden)
            return {"label": scores.argmax(1), "probabilities": torch.softmax(scores, 1)}

    torch.manual_seed(3)
    return Net()


def asked(module: Any) -> Callable[[Batch], Batch]:
    """Returns what asks a module itself, with its dropout off."""
    import torch

    def own(rows: Batch) -> Batch:
        with torch.inference_mode():
            answer = module(torch.tensor(rows["x"]), torch.tensor(rows["kind"]))
        return {name: tensor.numpy() for name, tensor in answer.items()}

    return own


def network_rows(n: int = 200) -> Batch:
    """Returns rows for the network."""
    random = np.random.default_rng(5)
    return {
        "x": random.normal(size=(n, 16)).astype(np.float32),
        "kind": random.integers(0, 5, n),
    }


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """The network as TorchScript, saved by somebody who forgot to turn its dropout off."""
    import torch

    net = make_network()
    path = tmp_path_factory.mktemp("script") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's age
        torch.jit.save(torch.jit.script(net), path)
    return Network(path, network_rows(), asked(net.eval()), NETWORK)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """The network as an exported program, which says its columns itself."""
    net = make_network().eval()
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    export(net, path)
    return Network(path, network_rows(), asked(net))


def export(module: Any, path: Path, **options: Any) -> None:
    """Saves the network as an exported program with an open batch, unless told otherwise."""
    import torch

    rows = network_rows(3)
    batch = torch.export.Dim("batch")
    told: dict[str, Any] = {"dynamic_shapes": {"x": {0: batch}, "kind": {0: batch}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own next release
        program = torch.export.export(
            module, (torch.tensor(rows["x"]), torch.tensor(rows["kind"])), **(told | options)
        )
        torch.export.save(program, path)


@pytest.fixture(scope="session")
def make_net() -> Any:
    """The maker of untrained networks."""
    return make_network


@pytest.fixture(scope="session")
def export_net() -> Any:
    """What saves a network as an exported program."""
    return export


@dataclass(frozen=True)
class Stream:
    """A model of River's in its file, rows for it, and what it answers."""

    path: Path
    rows: Batch
    own: Callable[[Batch], Batch]


@pytest.fixture(scope="session")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stream]:
    """A classifier of three classes, a regressor of numbered features, a detector that decides."""
    folder = tmp_path_factory.mktemp("streams")
    made = {"classifier": sorts(), "regressor": adds(), "detector": detects()}
    found = {}
    for name, (model, rows, own) in made.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(model))
        found[name] = Stream(folder / f"{name}.pkl", rows, own)
    return found


def streamed(n: int = 300) -> Batch:
    """Rows to learn from."""
    draw = np.random.default_rng(4)
    cities = np.array(["oslo", "åbo"], dtype=object)
    return {
        "heat": draw.uniform(-5, 30, n),
        "load": draw.random(n),
        "city": cities[draw.integers(0, 2, n)],
    }


def as_rows(batch: Batch) -> list[dict[str, Any]]:
    """Rows as River takes them."""
    columns = (array.tolist() for array in batch.values())
    return [dict(zip(batch, row, strict=True)) for row in zip(*columns, strict=True)]


def sorts() -> tuple[Any, Batch, Callable[[Batch], Batch]]:
    """A tree behind a scaler of numbers and an encoder of text."""
    from river import compose, preprocessing, tree

    numbers = compose.Select("heat", "load") | preprocessing.StandardScaler()
    model = numbers + (compose.Select("city") | preprocessing.OneHotEncoder())
    model |= tree.HoeffdingTreeClassifier(grace_period=20)
    for row in as_rows(streamed()):
        model.learn_one(row, "cold" if row["heat"] < 5 else "wärm" if row["load"] < 0.7 else "busy")

    def own(batch: Batch) -> Batch:
        told = [model.predict_proba_one(row) for row in as_rows(batch)]
        ordered = [[each.get(name, 0.0) for name in ("busy", "cold", "wärm")] for each in told]
        labels = [model.predict_one(row) for row in as_rows(batch)]
        return {
            "label": np.array(labels, dtype=object),
            "probabilities": np.array(ordered, dtype=np.float32),
        }

    return model, streamed(), own


def adds() -> tuple[Any, Batch, Callable[[Batch], Batch]]:
    """A line through rows whose features are numbered: they are one vector."""
    from river import linear_model, preprocessing

    matrix = np.random.default_rng(6).normal(size=(200, 3))
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    for row in matrix.tolist():
        model.learn_one(dict(enumerate(row)), row[0] - 2 * row[2])

    def own(batch: Batch) -> Batch:
        values = [model.predict_one(dict(enumerate(row))) for row in batch["x"].tolist()]
        return {"value": np.array(values, dtype=np.float32)}

    return model, {"x": matrix}, own


def detects() -> tuple[Any, Batch, Callable[[Batch], Batch]]:
    """Half-space trees that score, and a filter that decides."""
    from river import anomaly, preprocessing

    rows = {name: array for name, array in streamed().items() if name != "city"}
    last = anomaly.QuantileFilter(anomaly.HalfSpaceTrees(n_trees=5, seed=1), q=0.9)
    model = preprocessing.MinMaxScaler() | last
    for row in as_rows(rows):
        model.learn_one(row)

    def own(batch: Batch) -> Batch:
        scores = [model.score_one(row) for row in as_rows(batch)]
        return {
            "score": np.array(scores, dtype=np.float32),
            "anomaly": np.array([last.classify(score) for score in scores]),
        }

    return model, rows, own
