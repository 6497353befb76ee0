"""A home with a few versions of one small model, blessed and not, and two tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.registry import Registry
from tidemill.tables.answer import encode_answer
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import store_table
from tidemill.tables.key import KeyEncoder
from tidemill.tables.table import TableInfo

Fill = Callable[[Home], tuple[str, str]]


def _onnx(path: Path, factor: float) -> Path:
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in "xy"]
    by = helper.make_tensor("by", TensorProto.FLOAT, [1], [factor])
    node = helper.make_node("Mul", ["x", "by"], ["y"])
    graph = helper.make_graph([node], "times", [sides[0]], [sides[1]], initializer=[by])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four packaged models that multiply by 1, 2, 3 and 4."""
    base = tmp_path_factory.mktemp("models")
    for n in range(1, 5):
        package_onnx(_onnx(base / f"{n}.onnx", float(n)), "m", base / str(n))
    return [base / str(n) for n in range(1, 5)]


@pytest.fixture
def fill(model_folders: list[Path], tmp_path: Path) -> Fill:
    """Registers versions 1 to 3, blessed, and 4, not blessed, and tables of versions 1 and 2."""

    def into(home: Home) -> tuple[str, str]:
        for n, folder in enumerate(model_folders, start=1):
            blessing = {"reasons": ["AUC 0.5000 is not above 0.5100"]} if n == 4 else None
            Registry(home).register(folder, "m", blessed=n < 4, blessing=blessing)
        return _table(home, tmp_path / "t1", 1), _table(home, tmp_path / "t2", 2)

    return into


def _table(home: Home, folder: Path, version: int) -> str:
    encoder = KeyEncoder([("x", "float32")])
    with TableBuilder(folder, clock=home.clock) as builder:
        builder.put(encoder.many([[1.0]]), [encode_answer({"y": [float(version)]})])
        info = TableInfo(application="app", model="m", version=version, key=encoder.columns)
        builder.commit(info)
    return store_table(home, folder).id


@pytest.fixture
def tables(home: Home, fill: Fill) -> tuple[str, str]:
    """The ids of the tables of versions 1 and 2 in the home, which has all four versions."""
    return fill(home)


@pytest.fixture
def postgres_home(postgres_url: str, tmp_path: Path) -> Iterator[Home]:
    """An empty installation whose store is PostgreSQL."""
    from tidemill.foundation.settings import StoreSettings

    settings = Settings(home=tmp_path / "home", store=StoreSettings(url=postgres_url))
    with open_home(settings) as home:
        yield home
