"""A booster as a record: its trees, how their sum becomes an answer, and its columns.

A file is read into it, and checked, before a native library sees the file: those libraries follow
the indices that they find. It is also what a booster is compiled from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tidemill.foundation.errors import InvalidModel
from tidemill.models.signature import Array, Column, Signature

MAX_FEATURES = 1 << 20
MAX_GROUPS = 10_000
MAX_FILE_BYTES = 1 << 30
_WHOLE = re.compile(r"-?[0-9]{1,18}")

Link = Literal["identity", "sigmoid", "softmax", "exp"]
Answer = Literal["value", "binary", "classes", "label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One tree: arrays with one entry per node, the root first.

    Args:
        feature: what an inner node compares.
        threshold: with what.
        left: the child where the comparison holds; below 0 in leaves.
        right: the other child.
        missing_left: a missing value goes left.
        value: what a leaf adds to its group.
        group: the score that the tree adds to.
    """

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    value: Array
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """What a booster's file says, checked.

    Args:
        trees: none if it is a linear model.
        native: the model as its library gets it.
        width: how many features there are.
        groups: how many scores a row has.
        names: of the features; None if nobody gave them any.
        types: of the features, as columns have them.
        dtype: in which features are compared.
        strict: a value equal to the threshold goes right.
        base: what each score begins with.
        link: what becomes of the scores.
        scale: what scores are multiplied with before that.
        answer: what the linked scores are: values, the probability of class 1, of each class, or
            a label.
        only_native: why it cannot be compiled, if so.
    """

    trees: tuple[Tree, ...]
    native: bytes
    width: int
    groups: int
    names: tuple[str, ...] | None
    types: tuple[str, ...]
    dtype: Literal["float32", "float64"]
    strict: bool
    base: tuple[float, ...]
    link: Link
    scale: float = 1.0
    answer: Answer
    only_native: str | None = None

    @property
    def classes(self) -> int:
        """How many classes its labels come from; 0 if it gives values."""
        return 0 if self.answer == "value" else max(2, self.groups)

    def signature(self) -> Signature:
        """Returns the columns: one vector ``x``, or one scalar per feature that has a name."""
        if self.names is None:
            inputs: tuple[Column, ...] = (Column("x", self.dtype, (self.width,)),)
        else:
            inputs = tuple(map(Column, self.names, self.types))
        if self.answer == "value":
            shape = () if self.groups == 1 else (self.groups,)
            return Signature(inputs, (Column("value", "float32", shape),))
        label = Column("label", "int64")
        if self.answer == "label":
            return Signature(inputs, (label,))
        return Signature(inputs, (label, Column("probabilities", "float32", (self.classes,))))

    def thresholds(self) -> dict[int, Array]:
        """Returns what each feature is compared with, where that is of a size that rows have."""
        found: dict[int, list[Array]] = {}
        for tree in self.trees:
            inner = (tree.left >= 0) & (np.abs(tree.threshold) < 1e30)
            for feature in np.unique(tree.feature[inner]):
                at = tree.threshold[inner & (tree.feature == feature)]
                found.setdefault(int(feature), []).append(at.astype(np.float64))
        return {feature: np.unique(np.concatenate(each)) for feature, each in found.items()}


def check_tree(tree: Tree, width: int, where: str) -> int:
    """Makes sure that every walk from the root ends at a leaf, and compares features there are.

    Returns:
        How many nodes the walks lead to.

    Raises:
        InvalidModel: one would not.
    """
    nodes = len(tree.left)
    arrays = (tree.right, tree.feature, tree.threshold, tree.missing_left, tree.value)
    if nodes == 0 or any(array.shape != (nodes,) for array in arrays):
        raise malformed(f"the arrays of {where} have different lengths")
    seen = np.zeros(nodes, dtype=bool)
    level: Array = np.zeros(1, dtype=np.int64)
    while level.size:
        if level.min() < 0 or level.max() >= nodes:
            raise malformed(f"{where} names a node that it does not have")
        if seen[level].any() or np.unique(level).size < level.size:
            raise malformed(f"{where} is no tree: two ways lead to one node")
        seen[level] = True
        inner = level[tree.left[level] >= 0]
        features = tree.feature[inner]
        if features.size and (features.min() < 0 or features.max() >= width):
            raise malformed(f"{where} compares a feature over the {width} that there are")
        level = np.concatenate([tree.left[inner], tree.right[inner]]).astype(np.int64)
    return int(seen.sum())


def malformed(what: str) -> InvalidModel:
    """Returns the error of a file that is not what its framework writes."""
    return InvalidModel(
        f"the booster's file is damaged or not one: {what}", remedy="Save the model again."
    )


def whole(value: Any, what: str, low: int, high: int) -> int:
    """Returns a number that a file gives as text or number.

    Raises:
        InvalidModel: it is none, or not within the bounds.
    """
    # Only what every reader takes for the same number: int() would take "1_0", and 1.5 for 1.
    text = str(value) if isinstance(value, str | int) else ""
    if not _WHOLE.fullmatch(text):
        raise malformed(f"{what} is {str(value)[:50]!r}, no whole number")
    number = int(text)
    if not low <= number <= high:
        raise malformed(f"{what} is {number}, not between {low} and {high}")
    return number
