"""From a model and its Python requirements to a model folder, tried where it will be served.

Nothing of the model's is imported here: its environment's own interpreter does that.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np

from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidInput, InvalidModel, NotTrusted
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.models.environments import (
    Environment,
    Say,
    build_environment,
    environments_path,
    try_in,
)
from tidemill.models.format import (
    Latency,
    ModelManifest,
    read_manifest,
    verify_model,
    write_model,
)
from tidemill.models.kinds import KINDS
from tidemill.models.packaging import Given
from tidemill.models.registry import Registry
from tidemill.models.requirements import LOCK, lock_requirements, read_lock, read_requirements
from tidemill.models.signature import Batch, Signature, check_batch
from tidemill.models.sources import Sources, find_sources
from tidemill_worker.functions import CODE

_ESTIMATORS = (".joblib", ".pkl", ".pickle")


def package_isolated(
    home: Home,
    path: Path,
    name: str,
    work: Path,
    *,
    requirements: Path,
    trust_code: bool,
    given: Given,
    say: Say = lambda _: None,
) -> Environment:
    """Makes ``work/model`` of a model, with the lock of its requirements, and tries it.

    Args:
        home: the installation; its cache keeps the environment.
        path: a function, see ``find_sources``, or a joblib or pickle file with an estimator.
        name: the model's name.
        work: an empty folder.
        requirements: a file that lists what it needs.
        trust_code: the caller vouches for the model and all that it requires.
        given: what else is known of it; without rows it must answer a made-up one.
        say: told what is done.

    Raises:
        NotTrusted: nobody vouched for it.
        InvalidInput: its requirements have no wheels.
        InvalidModel: it does not say what it takes, or does not answer as it says.
    """
    check_name("model", name)
    if not trust_code:
        raise NotTrusted(
            f"{path} and what {requirements} names run code",
            remedy="Push it with --trust-code if you trust who made them.",
        )
    sources = None if path.suffix.lower() in _ESTIMATORS else _sources(path)
    wanted = read_requirements(requirements)
    say(f"locking {len(wanted)} requirements")
    lock = lock_requirements(wanted, work)
    environment = build_environment(
        environments_path(home.cache_path), lock, say=say, clock=home.clock
    )
    folder = work / "model"
    folder.mkdir()
    (folder / LOCK).write_bytes(lock.to_json())
    say("asking the model for its columns")
    if sources is None:
        runtime, entry, options = "sklearn", "model.joblib", {}
        shutil.copyfile(path, folder / entry)
        described = [str(folder / entry)]
    else:
        runtime, entry, options = "python", _entry(sources), {"function": sources.reference}
        sources.copy(folder / CODE)
        described = [str(folder / CODE), sources.reference]
    signature = given.signature or _described(environment, *described)
    manifest = write_model(
        folder,
        ModelManifest(
            name=name,
            runtime=runtime,
            signature=signature,
            entry=entry,
            trust="code",
            runtime_options=options,
            requirements=environment.distributions,
            created_at=iso(home.clock.now()),
        ),
    )
    say("trying it in its environment")
    latency = _measured(
        environment, folder, manifest, None if given.rows is None else given.rows(signature)
    )
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
    try_in(environment, "measure", str(folder))
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


def _described(environment: Environment, *place: str) -> Signature:
    said = try_in(environment, "describe", *place)
    return Signature.from_json(msgspec.json.encode(said["signature"]))


def _sources(path: Path) -> Sources:
    """Returns a function's sources; a file of some framework's is none, whatever it requires."""
    for kind in KINDS:
        if path.suffix.lower() in kind.suffixes:
            raise InvalidModel(
                f"{path} is {kind.called}, and cannot have requirements of its own",
                remedy="Leave --requirements out, or push a function that loads the file.",
            )
    return find_sources(path)


def _entry(sources: Sources) -> str:
    module = sources.reference.partition(":")[0].replace(".", "/")
    for place in (Path(f"{module}.py"), Path(module, "__init__.py")):
        if place in sources.files:
            return f"{CODE}/{place.as_posix()}"
    raise InvalidModel(f"module {module!r} has no source file in {str(sources.root)!r}")


def _measured(
    environment: Environment, folder: Path, manifest: ModelManifest, rows: Batch | None
) -> Latency:
    arguments = [str(folder)]
    if rows is not None:
        plain = {
            name: array.astype("U") if array.dtype.kind == "O" else array
            for name, array in check_batch(manifest.signature, rows).items()
        }
        stored = folder.parent / "rows.npz"
        with stored.open("wb") as file:
            np.savez(file, allow_pickle=False, **plain)
        arguments.append(str(stored))
    return msgspec.convert(try_in(environment, "measure", *arguments), Latency)
