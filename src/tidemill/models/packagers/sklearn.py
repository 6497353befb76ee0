"""Fitted estimators as model folders, compiled where that was found equal."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock, iso
from tidemill.foundation.errors import InvalidInput, InvalidModel, ModelFailed, Unavailable
from tidemill.foundation.names import check_name
from tidemill.models.compilation import TOLERANCE, compile_sklearn
from tidemill.models.format import NOT_COMPILED, CompilationReport, ModelManifest
from tidemill.models.packagers.river import package_river
from tidemill.models.packaging import (
    Given,
    answering,
    ask,
    blank_rows,
    made_with,
    new_folder,
    write_served,
)
from tidemill.models.probing import probe_rows
from tidemill.models.runtimes.pickled import load_file
from tidemill.models.runtimes.sklearn import SklearnRuntime, as_estimator
from tidemill.models.signature import Batch, Signature, check_batch
from tidemill_worker.estimators import describe_estimator
from tidemill_worker.functions import InvalidModel as DescriptionError
from tidemill_worker.river_models import is_river

_ESTIMATOR = "model.joblib"
_MAX_CLASSES = 10_000
_MAKERS = {"lightgbm": ("lightgbm",), "xgboost": ("xgboost", "xgboost-cpu")}


def package_pickle(path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of a joblib or pickle file that somebody vouched for.

    Raises:
        InvalidModel: it holds neither a fitted estimator nor a model of River's, or what it holds
            does not answer.
        Unavailable: a library that it names is not installed.
    """
    model = load_file(path, trust_code=True)
    if is_river(model):
        return package_river(model, path, name, folder, given)
    estimator = as_estimator(model, str(path))
    signature = given.signature or infer_sklearn_signature(estimator)
    rows = probe_rows(estimator, signature) if given.rows is None else given.rows(signature)
    with answering(path, given):
        return package_sklearn(
            estimator,
            name,
            signature,
            folder,
            rows,
            rows_from=given.rows_from,
            stored=path,
            compiles=given.compiles,
            clock=given.clock,
        )


def package_sklearn(
    estimator: Any,
    name: str,
    signature: Signature | None,
    folder: Path,
    evaluation: Batch | None,
    *,
    rows_from: Literal["evaluation", "probes"] = "evaluation",
    stored: Path | None = None,
    compiles: bool = True,
    tolerance: float = TOLERANCE,
    lineage: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> ModelManifest:
    """Makes a model folder of a fitted estimator, compiled if that was found equal.

    Compiled, the folder's runtime is "onnx" and its trust "data", and the estimator is kept in
    ``original/``, a model folder of its own. Else the runtime is "sklearn" and the trust "code".
    Either way ``compiled_from`` says how it went.

    Args:
        estimator: fitted.
        name: the model's name.
        signature: its columns; inferred if None.
        folder: a new folder, or an empty one.
        evaluation: rows on which compiled and original must agree; without any, the estimator
            is not compiled.
        rows_from: what those rows are; recorded, since probes prove less than evaluation data.
        stored: the file that the estimator was loaded from, kept as it is: pickled again, it would
            have other bytes each time, and be another version.
        compiles: it is to be compiled where that is equal.
        tolerance: of the comparison.
        lineage: what it comes from.
        metrics: how good it was found to be.
        clock: tells when, and how long a call takes.

    Raises:
        InvalidModel: it is not fitted, or does not answer as the signature says.
        InvalidInput: the evaluation rows do not fit the signature.
        Unavailable: scikit-learn is not installed.
    """
    check_name("model", name)
    signature = signature or infer_sklearn_signature(estimator)
    rows = None if evaluation is None else check_batch(signature, evaluation)
    _check_answers(estimator, signature, rows)
    new_folder(folder)
    report = NOT_COMPILED
    if compiles:
        report = _compiled(estimator, signature, rows, tolerance, folder)
    plain = ModelManifest(
        name=name,
        runtime="sklearn",
        signature=signature,
        entry=_ESTIMATOR,
        trust="code",
        lineage=dict(lineage or {}),
        metrics=dict(metrics or {}),
        requirements=made_with("scikit-learn", "joblib", "numpy", "pandas", *_makers(estimator)),
        classes=_classes(estimator),
        created_at=iso(clock.now()),
    )
    return write_served(
        folder,
        plain,
        msgspec.structs.replace(report, rows_from=rows_from),
        rows,
        write_original=lambda place: _write_estimator(place, estimator, stored),
        compiled_with=("skl2onnx", "scikit-learn"),
        clock=clock,
    )


def _makers(estimator: Any) -> tuple[str, ...]:
    """Returns the distributions that an estimator may be from, beside scikit-learn."""
    return _MAKERS.get(type(estimator).__module__.partition(".")[0], ())


def _classes(estimator: Any) -> tuple[str, ...]:
    """Returns what a fitted classifier calls its classes; none if it has very many of them."""
    classes = getattr(estimator, "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(classes) > _MAX_CLASSES:
        return ()
    return tuple(str(each) for each in classes.tolist())


def infer_sklearn_signature(estimator: Any) -> Signature:
    """Returns the columns of a fitted estimator.

    Without feature names the input is one vector ``x`` of float64. With them it is one scalar per
    feature: of the type of its encoder's categories where it has one, else float64. Classifiers
    give ``label`` and ``probabilities``, regressors ``value``.

    Raises:
        InvalidModel: it is not fitted, or has several outputs of classes.
    """
    try:
        found = describe_estimator(estimator)
    except DescriptionError as error:
        raise InvalidModel(error.what, remedy=error.remedy) from error
    return Signature.from_json(msgspec.json.encode(found))


def _compiled(
    estimator: Any, signature: Signature, rows: Batch | None, tolerance: float, folder: Path
) -> CompilationReport:
    if rows is None:
        return CompilationReport(
            equal=False, reason="no evaluation rows were given to compare on", tolerance=tolerance
        )
    return compile_sklearn(estimator, signature, rows, tolerance=tolerance, folder=folder)


def _check_answers(estimator: Any, signature: Signature, rows: Batch | None) -> None:
    runtime = SklearnRuntime(estimator, signature)
    some = blank_rows(signature, 2) if rows is None else {k: v[:2] for k, v in rows.items()}
    try:
        ask(runtime, some)
    except InvalidModel:
        raise
    except (InvalidInput, ModelFailed) as error:
        raise InvalidModel(
            f"the {type(estimator).__name__} does not answer as its signature says: {error}",
            remedy="Give rows that it takes (--sample), or a signature that fits it (--signature).",
        ) from error


def _write_estimator(folder: Path, estimator: Any, stored: Path | None) -> None:
    if stored is not None:
        shutil.copyfile(stored, folder / _ESTIMATOR)
        return
    try:
        import joblib  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "scikit-learn models need joblib", remedy="pip install 'tidemill[sklearn]'."
        ) from error
    joblib.dump(estimator, folder / _ESTIMATOR)
