"""Scores chunks in a Ray cluster: one that runs somewhere, or one on this machine for the while.

The model travels with the work, in pieces, and is verified where it arrives: hosts of the cluster
need this release of Tidemill and the model's framework, and no files of the installation.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill import __version__
from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.environment import set_for_libraries
from tidemill.foundation.errors import Conflict, TidemillError, Unavailable, WorkerLost
from tidemill.foundation.locks import hold
from tidemill.foundation.logs import log
from tidemill.foundation.settings import mask_url
from tidemill.models.runtime import Runtime, open_runtime
from tidemill.recipes.chunks import Asked, Chunk, Keep, score_chunk

AHEAD = 2
"""Chunks that an actor has at once: the next one is there when it is done with one."""

MAX_ACTORS = 1024
"""Of one build, at most, however large the cluster is."""

STARTS_WITHIN_S = 180.0
"""So long the cluster may take to have any processor for us."""

SILENCE_S = 120.0
"""Where no chunk has come back for so long, it is asked whether anything lives there still."""

_FOLDER, _NEW, _LOCK = "tm-ray-", "tm-new-", "lock"
_NOBODYS_S = 3600.0
"""A cluster's folder has its name and its lock long before it is so old."""
_KNOCKS_S = 5.0
_PIECE_BYTES = 16 << 20
_TRIES_AGAIN = 3
_FREE = "it has no processor free for it"
_RELEASE = f"See that its hosts have tidemill {__version__} and the model's framework."


class Scorer:
    """What scores on a host of the cluster: one chunk at a time, and says meanwhile that it lives.

    Args:
        files: the model's folder: each file's path, and the pieces of it in the object store.
        asked: of the whole build.
        version: of Tidemill where the build runs.
    """

    def __init__(
        self, files: Sequence[tuple[str, Sequence[Any]]], asked: Asked, version: str
    ) -> None:
        self._files = files
        self._asked = asked
        self._version = version
        self._runtime: Runtime | None = None
        self._turn = threading.Lock()

    def lives(self) -> None:
        """Does nothing, beside whatever is scored."""

    def ready(self) -> None:
        """Opens the model.

        Raises:
            Unavailable: another Tidemill is installed here.
            TidemillError: the model cannot be opened here.
        """
        with self._turn:
            self._open()

    def score(self, rows: pa.Table) -> Chunk:
        """Returns the files of a chunk, and what it took of this host's processors."""
        with self._turn:
            began = time.process_time()
            made = score_chunk(self._open(), rows, self._asked)
            return replace(made, cpu_s=time.process_time() - began)

    def _open(self) -> Runtime:
        """Returns the model; an actor that was started again opens it again."""
        if self._runtime is None:
            if self._version != __version__:
                raise Unavailable(
                    f"a host of the Ray cluster has tidemill {__version__}, and the build "
                    f"{self._version}",
                    remedy="Install the same release there.",
                )
            with tempfile.TemporaryDirectory(prefix="tidemill-model-") as made:
                _write_files(Path(made), self._files)
                self._runtime = open_runtime(Path(made), trust_code=True, threads=1)
        return self._runtime


