"""A forest as an ONNX graph: one tree ensemble, then what makes answers of its scores.

The graph compares in the booster's own width, 32 bits or 64, with the booster's own comparison,
and sums in ONNX Runtime's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tidemill.foundation.errors import InvalidModel
from tidemill.models.boosters.forest import Forest
from tidemill.models.signature import Array, Signature

_OPSET, _ML_OPSET, _IR = 18, 3, 9


def build_graph(forest: Forest, signature: Signature) -> bytes:
    """Returns the graph of a forest with these columns.

    Args:
        forest: one that can be compiled.
        signature: one vector of its features, or one scalar per feature; a part of its outputs.

    Raises:
        InvalidModel: it cannot be compiled.
    """
    if forest.only_native is not None:
        raise InvalidModel(forest.only_native)
    from onnx import helper  # noqa: PLC0415

    nodes = [*_features(forest, signature), _ensemble(forest), *_linked(forest)]
    made = helper.make_graph(
        nodes,
        "compiled",
        [
            helper.make_tensor_value_info(c.name, _tensor(c.type), ["n", *(c.shape or (1,))])
            for c in signature.inputs
        ],
        [
            helper.make_tensor_value_info(
                c.name, _tensor("int64" if c.name == "label" else "float32"), ["n", *c.shape]
            )
            for c in signature.outputs
        ],
        _constants(forest),
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    data: bytes = helper.make_model(made, opset_imports=opsets, ir_version=_IR).SerializeToString()
    return data


def _tensor(kind: str) -> int:
    from onnx import helper  # noqa: PLC0415

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def _features(forest: Forest, signature: Signature) -> list[Any]:
    """Returns what makes one matrix of the columns, in the width of the comparisons."""
    from onnx import helper  # noqa: PLC0415

    names = [f"{_PREFIX}{i}" for i in range(len(signature.inputs))]
    nodes = [
        helper.make_node("Cast", [column.name], [name], to=_tensor(forest.dtype))
        for column, name in zip(signature.inputs, names, strict=True)
    ]
    return [*nodes, helper.make_node("Concat", names, [_MATRIX], axis=1)]


_PREFIX = "tidemill_column_"
_MATRIX, _SCORES, _LINKED = "tidemill_matrix", "tidemill_scores", "tidemill_linked"
_SCALE, _ONE, _HALF, _LAST = "tidemill_scale", "tidemill_one", "tidemill_half", "tidemill_last"


def _constants(forest: Forest) -> list[Any]:
    from onnx import numpy_helper  # noqa: PLC0415

    numbers = {_SCALE: forest.scale, _ONE: 1.0, _HALF: 0.5}
    values = {name: np.array(value, dtype=np.float32) for name, value in numbers.items()}
    return [
        *(numpy_helper.from_array(value, name) for name, value in values.items()),
        numpy_helper.from_array(np.array([1], dtype=np.int64), _LAST),
    ]


def _ensemble(forest: Forest) -> Any:
    """Returns the one node that walks all trees, and sums by group."""
    from onnx import helper, numpy_helper  # noqa: PLC0415

    counts = [len(tree.left) for tree in forest.trees]
    inner = np.concatenate([tree.left >= 0 for tree in forest.trees])
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    group = np.repeat([tree.group for tree in forest.trees], counts)

    def joined(name: str) -> Array:
        found: Array = np.concatenate([getattr(tree, name) for tree in forest.trees])
        return found

    numbers = {
        "nodes_values": np.where(inner, joined("threshold"), 0),
        "target_weights": joined("value")[~inner],
        "base_values": np.array(forest.base),
    }
    if forest.dtype == "float64":
        wide = {
            f"{name}_as_tensor": numpy_helper.from_array(values.astype(np.float64), name)
            for name, values in numbers.items()
        }
    else:
        wide = {name: values.astype(np.float32) for name, values in numbers.items()}
    mode = "BRANCH_LT" if forest.strict else "BRANCH_LEQ"
    return helper.make_node(
        "TreeEnsembleRegressor",
        [_MATRIX],
        [_SCORES],
        domain="ai.onnx.ml",
        n_targets=forest.groups,
        nodes_treeids=owner,
        nodes_nodeids=within,
        nodes_featureids=np.where(inner, joined("feature"), 0),
        nodes_modes=[mode if each else "LEAF" for each in inner],
        nodes_truenodeids=np.where(inner, joined("left"), 0),
        nodes_falsenodeids=np.where(inner, joined("right"), 0),
        nodes_missing_value_tracks_true=joined("missing_left").astype(np.int64),
        target_treeids=owner[~inner],
        target_nodeids=within[~inner],
        target_ids=group[~inner],
        **wide,
    )


def _linked(forest: Forest) -> list[Any]:
    from onnx import helper  # noqa: PLC0415

    make = helper.make_node
    scaled = "tidemill_scaled"
    operator = {"identity": "Identity", "sigmoid": "Sigmoid", "softmax": "Softmax", "exp": "Exp"}
    nodes = [
        make("Mul", [_SCORES, _SCALE], [scaled]),
        make(operator[forest.link], [scaled], [_LINKED]),
    ]
    if forest.answer == "classes":
        return [
            *nodes,
            make("Identity", [_LINKED], ["probabilities"]),
            make("ArgMax", [_LINKED], ["label"], axis=1, keepdims=0),
        ]
    if forest.answer == "binary":
        return [
            *nodes,
            make("Sub", [_ONE, _LINKED], ["tidemill_first"]),
            make("Concat", ["tidemill_first", _LINKED], ["probabilities"], axis=1),
            make("Greater", [_LINKED, _HALF], ["tidemill_likely"]),
            make("Squeeze", ["tidemill_likely", _LAST], ["tidemill_row"]),
            make("Cast", ["tidemill_row"], ["label"], to=_tensor("int64")),
        ]
    if forest.groups == 1:
        return [*nodes, make("Squeeze", [_LINKED, _LAST], ["value"])]
    return [*nodes, make("Identity", [_LINKED], ["value"])]
