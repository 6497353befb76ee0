"""A home with a model of one number and its key, for tables that are built again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.registry import Registry


@pytest.fixture(scope="module")
def ratios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a model that divides, to which 0 and -0 are two inputs; version 2 multiplies."""
    folder = tmp_path_factory.mktemp("ratios")
    with open_home(Settings(home=folder / "home")) as home:
        for operator in ("Div", "Mul"):
            _write_model(folder / f"{operator}.onnx", operator)
            package_onnx(folder / f"{operator}.onnx", "ratio", folder / operator)
            Registry(home).register(folder / operator, "ratio", blessed=True)
        yield home


def _write_model(path: Path, operator: str) -> None:
    inputs = [
        helper.make_tensor_value_info("id", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
    ]
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    nodes = [
        helper.make_node("Cast", ["id"], ["f"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["f", "x"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "ratio", inputs, [answer])
    opsets = [helper.make_opsetid("", 19)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
