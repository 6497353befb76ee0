"""MLflow's pyfunc models as model folders: what MLflow saved is kept whole, in a folder of its own.

Nothing of MLflow is imported here: an interpreter of its own loads the model, asks it and measures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidemill.foundation.errors import InvalidModel
from tidemill.models.format import MAX_FILES, ModelManifest
from tidemill.models.packagers.tried import package_tried
from tidemill.models.packaging import Given, Taken, made_with, signature_needed
from tidemill.models.requirements import read_requirements, requirement_name
from tidemill.models.signature import Batch, Column, Signature, check_batch
from tidemill.models.trying import try_in
from tidemill_worker.mlflow_models import MLMODEL, PLACE

REQUIREMENTS = "requirements.txt"
_ENTRY = f"{PLACE}/{MLMODEL}"
_ANY = Column("any", "float64")


def is_pyfunc(path: Path) -> bool:
    """Says whether a path is a folder that MLflow saved."""
    return (path / MLMODEL).is_file()


def package_pyfunc(path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of what MLflow saved, to be served among Tidemill's own libraries."""
    wanted = made_with("mlflow", "mlflow-skinny", "pandas", "numpy")
    return package_tried(take_pyfunc, path, name, folder, given, requirements=wanted)


def take_pyfunc(python: Path, path: Path, folder: Path, given: Given) -> Taken:
    """Copies what MLflow saved into a model folder and finds its columns.

    Args:
        python: the interpreter of the environment that it will be served in.
        path: the folder that MLflow saved.
        folder: the model's.
        given: its signature is taken if there is one; its rows are asked for outputs that are not
            told.

    Raises:
        InvalidModel: it is no pyfunc model, holds what is no plain file or too many files, does
            not load, or its columns are told neither by it nor by what is given.
    """
    place = folder / PLACE
    for file in _files(path):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path / file, place / file)
    signature = given.signature or _told(python, path, place, given)
    return Taken(runtime="mlflow", entry=_ENTRY, signature=signature, options={})


def model_requirements(path: Path) -> tuple[str, ...]:
    """Returns what MLflow says that a saved model requires, with MLflow's skinny distribution.

    MLflow names itself whole, with servers and user interface: to load a model the skinny
    distribution of the same version does, and pandas.

    Raises:
        InvalidModel: it does not say.
        InvalidInput: a line is an option, an address or a path.
    """
    listed = path / REQUIREMENTS
    if not listed.is_file():
        raise InvalidModel(
            f"{str(path)!r} has no {REQUIREMENTS}",
            remedy="Say what the model needs, with --requirements FILE.",
        )
    wanted = []
    for line in read_requirements(listed):
        whole = requirement_name(line) == "mlflow" and "[" not in line
        wanted.append("mlflow-skinny" + line[len("mlflow") :] if whole else line)
    names = {requirement_name(line) for line in wanted}
    if not names & {"mlflow", "mlflow-skinny"}:
        wanted.append("mlflow-skinny")
    if "pandas" not in names:
        wanted.append("pandas")
    return tuple(wanted)


def _told(python: Path, path: Path, place: Path, given: Given) -> Signature:
    said = try_in(python, "describe-pyfunc", str(place))
    if said["inputs"] and not said["outputs"] and given.rows is not None:
        inputs = msgspec.convert(said["inputs"], tuple[Column, ...])
        rows = _rows(Signature(inputs, (_ANY,)), given)
        said = try_in(python, "describe-pyfunc", str(place), rows=rows)
    if not said["inputs"] or not said["outputs"]:
        lacking = "takes" if not said["inputs"] else "gives"
        raise signature_needed(f"{str(path)!r} does not say what the model {lacking}")
    return Signature.from_json(msgspec.json.encode(said))


def _rows(signature: Signature, given: Given) -> Batch:
    assert given.rows is not None
    return check_batch(signature, given.rows(signature))


def _files(path: Path) -> Iterator[Path]:
    """Yields the plain files of a folder, without bytecode and what is hidden."""
    count = 0
    for folder, folders, names in os.walk(path):
        place = Path(folder)
        folders[:] = [each for each in folders if not each.startswith((".", "__pycache__"))]
        for link in (place / name for name in (*names, *folders)):
            if link.is_symlink():
                raise InvalidModel(
                    f"{str(link)!r} is a link", remedy="Copy what it leads to in its place."
                )
        for name in names:
            if name.startswith(".") or name.endswith(".pyc"):
                continue
            count += 1
            if count > MAX_FILES:
                raise InvalidModel(f"{str(path)!r} holds more than {MAX_FILES} files")
            yield (place / name).relative_to(path)
