"""XGBoost's own files, JSON and Universal Binary JSON, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from tidemill.models.boosters.forest import (
    MAX_FEATURES,
    MAX_FILE_BYTES,
    MAX_GROUPS,
    Answer,
    Forest,
    Link,
    Tree,
    check_tree,
    malformed,
    whole,
)
from tidemill.models.boosters.ubjson import read_ubjson
from tidemill.models.signature import Array

_TYPES = {"int": "int64", "i": "bool", "c": "int64"}
_MAX_CATEGORIES = 1 << 24
_NO_PARENT = (1 << 31) - 1
_LINKS: dict[str, tuple[Link, Answer]] = {
    "binary:logistic": ("sigmoid", "binary"),
    "binary:logitraw": ("identity", "value"),
    "reg:logistic": ("sigmoid", "value"),
    "multi:softprob": ("softmax", "classes"),
    "multi:softmax": ("softmax", "classes"),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), ("exp", "value")),
    **dict.fromkeys(
        (
            *("reg:squarederror", "reg:linear", "reg:absoluteerror", "reg:pseudohubererror"),
            *("reg:squaredlogerror", "reg:quantileerror"),
            *("rank:pairwise", "rank:ndcg", "rank:map"),
        ),
        ("identity", "value"),
    ),
}


def read_xgboost(data: bytes) -> Forest:
    """Returns what the bytes of a model's file say, JSON or UBJSON.

    Raises:
        InvalidModel: they are no such file, or its trees lead nowhere.
    """
    if len(data) > MAX_FILE_BYTES:
        raise malformed(f"it has over {MAX_FILE_BYTES} bytes")
    learner = _part(_decoded(data), "learner")
    parameters = _part(learner, "learner_model_param")
    width = whole(parameters.get("num_feature"), "num_feature", 1, MAX_FEATURES)
    classes = whole(parameters.get("num_class", 0), "num_class", 0, MAX_GROUPS)
    targets = whole(parameters.get("num_target", 1), "num_target", 0, MAX_GROUPS)
    groups = max(1, classes, targets)
    objective = _objective(_part(learner, "objective"), classes)
    names, types = _features(learner, width)
    trees, reason = _booster(_part(learner, "gradient_booster"), width, groups)
    link, answer, unknown = _linked(objective, classes)
    return Forest(
        trees=trees,
        native=data,
        width=width,
        groups=groups,
        names=names,
        types=types,
        dtype="float32",
        strict=True,
        base=_base(parameters.get("base_score"), link, groups),
        link=link,
        answer=answer,
        only_native=reason or unknown,
    )


def _decoded(data: bytes) -> Any:
    if data[:1] != b"{":
        raise malformed("it is neither XGBoost's JSON nor its UBJSON")
    if data[1:2] in {b"L", b"i", b"U", b"I", b"l"}:
        return read_ubjson(data)
    try:
        return json.loads(data, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise malformed(f"it is no JSON: {str(error)[:200]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # which of the two counts is up to whoever reads it
        raise malformed("it says a key twice")
    return found


def _part(whole_: Any, name: str) -> Mapping[str, Any]:
    part = whole_.get(name) if isinstance(whole_, Mapping) else None
    if not isinstance(part, Mapping):
        raise malformed(f"it has no {name!r}, as models of XGBoost have")
    return part


def _objective(told: Mapping[str, Any], classes: int) -> str:
    parameters = told.get("softmax_multiclass_param")
    if parameters is not None:
        # The library divides the scores by this number, whatever else it has read.
        told_classes = _part(told, "softmax_multiclass_param").get("num_class")
        whole(told_classes, "the objective's num_class", classes, classes)
    return str(told.get("name"))


def _features(
    learner: Mapping[str, Any], width: int
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    names, kinds = (list(learner.get(key) or ()) for key in ("feature_names", "feature_types"))
    for found in (names, kinds):
        if found and (len(found) != width or not all(isinstance(each, str) for each in found)):
            raise malformed(f"it names {len(found)} features of {width}")
    types = tuple(_TYPES.get(kind, "float32") for kind in kinds) or ("float32",) * width
    default = not names or names == [f"f{i}" for i in range(width)]
    return None if default else tuple(names), types


def _booster(
    booster: Mapping[str, Any], width: int, groups: int
) -> tuple[tuple[Tree, ...], str | None]:
    name = booster.get("name")
    if name == "gblinear":
        weights = _array(_part(booster, "model"), "weights", "it")
        if weights.shape != ((width + 1) * groups,):
            raise malformed(f"it has {weights.size} weights for {width} features")
        return (), "it is a linear model"
    if name not in {"gbtree", "dart"}:
        raise malformed(f"it has the unknown booster {str(name)[:50]!r}")
    model = _part(_part(booster, "gbtree") if name == "dart" else booster, "model")
    trees, info = model.get("trees"), _integers(model, "tree_info", "it")
    if not isinstance(trees, list) or not trees or info.shape != (len(trees),):
        raise malformed("it has no trees, or not one group for each")
    _check_counts(model, len(trees))
    if "cats" in model:
        _check_encodings(_part(model, "cats"), width)
    factors = _array(booster, "weight_drop", "it") if name == "dart" else np.ones(len(trees))
    if factors.shape != (len(trees),):
        raise malformed(f"it has {factors.size} weights of {len(trees)} trees")
    read = [
        _tree(tree, i, (width, groups), int(info[i]), factors[i]) for i, tree in enumerate(trees)
    ]
    reasons = [reason for _, reason in read if reason]
    return tuple(tree for tree, _ in read), reasons[0] if reasons else None


def _check_counts(model: Mapping[str, Any], trees: int) -> None:
    parameters = _part(model, "gbtree_model_param")
    whole(parameters.get("num_trees"), "num_trees", trees, trees)
    whole(parameters.get("num_parallel_tree", 1), "num_parallel_tree", 0, trees)
    if "iteration_indptr" in model:
        bounds = _integers(model, "iteration_indptr", "it")
        if bounds.size == 0 or bounds[0] != 0 or bounds[-1] != trees or (np.diff(bounds) < 0).any():
            raise malformed("its iterations are not those of its trees")


def _check_encodings(cats: Mapping[str, Any], width: int) -> None:
    """Makes sure that the names of categories lie where the file says."""
    encodings = cats.get("enc")
    if not encodings:
        return
    if not isinstance(encodings, list) or len(encodings) != width:
        raise malformed("it encodes other categories than those of its features")
    for each in encodings:
        if isinstance(each, Mapping) and "offsets" in each:
            offsets = _integers(each, "offsets", "its categories")
            size = _array(each, "values", "its categories").size
            if offsets.size and (offsets[0] != 0 or (np.diff(offsets) < 0).any()):
                raise malformed("the names of its categories are out of order")
            if offsets.size and offsets[-1] > size:
                raise malformed("its categories end before their names")
    bounds = _integers(cats, "feature_segments", "its categories")
    order = _integers(cats, "sorted_idx", "its categories")
    fits = bounds.size == width + 1 and bounds[0] == 0 and not (np.diff(bounds) < 0).any()
    if not fits or order.size != bounds[-1] or (order.size and order.min() < 0):
        raise malformed("its categories are out of order")
    for first, last in pairwise(bounds):
        if order[first:last].max(initial=-1) >= last - first:
            raise malformed("its categories are out of order")


def _tree(
    told: Any, number: int, sizes: tuple[int, int], group: int, factor: float
) -> tuple[Tree, str | None]:
    width, groups = sizes
    parameters = _part(told, "tree_param")
    where = f"tree {number}"
    if told.get("id", number) != number:  # the library puts it at the place of this number
        raise malformed(f"{where} calls itself {str(told['id'])[:20]}")
    if not 0 <= group < groups:
        raise malformed(f"{where} adds to score {group} of {groups}")
    nodes = whole(parameters.get("num_nodes"), f"num_nodes of {where}", 1, 1 << 28)
    vector = whole(parameters.get("size_leaf_vector", 0), "size_leaf_vector", 0, MAX_GROUPS)
    whole(parameters.get("num_feature"), f"num_feature of {where}", width, width)
    left = _integers(told, "left_children", where)
    if left.shape != (nodes,) or left.min() < -1:
        raise malformed(f"{where} has not the children of {nodes} nodes")
    conditions = _array(told, "split_conditions", where).astype(np.float32)
    tree = Tree(
        feature=_integers(told, "split_indices", where),
        threshold=conditions,
        left=left,
        right=_integers(told, "right_children", where),
        missing_left=_array(told, "default_left", where).astype(bool),
        value=conditions * np.float32(factor),
        group=group,
    )
    check_tree(tree, width, where)
    _check_parents(_integers(told, "parents", where), tree, where)
    for name in ("base_weights", "loss_changes", "sum_hessian"):
        if _array(told, name, where).size < nodes:
            raise malformed(f"{name} of {where} is too short")
    if vector > 1:
        if vector != groups:
            raise malformed(f"the leaves of {where} have {vector} numbers, not {groups}")
        leaves = _array(told, "leaf_weights", where)
        last = tree.right[tree.left < 0].max(initial=0)
        if tree.right[tree.left < 0].min(initial=0) < 0 or leaves.size < (last + 1) * vector:
            raise malformed(f"{where} names a leaf that it does not have")
        return tree, "its leaves are vectors"
    return tree, "it splits by categories" if _has_categories(told, tree, where) else None


def _check_parents(parents: Array, tree: Tree, where: str) -> None:
    """Makes sure that the ways up are the ways down; the library follows both."""
    nodes = tree.left.size
    inner = np.flatnonzero(tree.left >= 0)
    children = np.concatenate([tree.left[inner], tree.right[inner]])
    if parents.size != nodes or (
        children.size and not 0 <= children.min() <= children.max() < nodes
    ):
        raise malformed(f"{where} names a node that it does not have")
    others = np.delete(parents, children)  # the root, and what was pruned
    known = (others >= -1) & (others < nodes) | (others == _NO_PARENT)
    if (parents[children] != np.concatenate([inner, inner])).any() or not known.all():
        raise malformed(f"the parents of {where} are not those of its children")


def _has_categories(told: Any, tree: Tree, where: str) -> bool:
    """Says whether a tree splits by categories, which lie where it says."""
    if "categories" not in told:
        return False
    values, nodes = (_integers(told, name, where) for name in ("categories", "categories_nodes"))
    begins = _integers(told, "categories_segments", where)
    sizes = _integers(told, "categories_sizes", where)
    if not (nodes.shape == begins.shape == sizes.shape):
        raise malformed(f"the categories of {where} have different lengths")
    kinds = _array(told, "split_type", where)
    if kinds.shape != tree.left.shape:
        raise malformed(f"split_type of {where} has {kinds.size} numbers")
    split = np.flatnonzero((kinds == 1) & (tree.left >= 0))
    if not np.isin(split, nodes).all():
        raise malformed(f"{where} names categories that it does not have")
    inside = nodes.size == 0 or (
        nodes.min() >= 0
        and nodes.max() < tree.left.size
        and begins.min() >= 0
        and sizes.min() >= 0
        and (begins + sizes).max() <= values.size
        and values.min(initial=0) >= 0
        and values.max(initial=0) < _MAX_CATEGORIES
    )
    if not inside:
        raise malformed(f"{where} names categories that it does not have")
    return bool(split.size)


def _array(told: Any, name: str, where: str) -> Array:
    found = told.get(name) if isinstance(told, Mapping) else None
    try:
        array: Array = np.asarray(found)
        if array.size == 0:
            array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise malformed(f"{name} of {where} is no list of numbers") from error
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise malformed(f"{name} of {where} is no list of numbers")
    return array


def _integers(told: Any, name: str, where: str) -> Array:
    array = _array(told, name, where)
    if array.size and not (array.min() >= -(1 << 31) and array.max() < 1 << 31):
        raise malformed(f"{name} of {where} holds a number that is too large")
    found: Array = array.astype(np.int64)
    if (found != array).any():
        raise malformed(f"{name} of {where} holds other than whole numbers")
    return found


def _base(told: Any, link: Link, groups: int) -> tuple[float, ...]:
    """Returns what scores begin with; the file has it as an answer, before the link."""
    text = str(told).strip("[]")
    try:
        values = np.array([float(word) for word in text.split(",")])
    except ValueError as error:
        raise malformed(f"base_score is {str(told)[:50]!r}") from error
    if values.size not in {1, groups}:
        raise malformed(f"base_score has {values.size} numbers for {groups}")
    with np.errstate(divide="ignore", invalid="ignore"):
        if link == "sigmoid":
            values = np.log(values / (1 - values))
        elif link == "exp":
            values = np.log(values)
    return tuple(float(value) for value in np.resize(values, groups))


def _linked(objective: str, classes: int) -> tuple[Link, Answer, str | None]:
    if objective.startswith("multi:") != (classes > 1):
        raise malformed(f"{objective[:50]!r} has {classes} classes")
    if objective == "binary:hinge":
        return "identity", "label", "its answer is a step"
    if objective in _LINKS:
        return *_LINKS[objective], None
    return "identity", "value", f"its objective {objective[:50]!r} is not known"