class Actors:
    """Scores in a cluster, as ``Pool`` promises; no more is on its way than ``AHEAD`` an actor.

    A chunk whose actor is lost is scored again by another one, a few times.

    Args:
        ray: the library, connected.
        folder: the model's.
        asked: of the whole build.
        workers: actors at most; 0 for one on each processor of the cluster.
        address: of the cluster, as it is told to people.
        silence_s: so long nothing may come back, and then so long nothing may say that it lives.
    """

    def __init__(
        self,
        ray: Any,
        folder: Path,
        asked: Asked,
        workers: int,
        address: str,
        *,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._ray = ray
        self._folder = folder
        self._asked = asked
        self._workers = workers
        self._address = address
        self._silence_s = silence_s
        self._told = False
        self._shipped: list[tuple[str, list[Any]]] = []  # held: who starts again asks for it again
        self.cpu_s = 0.0

    def scored(self, rows: Path, todo: Sequence[int], keep: Keep) -> Iterator[int]:  # noqa: D102
        if not todo:
            return
        actors = self._start(len(todo))
        waiting: dict[Any, tuple[Any, int | None]] = {
            actor.ready.remote(): (actor, None) for actor in actors
        }
        left = list(reversed(todo))
        try:
            with pq.ParquetFile(rows) as source:
                while waiting:
                    ref = self._next(waiting)
                    actor, at = waiting.pop(ref)
                    made = self._result(ref)
                    for _ in range(AHEAD if at is None else 1):
                        if left:
                            following = left.pop()
                            part = source.read_row_group(following)
                            waiting[actor.score.remote(part)] = (actor, following)
                    if at is not None:
                        self.cpu_s += made.cpu_s
                        keep(at, made)
                        yield at
                    if not left and all(number is None for _, number in waiting.values()):
                        return  # actors that never came up were not needed
        finally:
            for actor in actors:
                self._ray.kill(actor)

    def _start(self, chunks: int) -> list[Any]:
        with self._explained():
            cores = int(self._ray.cluster_resources().get("CPU", 1))
            count = max(1, min(self._workers or cores, chunks, MAX_ACTORS))
            kind = self._ray.remote(
                num_cpus=1,
                max_restarts=_TRIES_AGAIN,
                max_task_retries=_TRIES_AGAIN,
                max_concurrency=AHEAD + 1,  # for who asks whether it lives
            )(Scorer)
            self._shipped = _shipped(self._ray, self._folder)
            return [kind.remote(self._shipped, self._asked, __version__) for _ in range(count)]

    def _next(self, waiting: dict[Any, tuple[Any, int | None]]) -> Any:
        """Returns what is done; a chunk may take its time where the actor that has it lives.

        Raises:
            Unavailable: nothing has begun in time, or nothing lives there any more.
        """
        refs = [*waiting]
        done = self._first(refs, self._silence_s if self._told else STARTS_WITHIN_S)
        if done is None and not self._told:
            raise Unavailable(
                f"the Ray cluster ({self._address}) has not begun within {STARTS_WITHIN_S:g} s: "
                f"{_FREE}",
                remedy="Wait until it is less busy; the same command goes on where this one ended.",
            )
        while done is None:
            signs = [actor.lives.remote() for actor, _ in waiting.values()]
            if self._first(signs, self._silence_s) is None:
                raise Unavailable(
                    f"the Ray cluster ({self._address}) has been silent for "
                    f"{2 * self._silence_s:g} s",
                    remedy="See its hosts; the same command goes on where this one ended.",
                )
            done = self._first(refs, self._silence_s)
        self._told = True
        return done

    def _first(self, refs: list[Any], within_s: float) -> Any:
        """Returns what is done first of these, None if nothing is within the time."""
        with self._explained():
            done, _ = self._ray.wait(refs, num_returns=1, timeout=within_s)
        return done[0] if done else None

    def _result(self, ref: Any) -> Any:
        with self._explained():
            return self._ray.get(ref)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        errors = self._ray.exceptions
        where = f"the Ray cluster ({self._address})"
        try:
            yield
        except errors.RayError as error:
            own = _own(error)
            if own is not None:
                raise own from error
            if isinstance(error, errors.RayActorError):
                raise WorkerLost(
                    f"a process of {where} died under the work: {_said(error)}",
                    remedy="See its memory; the same command goes on where this one ended.",
                ) from error
            raise Unavailable(
                f"{where} could not score: {_said(error)}", remedy=_RELEASE
            ) from error


@contextmanager
def actors(folder: Path, asked: Asked, *, address: str | None, workers: int) -> Iterator[Actors]:
    """Gives what scores in a Ray cluster; see ``connected``.

    Args:
        folder: the model's, verified.
        asked: of the whole build.
        address: of a cluster, as Ray takes it; None starts one on this machine.
        workers: actors at most; 0 for one on each processor.

    Raises:
        Unavailable: Ray is not installed, or the cluster cannot be reached.
    """
    with connected(address, workers=workers) as ray:
        yield Actors(ray, folder, asked, workers, _shown(address))


@contextmanager
def connected(address: str | None, *, workers: int = 0) -> Iterator[Any]:
    """Gives Ray, connected to a cluster, which is left after, or ended if it was started here.

    A program that has connected to a cluster itself works in that one, and stays connected.

    Raises:
        Unavailable: Ray is not installed, or the cluster cannot be reached.
    """
    ray = _library()
    with ExitStack() as stack:
        if not ray.is_initialized():
            _connect(ray, address, workers, stack)
        yield ray


def _connect(ray: Any, address: str | None, workers: int, stack: ExitStack) -> None:
    told: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
    if address is None:
        # Sockets lie in it, and their paths must be short. Ray lets everybody into its folder, so
        # it is one in a folder that only its owner can enter.
        folder = stack.enter_context(_own_folder())
        cores = workers or os.cpu_count() or 1
        told |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        told["_temp_dir"] = f"{folder}/r"
    else:
        _knock(address)
    log("recipes.ray").info("ray.connecting", address=_shown(address))
    stack.callback(_leave, ray)
    try:
        ray.init(**told)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise Unavailable(
            f"the Ray cluster ({_shown(address)}) cannot be reached: {_said(error)}",
            remedy="See whether it runs, and that its release of Ray is this one's: "
            f"{ray.__version__}.",
        ) from error


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Gives a folder for a cluster; those of builds that were killed are removed.

    Whoever has one holds the lock in it, from before it has its name; it goes with the process.
    """
    place = Path(tempfile.gettempdir())
    for left in (*place.glob(f"{_FOLDER}*"), *place.glob(f"{_NEW}*")):
        with suppress(OSError, Conflict):  # it is somebody else's, or in use
            _remove_left(left)
    made = Path(tempfile.mkdtemp(prefix=_NEW))
    folder = made.with_name(made.name.replace(_NEW, _FOLDER))
    try:
        with hold(made / _LOCK):
            made.rename(folder)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(folder: Path) -> None:
    """Removes a cluster's folder whose build was killed; does nothing to any other.

    Raises:
        Conflict: it is in use.
    """
    status, named = folder.lstat(), folder.name.startswith(_FOLDER)
    if status.st_uid != os.getuid():
        return
    if named and (folder / _LOCK).is_file():
        with hold(folder / _LOCK, busy=Conflict(f"{folder} is in use")):
            shutil.rmtree(folder)
        return
    ours = named or all(each.name == _LOCK for each in folder.iterdir())
    if ours and SYSTEM_CLOCK.now() - status.st_mtime > _NOBODYS_S:  # else it may be locked next
        shutil.rmtree(folder)


def _knock(address: str) -> None:
    """Returns if something listens at the address, or it has no port: Ray would try for minutes.

    Raises:
        Unavailable: nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition("@")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCKS_S).close()
    except (OSError, OverflowError) as error:
        raise Unavailable(
            f"the Ray cluster ({_shown(address)}) cannot be reached: {error}",
            remedy="See whether it runs, and the setting ray.address.",
        ) from error


