"""LightGBM's text files, read, checked, and written again for the library.

Its parser ends the process where a file is not as it expects: it is given what was checked, written
anew, and nothing else of the file.

tree                          keys and values, a blank line, then a block per tree, whose
max_feature_idx=3             sizes in bytes the header gives; then importances and
objective=binary sigmoid:1    parameters, which nothing here needs
tree_sizes=861 868
"""

from __future__ import annotations

import re
from typing import NamedTuple

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
from tidemill.models.signature import Array

_CATEGORICAL, _DEFAULT_LEFT = 1, 2  # bits of decision_type; bits 2 and 3 say what is missing
_ZERO_IS_MISSING, _NAN_IS_MISSING = 1, 2
_MAX_LEAVES = 1 << 26
_INTEGERS = re.compile(r"[-0-9 ]*")
_NUMBERS = re.compile(r"[-+.0-9eE ]*")
_OBJECTIVE = re.compile(r"[A-Za-z0-9_:. -]{1,200}")
_DEFAULT_NAME = re.compile(r"Column_\d+\Z")
_CUSTOM = "custom"
_IDENTITIES = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", _CUSTOM)
_RANKERS = ("lambdarank", "rank_xendcg")
_EXPONENTIALS = ("poisson", "gamma", "tweedie")


class _Objective(NamedTuple):
    name: str
    options: dict[str, str]
    flags: set[str]
    written: str


def is_lightgbm(data: bytes) -> bool:
    """Says whether bytes begin as LightGBM's text files do."""
    return data.startswith(b"tree\n")


def read_lightgbm(data: bytes) -> Forest:
    """Returns what the bytes of a model's text file say.

    Raises:
        InvalidModel: they are no such file, or its trees lead nowhere.
    """
    if not is_lightgbm(data):
        raise malformed("it does not begin as LightGBM's text files do")
    if len(data) > MAX_FILE_BYTES:
        raise malformed(f"it has over {MAX_FILE_BYTES} bytes")
    head, end = _header(data)
    width = whole(head.get("max_feature_idx"), "max_feature_idx", 0, MAX_FEATURES - 1) + 1
    groups = whole(head.get("num_tree_per_iteration"), "num_tree_per_iteration", 1, MAX_GROUPS)
    objective = _objective(head, groups)
    names = head.get("feature_names", "").split(" ")
    infos = head.get("feature_infos", "").split(" ")
    if len(names) != width or len(infos) != width:
        raise malformed(f"it has {len(names)} names and {len(infos)} infos of {width} features")
    blocks = _blocks(data, end, head.get("tree_sizes", ""))
    if len(blocks) % groups:
        raise malformed(f"{len(blocks)} trees are no multiple of {groups}")
    average = len(blocks) // groups if "average_output" in head else 1
    trees = [_Block(keys, f"tree {i}", width) for i, keys in enumerate(blocks)]
    read = tuple(tree.read(i % groups, average) for i, tree in enumerate(trees))
    link, scale, answer, unknown = _linked(objective)
    reasons = [unknown, *(tree.only_native for tree in trees)]
    return Forest(
        trees=read,
        native=_written(width, groups, objective, trees, average="average_output" in head),
        width=width,
        groups=groups,
        names=None if all(map(_DEFAULT_NAME.match, names)) else tuple(names),
        types=tuple("int64" if _has_categories(info) else "float64" for info in infos),
        dtype="float64",
        strict=False,
        base=(0.0,) * groups,
        link=link,
        scale=scale,
        answer=answer,
        only_native=next((reason for reason in reasons if reason), None),
    )


def _header(data: bytes) -> tuple[dict[str, str], int]:
    """Returns the keys before the first tree, and where that begins."""
    at = data.find(b"\n\nTree=0\n")
    if at < 0:
        raise malformed("it has no tree")
    return _keys(data[:at]), at + 2


def _keys(block: bytes) -> dict[str, str]:
    try:
        lines = block.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise malformed(f"it is no text: {error}") from error
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.rstrip("\r").partition("=")
        if key in found:
            raise malformed(f"{key[:50]!r} is said twice")
        if key:
            found[key] = value
    return found


