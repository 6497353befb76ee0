"""The keeper: watches a folder; each new file goes through the gate, into a model, and live.

A file is taken once it has stopped growing. Its launch is recorded under its content's hash before
anything is done, so that a keeper that was killed goes on where it was, and a file that comes
twice, under whatever name, is launched once.
"""

from __future__ import annotations

import stat
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidemill.control import launches
from tidemill.control.launches import Launch, Status
from tidemill.control.rescoring import follow
from tidemill.control.runs import RolledOut, run_recipe
from tidemill.data.records import IngestResult
from tidemill.foundation.errors import (
    Conflict,
    DataRefused,
    InvalidInput,
    NotBlessed,
    NotFound,
    Refused,
    TidemillError,
)
from tidemill.foundation.files import sha256_file
from tidemill.foundation.home import Home
from tidemill.foundation.locks import hold
from tidemill.foundation.logs import log
from tidemill.foundation.names import new_id, storable
from tidemill.recipes.intake import take
from tidemill.recipes.recipe import get_recipe
from tidemill.recipes.train import OnEvent

SUFFIXES = (".csv", ".parquet", ".gz", ".zip")
MAX_ATTEMPTS = 3
"""A launch that fails for a reason that may pass is tried so often by one keeper."""
_PASSES_NOT = (InvalidInput, NotFound, Refused)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a file's launch ended, and what it came to."""

    launch: Launch
    ingest: IngestResult | None = None
    rolled_out: RolledOut | None = None


@dataclass(slots=True)
class _Seen:
    size: int
    modified_ns: int


