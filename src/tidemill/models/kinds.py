"""The kinds of files and folders that models come in, each with what makes a model folder of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tidemill.foundation.errors import InvalidModel
from tidemill.models.format import MANIFEST
from tidemill.models.packagers.boosted import package_lightgbm, package_xgboost
from tidemill.models.packagers.mlflow import package_pyfunc
from tidemill.models.packagers.onnx import package_onnx_file
from tidemill.models.packagers.python import package_function
from tidemill.models.packagers.sklearn import package_pickle
from tidemill.models.packagers.torch import package_torch
from tidemill.models.packaging import Packager
from tidemill.models.sources import MAIN, split_reference
from tidemill_worker.mlflow_models import MLMODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way in which models are saved.

    Args:
        name: a word for it.
        called: the same for people, with an article.
        trust: "code" if loading it runs code of its maker.
        package: makes a model folder of it.
        suffixes: what the names of its files end with, in small letters.
        marker: if it is a folder: a file that every such folder holds.
        requires: it may have requirements of its own.
    """

    name: str
    called: str
    trust: Literal["data", "code"]
    package: Packager
    suffixes: tuple[str, ...] = ()
    marker: str | None = None
    requires: bool = False


_FUNCTION = Kind(
    name="function",
    called="a Python function",
    trust="code",
    package=package_function,
    suffixes=(".py",),
    marker=MAIN,
    requires=True,
)
KINDS = (
    Kind(
        name="onnx",
        called="an ONNX file",
        trust="data",
        package=package_onnx_file,
        suffixes=(".onnx",),
    ),
    Kind(
        name="joblib",
        called="a joblib or pickle file",
        trust="code",
        package=package_pickle,
        suffixes=(".joblib", ".pkl", ".pickle"),
        requires=True,
    ),
    Kind(
        name="torch",
        called="a PyTorch file",
        trust="code",
        package=package_torch,
        suffixes=(".pt", ".pt2", ".pth", ".ts"),
    ),
    Kind(
        name="lightgbm",
        called="a text file of LightGBM's",
        trust="data",
        package=package_lightgbm,
        suffixes=(".txt", ".lgb"),
    ),
    Kind(
        name="xgboost",
        called="a file of XGBoost's",
        trust="data",
        package=package_xgboost,
        suffixes=(".json", ".ubj"),
    ),
    Kind(
        name="mlflow",
        called="a model of MLflow's",
        trust="code",
        package=package_pyfunc,
        marker=MLMODEL,
        requires=True,
    ),
    _FUNCTION,
)


def is_model_folder(path: Path) -> bool:
    """Says whether a path is a folder that was packaged already."""
    return (path / MANIFEST).is_file()


def find_kind(path: Path) -> Kind:
    """Says what kind of model lies at a path, or is named ``module:function``; nothing is loaded.

    Raises:
        InvalidModel: nothing is there, it is empty, or no model's name ends so.
    """
    if path.is_dir():
        return _folder_kind(path)
    if not path.exists() and split_reference(path) is not None:
        return _FUNCTION
    if not path.is_file():
        raise InvalidModel(f"there is no file {str(path)!r}", remedy="Check the path.")
    for kind in KINDS:
        if path.suffix.lower() in kind.suffixes:
            if path.stat().st_size == 0:
                raise InvalidModel(f"{str(path)!r} is empty", remedy="Save the model again.")
            return kind
    known = ", ".join(suffix for kind in KINDS for suffix in kind.suffixes)
    raise InvalidModel(
        f"{str(path)!r} does not look like a model",
        remedy=f"Give a file that ends with one of {known}, a model folder, or module:function.",
    )


def _folder_kind(path: Path) -> Kind:
    for kind in KINDS:
        if kind.marker is not None and (path / kind.marker).is_file():
            return kind
    known = ", ".join([MANIFEST, *(kind.marker for kind in KINDS if kind.marker is not None)])
    raise InvalidModel(
        f"folder {str(path)!r} is no model folder: it has no {known}",
        remedy="Give the model's file, or a folder that Tidemill packaged.",
    )
