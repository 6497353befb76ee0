"""Models that the tests of this room share; fitted and packaged once."""

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