def _blocks(data: bytes, start: int, sizes: str) -> list[dict[str, str]]:
    """Cuts the trees where the header says: LightGBM goes by these sizes, not by what is there."""
    blocks, at = [], start
    for i, size in enumerate(sizes.split()):
        stop = at + whole(size, f"the size of tree {i}", 1, len(data) - at)
        block = data[at:stop]
        if not block.startswith(b"Tree=%d\n" % i) or not block.endswith(b"\n"):
            raise malformed(f"tree {i} is not where its header says")
        blocks.append(_keys(block))
        at = stop
    if not blocks or not data.startswith(b"end of trees", at):
        raise malformed("the sizes of its trees are not those of its trees")
    return blocks


class _Block:
    """The keys of one tree; what is asked of them is checked, and kept as the file has it."""

    def __init__(self, keys: dict[str, str], where: str, width: int) -> None:
        self._keys, self._where, self._width = keys, where, width
        self.kept: dict[str, str] = {}
        self.only_native: str | None = None

    def read(self, group: int, average: int) -> Tree:
        """Returns the tree."""
        leaves = whole(self._keys.get("num_leaves"), f"num_leaves of {self._where}", 1, _MAX_LEAVES)
        self.kept = {"num_leaves": str(leaves), "num_cat": "0"}
        inner, ends = leaves - 1, np.zeros(leaves, dtype=np.int64)
        feature = self._integers("split_feature", inner)
        threshold = self._numbers("threshold", inner)
        kinds = self._integers("decision_type", inner)
        left, right = self._integers("left_child", inner), self._integers("right_child", inner)
        value = self._numbers("leaf_value", leaves)
        for side in (left, right):
            if side.size and not (-leaves <= side.min() and side.max() < inner):
                raise malformed(f"{self._where} names a node that it does not have")
        missing = kinds >> 2 & 3
        goes_left = np.where(missing == _NAN_IS_MISSING, kinds & _DEFAULT_LEFT > 0, threshold >= 0)
        tree = Tree(
            feature=np.concatenate([feature, ends]),
            threshold=np.concatenate([threshold, ends]),
            # Leaves come after the inner nodes here; LightGBM writes the first one as -1.
            left=np.concatenate([np.where(left < 0, inner - left - 1, left), ends - 1]),
            right=np.concatenate([np.where(right < 0, inner - right - 1, right), ends - 1]),
            missing_left=np.concatenate([goes_left, ends > 0]),
            value=np.concatenate([np.zeros(inner), value / average]),
            group=group,
        )
        if check_tree(tree, self._width, self._where) < leaves + inner:
            raise malformed(f"{self._where} has nodes that no way leads to")
        if (missing == _ZERO_IS_MISSING).any():
            self.only_native = "it takes zero as missing"
        categorical = kinds & _CATEGORICAL > 0
        if categorical.any():
            self._categories(threshold[categorical])
        if self._keys.get("is_linear", "0") != "0":
            self._linear(leaves)
        return tree

    def written(self, number: int) -> str:
        """Returns the block as the library gets it."""
        lines = "\n".join(f"{key}={value}" for key, value in self.kept.items())
        return f"Tree={number}\n{lines}\nshrinkage=1\n\n\n"

    def _linear(self, leaves: int) -> None:
        counts = self._integers("num_features", leaves)
        if counts.min() < 0:
            raise malformed(f"{self._where} has a leaf with {counts.min()} features")
        features = self._integers("leaf_features", int(counts.sum()))
        self._numbers("leaf_coeff", int(counts.sum()))
        self._numbers("leaf_const", leaves)
        if features.size and not (features.min() >= 0 and features.max() < self._width):
            raise malformed(f"{self._where} has a leaf with a feature that there is not")
        self.kept["is_linear"] = "1"
        self.only_native = "its leaves are linear models"

    def _categories(self, chosen: Array) -> None:
        splits = whole(self._keys.get("num_cat"), f"num_cat of {self._where}", 1, _MAX_LEAVES)
        bounds = self._integers("cat_boundaries", splits + 1)
        if bounds[0] != 0 or (np.diff(bounds) < 0).any():
            raise malformed(f"the categories of {self._where} are out of order")
        self._integers("cat_threshold", int(bounds[-1]))
        if not (chosen.min() >= 0 and chosen.max() < splits):
            raise malformed(f"{self._where} names categories that it does not have")
        self.kept["num_cat"] = str(splits)
        self.only_native = "it splits by categories"

    def _integers(self, key: str, count: int) -> Array:
        if not _INTEGERS.fullmatch(self._keys.get(key, "")):
            raise malformed(f"{key} of {self._where} holds other than whole numbers")
        found = self._numbers(key, count)
        if np.abs(found).max(initial=0) >= 1 << 32:
            raise malformed(f"{key} of {self._where} holds a number that is too large")
        return found.astype(np.int64)

    def _numbers(self, key: str, count: int) -> Array:
        text = self._keys.get(key, "")
        words = text.split()
        if len(words) != count or not _NUMBERS.fullmatch(text):
            raise malformed(f"{key} of {self._where} holds other than {count} numbers")
        try:
            found: Array = np.array(words, dtype=np.float64)
        except ValueError as error:
            raise malformed(f"{key} of {self._where} holds no number: {str(error)[:80]}") from error
        if not np.isfinite(found).all():
            raise malformed(f"{key} of {self._where} holds a number that is too large")
        if words:
            self.kept[key] = " ".join(words)
        return found