def _shown(address: str | None) -> str:
    return "this machine's" if address is None else mask_url(address)


def _leave(ray: Any) -> None:
    with suppress(Exception):  # whatever was in the way, it is not of the build
        ray.shutdown()


def _library() -> Any:
    set_for_libraries({"RAY_USAGE_STATS_ENABLED": "0"})  # it would tell its maker of this
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable(
            "a table is to be built on Ray, and the extra 'ray' is not installed",
            remedy="pip install 'tidemill[ray]'.",
        ) from error
    return ray


def _shipped(ray: Any, folder: Path) -> list[tuple[str, list[Any]]]:
    """Returns a folder's files, each as pieces in the cluster's object store."""
    found = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        pieces = []
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                pieces.append(ray.put(piece))
        found.append((path.relative_to(folder).as_posix(), pieces))
    return found


def _write_files(folder: Path, files: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """Writes files that came through the object store, a piece at a time."""
    import ray  # noqa: PLC0415 - an extra

    for name, pieces in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in pieces:
                file.write(ray.get(piece))


def _own(error: BaseException) -> TidemillError | None:
    """Returns the error of ours that became one of Ray's on its way."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, TidemillError) else None


def _said(error: BaseException) -> str:
    """Returns what an error says, in a line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[0]}"[:300]
