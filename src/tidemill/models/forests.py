"""Trees and forests of scikit-learn's as one ONNX operator, made from their arrays at once.

scikit-learn compares in 32 bits: every value is cast to float32 before it meets a threshold of 64
bits. A float32 is at most such a threshold exactly where it is at most the largest float32 that is
no larger than it; with thresholds rounded down so, the graph takes the same way for every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.models.signature import Array, Signature

_OPSET, _ML_OPSET, _IR = 18, 1, 9
_MATRIX = "tidemill_matrix"
_FAMILIES = {"RandomForest": True, "ExtraTrees": True, "DecisionTree": False, "ExtraTree": False}
_LEAF = -1


def is_forest(estimator: Any) -> bool:
    """Says whether an estimator is scikit-learn's own tree or forest of one output.

    A subclass of somebody else's may answer in another way.
    """
    kind = type(estimator)
    family = kind.__name__.removesuffix("Classifier").removesuffix("Regressor")
    if kind.__module__.partition(".")[0] != "sklearn" or family not in _FAMILIES:
        return False
    classes = getattr(estimator, "classes_", None)
    plain = classes is None or np.asarray(classes).dtype.kind in "iuUO"
    return getattr(estimator, "n_outputs_", 0) == 1 and plain


def build_forest_graph(estimator: Any, signature: Signature) -> bytes:
    """Returns the graph of an estimator that ``is_forest``; its inputs are float32.

    Args:
        estimator: fitted.
        signature: one vector, or one scalar per feature; label and probabilities, or a value.
    """
    from onnx import helper  # noqa: PLC0415

    width = estimator.n_features_in_
    columns = [column.name for column in signature.inputs]
    lone = len(columns) == 1
    matrix = columns[0] if lone else _MATRIX
    nodes = [] if lone else [helper.make_node("Concat", columns, [_MATRIX], axis=1)]
    float32 = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    outputs: list[Any] = []
    for column in signature.outputs:
        kind = float32 if column.name != "label" else _label_type(estimator)
        shape = column.shape or ((1,) if column.name == "value" else ())
        outputs.append(helper.make_tensor_value_info(column.name, kind, ["n", *shape]))
    nodes.append(_ensemble(estimator, matrix, [column.name for column in signature.outputs]))
    graph = helper.make_graph(
        nodes,
        "compiled",
        [
            helper.make_tensor_value_info(name, float32, ["n", width if lone else 1])
            for name in columns
        ],
        outputs,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    data: bytes = model.SerializeToString()
    return data


def _label_type(estimator: Any) -> int:
    from onnx import TensorProto  # noqa: PLC0415

    whole = np.asarray(estimator.classes_).dtype.kind in "iu"
    return int(TensorProto.INT64 if whole else TensorProto.STRING)


def _ensemble(estimator: Any, matrix: str, outputs: Sequence[str]) -> Any:
    """Returns the node that walks all trees and adds up what their leaves hold."""
    from onnx import helper  # noqa: PLC0415

    trees = [each.tree_ for each in getattr(estimator, "estimators_", [estimator])]
    counts = [tree.node_count for tree in trees]
    owner = np.repeat(np.arange(len(trees)), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    left = np.concatenate([tree.children_left for tree in trees])
    right = np.concatenate([tree.children_right for tree in trees])
    feature = np.concatenate([tree.feature for tree in trees])
    threshold = _rounded_down(np.concatenate([tree.threshold for tree in trees]))
    missing_left = np.concatenate([_missing_left(tree) for tree in trees])
    inner = left != _LEAF
    walk = {
        "nodes_treeids": owner,
        "nodes_nodeids": within,
        "nodes_featureids": np.where(inner, feature, 0),
        "nodes_values": np.where(inner, threshold, np.float32(0)),
        "nodes_truenodeids": np.where(inner, left, 0),
        "nodes_falsenodeids": np.where(inner, right, 0),
        "nodes_missing_value_tracks_true": np.where(inner, missing_left, 0),
    }
    leaves, share = np.flatnonzero(~inner), 1.0 / len(trees)
    held = np.concatenate([tree.value[:, 0, :] for tree in trees])[leaves]
    classes = getattr(estimator, "classes_", None)
    if classes is not None:
        held = held / held.sum(axis=1, keepdims=True)  # counts, in older versions
        if len(classes) == 2:  # ONNX wants the second one's score alone, and makes the other of it
            held = held[:, 1:]
            at, of = np.arange(len(leaves)), np.zeros(len(leaves), dtype=np.int64)
        else:  # a class that a leaf never saw adds nothing, and need not be told so
            at, of = np.nonzero(held)
        said = _classes(classes)
        into, operator = "class", "TreeEnsembleClassifier"
    else:
        at, of = np.arange(len(leaves)), np.zeros(len(leaves), dtype=np.int64)
        said = {"n_targets": 1}
        into, operator = "target", "TreeEnsembleRegressor"
    adds = {
        f"{into}_treeids": owner[leaves][at],
        f"{into}_nodeids": within[leaves][at],
        f"{into}_ids": of,
        f"{into}_weights": (held[at, of] * share).astype(np.float32),
    }
    return helper.make_node(
        operator,
        [matrix],
        list(outputs),
        domain="ai.onnx.ml",
        nodes_modes=np.where(inner, b"BRANCH_LEQ", b"LEAF").tolist(),
        post_transform="NONE",
        **{name: values.tolist() for name, values in {**walk, **adds}.items()},
        **said,
    )


def _classes(classes: Any) -> dict[str, Any]:
    names = np.asarray(classes)
    if names.dtype.kind in "iu":
        return {"classlabels_int64s": [int(each) for each in names]}
    return {"classlabels_strings": [str(each) for each in names]}


def _rounded_down(thresholds: Array) -> Array:
    """Returns, of each, the largest float32 that is no larger.

    Example:
        >>> [float(each) for each in _rounded_down(np.array([0.5, 0.1, -0.1]))]
        [0.5, 0.09999999403953552, -0.10000000149011612]
    """
    near = thresholds.astype(np.float32)
    down: Array = np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)
    return down


def _missing_left(tree: Any) -> Array:
    found = getattr(tree, "missing_go_to_left", None)
    return np.zeros(tree.node_count, np.int64) if found is None else np.asarray(found, np.int64)