def _written(
    width: int,
    groups: int,
    objective: _Objective,
    trees: list[_Block],
    *,
    average: bool,
) -> bytes:
    blocks = [tree.written(i) for i, tree in enumerate(trees)]
    head = [
        *("tree", "version=v4", f"num_class={groups}", f"num_tree_per_iteration={groups}"),
        *("label_index=0", f"max_feature_idx={width - 1}"),
        *([] if objective.name == _CUSTOM else [f"objective={objective.written}"]),
        *(["average_output"] if average else []),
        "feature_names=" + " ".join(f"Column_{i}" for i in range(width)),
        "feature_infos=" + " ".join(["none"] * width),
        "tree_sizes=" + " ".join(str(len(block)) for block in blocks),
    ]
    return "".join(["\n".join(head), "\n\n", *blocks, "end of trees\n"]).encode()


def _objective(head: dict[str, str], groups: int) -> _Objective:
    written = head.get("objective", _CUSTOM)
    if not _OBJECTIVE.fullmatch(written):
        raise malformed(f"its objective is {written[:50]!r}")
    words = written.split(" ")
    options = dict(word.split(":", 1) for word in words[1:] if ":" in word)
    flags = {word for word in words[1:] if ":" not in word}
    classes = whole(head.get("num_class"), "num_class", 1, MAX_GROUPS)
    several = words[0] in {"multiclass", "multiclassova"}
    told = options.get("num_class") if several else groups
    told = whole(told, "the objective's num_class", 1, MAX_GROUPS)
    # The library writes as many probabilities as the objective says, where as many as there are
    # trees in an iteration have their place.
    alone = groups == 1 or several or words[0] == _CUSTOM
    if told != groups or classes != groups or not alone:
        raise malformed(f"{words[0][:50]!r} of {told} classes has {groups} trees an iteration")
    return _Objective(words[0], options, flags, written)


def _linked(objective: _Objective) -> tuple[Link, float, Answer, str | None]:
    name, options, flags, _ = objective
    scale = _number(options.get("sigmoid", "1"))
    if name == "binary":
        return "sigmoid", scale, "binary", None
    if name == "multiclass":
        return "softmax", 1.0, "classes", None
    if name == "multiclassova":
        return "sigmoid", scale, "classes", None
    if name == "cross_entropy":
        return "sigmoid", 1.0, "value", None
    if name in _EXPONENTIALS:
        return "exp", 1.0, "value", None
    known = name in _IDENTITIES + _RANKERS and "sqrt" not in flags
    return "identity", 1.0, "value", None if known else f"its objective {name[:50]!r} is not known"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise malformed(f"{text[:50]!r} is no number") from error


def _has_categories(info: str) -> bool:
    return info != "none" and not info.startswith("[")
