"""Virtual environments for models that name their requirements: built once from a lock, cached.

    HOME/cache/environments/<key>/     the environment, whole; built beside it and renamed
    HOME/cache/environments/<key>.lock held while it is built

An environment holds what the lock names and ``tidemill_worker``, and nothing else of Tidemill's.
It is built when a model is pushed or somebody asks for it, never to answer a query.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

import tidemill_worker
from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.durable import sync_folder
from tidemill.foundation.environment import installer_environment
from tidemill.foundation.errors import InvalidModel, Unavailable
from tidemill.foundation.locks import hold
from tidemill.foundation.names import new_id
from tidemill.models.requirements import Lock, installer, run_installer, sha256_of, this_python

Say = Callable[[str], None]
"""Told what takes a while, in a few words."""

_INSTALL_WITHIN_S = 900.0


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that is there; ``built`` says whether this call built it, in ``seconds``."""

    key: str
    path: str
    distributions: tuple[str, ...]
    size_bytes: int
    built: bool
    seconds: float

    @property
    def python(self) -> Path:
        """The interpreter that runs in it."""
        return python_of(Path(self.path))


def environments_path(cache: Path) -> Path:
    """Returns where the environments of a home's cache are."""
    return cache / "environments"


def python_of(environment: Path) -> Path:
    """Returns the interpreter of an environment."""
    return environment / "bin" / "python"


def environment_key(lock: Lock) -> str:
    """Returns the name of the lock's environment: the same one for the same files in it."""
    sources = [
        part for path in _worker_sources() for part in (path.name.encode(), path.read_bytes())
    ]
    return sha256_of(lock.to_json(), sys.version.encode(), *sources)


def find_environment(folder: Path, lock: Lock, *, model: str, version: int) -> Path:
    """Returns the interpreter of a lock's environment, if it is there; builds nothing.

    Args:
        folder: of the environments.
        lock: of the model.
        model: for what is said where it lacks.
        version: too.

    Raises:
        Unavailable: this machine's cache lacks it; the command that builds it is named.
    """
    python = python_of(folder / environment_key(lock))
    if not python.exists():
        raise Unavailable(
            f"the environment of model {model!r} version {version} is not on this machine",
            remedy=f"Build it with: tidemill environment {model} {version}.",
        )
    return python


def build_environment(
    folder: Path, lock: Lock, *, say: Say = lambda _: None, clock: Clock = SYSTEM_CLOCK
) -> Environment:
    """Returns the environment of a lock, built if it is not there yet.

    Of two that want it at once one builds; killed in between, nothing half is left that counts.

    Args:
        folder: of the environments; made if need be.
        lock: what it is to hold.
        say: told what is done.
        clock: measures.

    Raises:
        InvalidModel: the lock is for another Python or platform.
        InvalidInput: a distribution has no wheel with one of its hashes.
        Unavailable: there is no installer, or it took too long.
    """
    here = this_python()
    if (lock.python, lock.platform) != here:
        raise InvalidModel(
            f"the model's requirements are locked for Python {lock.python} on {lock.platform}, "
            f"and this is Python {here[0]} on {here[1]}",
            remedy="Push the model from this Python and platform.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    key, began = environment_key(lock), clock.monotonic()
    target, built = folder / key, False
    if not python_of(target).exists():
        say(f"building an environment with {len(lock.distributions)} distributions")
        with hold(folder / f"{key}.lock"):
            for left in folder.glob(f".{key}.*"):
                shutil.rmtree(left, ignore_errors=True)
            if not python_of(target).exists():
                _build(folder / f".{key}.{new_id()}", target, lock)
                built = True
    return Environment(
        key=key,
        path=str(target),
        distributions=tuple(f"{each.name}=={each.version}" for each in lock.distributions),
        size_bytes=sum(path.lstat().st_size for path in target.rglob("*")),
        built=built,
        seconds=clock.monotonic() - began,
    )


def _build(building: Path, target: Path, lock: Lock) -> None:
    try:
        _run([sys.executable, "-I", "-m", "venv", "--without-pip", str(building)])
        listed = building / "requirements.txt"
        listed.write_text(lock.to_requirements(), encoding="utf-8")
        run_installer(_install_command(python_of(building), listed), "install", _INSTALL_WITHIN_S)
        packages = next(building.glob("lib/python*/site-packages"))
        place = packages / tidemill_worker.__name__
        place.mkdir()
        for source in _worker_sources():
            shutil.copyfile(source, place / source.name)
        # Told of the place where it will be: what is in it says so in its tracebacks.
        strip = ["-s", str(building), "-p", str(target)]
        _run([str(python_of(building)), "-I", "-m", "compileall", "-q", *strip, str(packages)])
        building.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _install_command(python: Path, listed: Path) -> list[str]:
    only = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(listed)]
    uv = installer()
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", str(python), "--link-mode=copy", *only]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    return [*pip, "--no-input", "--no-compile", *only]


def _run(command: list[str]) -> None:
    done = subprocess.run(  # noqa: S603 - our own words, no shell
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=installer_environment(),
        timeout=_INSTALL_WITHIN_S,
        check=False,
    )
    # compileall says 1 of sources that are no Python of this version: some packages bring such.
    if done.returncode and "compileall" not in command:
        words = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise Unavailable(
            f"an environment cannot be made: {words[-1000:]}",
            remedy="See that this Python has its venv module.",
        )


def _worker_sources() -> list[Path]:
    """Returns the files of ``tidemill_worker``, which has no folders in it."""
    package = Path(tidemill_worker.__path__[0])
    return sorted(path for path in package.iterdir() if path.suffix == ".py")
