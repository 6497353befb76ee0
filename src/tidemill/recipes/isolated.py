"""From a model and its Python requirements to a model folder, tried where it will be served.

Nothing of the model's is imported here: its environment's own interpreter does that.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidInput, InvalidModel
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.models.environments import (
    Environment,
    Say,
    build_environment,
    environments_path,
)
from tidemill.models.format import ModelManifest, read_manifest, verify_model, write_model
from tidemill.models.kinds import KINDS
from tidemill.models.packagers.mlflow import is_pyfunc, take_pyfunc
from tidemill.models.packagers.python import take_function
from tidemill.models.packaging import Given, Taken
from tidemill.models.registry import Registry
from tidemill.models.requirements import LOCK, lock_requirements, read_lock
from tidemill.models.signature import Batch, Signature, check_batch
from tidemill.models.trying import measure_in, try_in

_PICKLED = (".joblib", ".pkl", ".pickle")


def package_isolated(
    home: Home,
    path: Path,
    name: str,
    work: Path,
    *,
    wanted: Sequence[str],
    given: Given,
    say: Say = lambda _: None,
) -> Environment:
    """Makes ``work/model`` of a model, with the lock of its requirements, and tries it.

    Somebody has vouched for the model and for all that it requires.

    Args:
        home: the installation; its cache keeps the environment.
        path: a function, see ``find_sources``, a joblib or pickle file with an estimator or a model
            of River's, or a folder that MLflow saved.
        name: the model's name.
        work: an empty folder.
        wanted: what it requires, as ``read_requirements`` returns it.
        given: what else is known of it; without rows it must answer a made-up one.
        say: told what is done.

    Raises:
        InvalidInput: its requirements have no wheels.
        InvalidModel: it does not say what it takes, or does not answer as it says.
    """
    check_name("model", name)
    _check_may_require(path)
    say(f"locking {len(wanted)} requirements")
    lock = lock_requirements(wanted, work)
    environment = build_environment(
        environments_path(home.cache_path), lock, say=say, clock=home.clock
    )
    folder = work / "model"
    folder.mkdir()
    (folder / LOCK).write_bytes(lock.to_json())
    say("asking the model for its columns")
    taken = _take(environment.python, path, folder, given)
    manifest = write_model(
        folder,
        ModelManifest(
            name=name,
            runtime=taken.runtime,
            signature=taken.signature,
            entry=taken.entry,
            trust="code",
            runtime_options=taken.options,
            classes=tuple(map(str, taken.options.get("classes", ()))),
            requirements=environment.distributions,
            created_at=iso(home.clock.now()),
        ),
    )
    say("trying it in its environment")
    latency = measure_in(environment.python, folder, _rows(taken.signature, given))
    write_model(folder, msgspec.structs.replace(manifest, latency=latency))
    return environment


def restore_environment(
    home: Home, folder: Path, *, say: Say = lambda _: None
) -> Environment | None:
    """Builds what a model folder's lock names and tries the model there; None if it has no lock.

    Raises:
        Corrupted: a file of the folder is not what was written.
        InvalidInput: a distribution has no wheel with one of its hashes.
        TidemillError: the model does not answer there.
    """
    manifest = read_manifest(folder)
    lock = read_lock(folder, manifest)
    if lock is None:
        return None
    verify_model(folder, manifest)
    environment = build_environment(
        environments_path(home.cache_path), lock, say=say, clock=home.clock
    )
    measure_in(environment.python, folder, None)
    return environment


def build_for(home: Home, name: str, version: int, *, say: Say = lambda _: None) -> Environment:
    """Builds the environment of a registered version on this machine.

    Raises:
        NotFound: there is no such version.
        InvalidInput: it has no requirements, or there is no wheel with a hash of its lock.
    """
    folder = Registry(home).fetch(name, version)
    lock = read_lock(folder, read_manifest(folder))
    if lock is None:
        raise InvalidInput(
            f"model {name!r} version {version} has no requirements of its own",
            remedy="It runs where Tidemill runs; nothing has to be built.",
        )
    return build_environment(environments_path(home.cache_path), lock, say=say, clock=home.clock)


def _take(python: Path, path: Path, folder: Path, given: Given) -> Taken:
    if is_pyfunc(path):
        return take_pyfunc(python, path, folder, given)
    if path.suffix.lower() in _PICKLED:
        return _take_pickled(python, path, folder, given)
    return take_function(python, path, folder, given)


def _take_pickled(python: Path, path: Path, folder: Path, given: Given) -> Taken:
    entry = "model.joblib"
    shutil.copyfile(path, folder / entry)
    known = [] if given.signature is None else [msgspec.json.encode(given.signature).decode()]
    said = try_in(python, "describe-file", str(folder / entry), *known)
    if said["runtime"] == "river" and given.rows is not None:  # they may show more of its classes
        told = msgspec.json.encode(said["signature"]).decode()
        rows = _rows(_signature(said), given)
        said = try_in(python, "describe-file", str(folder / entry), *(known or [told]), rows=rows)
    return Taken(
        runtime=said["runtime"],
        entry=entry,
        signature=_signature(said),
        options=said["options"],
    )


def _signature(said: dict[str, Any]) -> Signature:
    return Signature.from_json(msgspec.json.encode(said["signature"]))


def _check_may_require(path: Path) -> None:
    """Refuses a file of a framework whose files cannot have requirements of their own."""
    for kind in KINDS:
        if path.suffix.lower() in kind.suffixes and not kind.requires:
            raise InvalidModel(
                f"{path} is {kind.called}, and cannot have requirements of its own",
                remedy="Leave --requirements out, or push a function that loads the file.",
            )


def _rows(signature: Signature, given: Given) -> Batch | None:
    return None if given.rows is None else check_batch(signature, given.rows(signature))