class Keeper:
    """Launches a recipe for each new file in a folder, one after the other.

    Args:
        home: the installation.
        recipe: the recipe's name.
        folder: where files arrive.
        poll_s: how often the folder is looked at; a file is taken when it has not changed between
            two looks.
        on_event: told of each step of each run.
    """

    def __init__(
        self,
        home: Home,
        recipe: str,
        folder: Path,
        *,
        poll_s: float = 0.5,
        on_event: OnEvent | None = None,
    ) -> None:
        self._home = home
        self._recipe = recipe
        self._folder = folder
        self._poll_s = poll_s
        self._on_event = on_event
        self._seen: dict[Path, _Seen] = {}
        self._done: dict[Path, _Seen] = {}
        self._failures: Counter[str] = Counter()
        self._log = log("control.keeper")

    def run(
        self,
        on_outcome: Callable[[Outcome], None],
        stop: threading.Event,
        *,
        until_idle: bool,
        stand_by: bool = False,
    ) -> None:
        """Watches until it is told to stop; or, ``until_idle``, until no file is left to take.

        Args:
            on_outcome: told how each launch ended.
            stop: set it to end after the launch under way.
            until_idle: end when every file there has been taken.
            stand_by: wait while another keeper watches for this recipe.

        Raises:
            NotFound: the folder or recipe does not exist.
            Conflict: another keeper watches for this recipe.
        """
        get_recipe(self._home.settings, self._recipe)
        if not self._folder.is_dir():
            raise NotFound(
                f"folder {self._folder} does not exist", remedy="Make it, then watch it."
            )
        busy = Conflict(
            f"another keeper watches for recipe {self._recipe!r}",
            remedy="Stop it first, or stand by with --wait.",
        )
        lock = self._home.run_path / f"keeper-{self._recipe}.lock"
        with hold(lock, busy=None if stand_by else busy, stop=stop):
            while not stop.is_set():
                ready, growing = self._look()
                for path in ready:
                    outcome = self._launch(path)
                    if outcome is not None:
                        on_outcome(outcome)
                if until_idle and not ready and not growing:
                    return
                stop.wait(self._poll_s)

    def _look(self) -> tuple[list[Path], bool]:
        """Returns the files that have stopped growing, and whether another one still grows."""
        ready: list[Path] = []
        growing = False
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(found.st_mode):
                continue
            now = _Seen(found.st_size, found.st_mtime_ns)
            if self._done.get(path) == now:
                continue
            if self._seen.get(path) == now:
                ready.append(path)
            else:
                growing = True
            self._seen[path] = now
        return ready, growing

    def _launch(self, path: Path) -> Outcome | None:
        """Takes one file through to the end; None if its launch had ended before."""
        try:
            digest = sha256_file(path)
        except OSError as error:  # gone, or not ours to read: looked at again when it changes
            self._log.error("file.unreadable", file=path.name, error=str(error))
            self._done[path] = self._seen[path]
            return None
        launch = launches.begin(
            self._home.store,
            recipe=self._recipe,
            sha256=digest,
            path=storable(path),
            run=new_id()[:12],
            at=self._home.clock.now(),
        )
        self._done[path] = self._seen[path]
        if launch.status != "begun":
            return None
        self._log.info("launch.begun", file=path.name, run=launch.run, attempt=launch.attempts)
        outcome = self._carry_out(launch, path)
        self._log.info("launch.ended", file=path.name, status=outcome.launch.status)
        return outcome

    def _carry_out(self, launch: Launch, path: Path) -> Outcome:
        recipe = get_recipe(self._home.settings, self._recipe)
        taken: IngestResult | None = None
        try:
            taken = take(self._home, recipe.dataset, [path])
            if taken.refused:
                return self._end(launch, "refused", taken.refused, ingest=taken)
            rolled_out = run_recipe(
                self._home,
                self._recipe,
                by="keeper",
                reason=f"new file {storable(path.name)}",
                run_id=launch.run,
                on_event=self._on_event,
            )
        except NotBlessed as error:
            return self._end(launch, "not blessed", str(error), ingest=taken)
        except Exception as error:  # noqa: BLE001 - one file's trouble never ends the keeper
            return self._failed(launch, path, error, taken)
        status: Status = "live" if rolled_out.revision is not None else "not blessed"
        reasons = list(rolled_out.trained.reasons)
        if rolled_out.revision is not None:
            if rolled_out.without_table is not None:
                reasons.append(f"the table was not built: {rolled_out.without_table}")
            else:
                reasons += self._rescore(rolled_out.application)
        message = "; ".join(reasons)
        return self._end(launch, status, message, ingest=taken, rolled_out=rolled_out)

    def _rescore(self, application: str) -> list[str]:
        """Scores the table of the version before anew; returns what there is to say of it."""
        try:
            done = follow(self._home, application, by="keeper")
        except TidemillError as error:  # the version is live, and answers by its model
            self._log.error("table.not_rescored", application=application, error=str(error))
            return [f"the table was not rescored: {error}"]
        if done is None:
            return []
        table = done.whole.table
        self._log.info("table.rescored", application=application, table=table.id, keys=table.rows)
        return [f"rescored {table.rows:,} keys"]

    def _failed(
        self, launch: Launch, path: Path, error: Exception, taken: IngestResult | None
    ) -> Outcome:
        ours = isinstance(error, TidemillError)
        self._log.error("launch.failed", file=path.name, error=str(error), exc_info=not ours)
        if isinstance(error, DataRefused) or (taken is None and isinstance(error, InvalidInput)):
            return self._end(launch, "refused", str(error), ingest=taken)
        self._failures[launch.sha256] += 1
        passing = not any(isinstance(one, _PASSES_NOT) for one in (error, error.__cause__))
        if passing and self._failures[launch.sha256] < MAX_ATTEMPTS:
            self._done.pop(path, None)  # the launch stays begun: the next look tries again
            return Outcome(
                launch=msgspec.structs.replace(launch, message=storable(str(error))), ingest=taken
            )
        return self._end(launch, "failed", str(error), ingest=taken)

    def _end(
        self,
        launch: Launch,
        status: Status,
        message: str,
        *,
        ingest: IngestResult | None = None,
        rolled_out: RolledOut | None = None,
    ) -> Outcome:
        ended = launches.end(
            self._home.store,
            launch,
            status=status,
            message=storable(message),
            at=self._home.clock.now(),
        )
        return Outcome(launch=ended, ingest=ingest, rolled_out=rolled_out)
