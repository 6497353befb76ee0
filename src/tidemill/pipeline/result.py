"""What became of a run: values, files and errors by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tidemill.foundation.errors import InvalidInput, NotFound, StepFailed, TidemillError
from tidemill.pipeline.artifact import Artifact, Shelf
from tidemill.pipeline.lineage import StepStatus
from tidemill.pipeline.step import Pipeline
from tidemill.pipeline.values import decode_value


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What became of one step.

    Args:
        step: its name.
        status: "finished" if it ran, "reused" if an earlier result was taken.
        attempt: which try it was; 0 where there was none.
        duration_s: with all tries, hashing and storing.
        artifact: what it gave.
        error: why it failed.
    """

    step: str
    status: StepStatus
    attempt: int = 0
    duration_s: float = 0.0
    artifact: Artifact | None = None
    error: TidemillError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What became of a run.

    Args:
        run_id: its name.
        pipeline: what ran.
        status: "finished" if every step has its result.
        steps: by name, each after those that it needs.
    """

    run_id: str
    pipeline: Pipeline
    status: Literal["finished", "failed"]
    steps: Mapping[str, StepResult]
    shelf: Shelf = field(repr=False)

    @property
    def errors(self) -> dict[str, TidemillError]:
        """Why each failed step failed."""
        return {name: one.error for name, one in self.steps.items() if one.error is not None}

    def raise_if_failed(self) -> None:
        """Does nothing for a finished run.

        Raises:
            StepFailed: names the first failed step; its error is the cause.
        """
        for name, error in self.errors.items():
            if isinstance(error, StepFailed):
                raise error
            raise StepFailed(
                f"step {name!r} failed: {error.what.rstrip('.')}", remedy=error.remedy
            ) from error

    def artifact(self, step: str) -> Artifact:
        """Returns what the step gave.

        Raises:
            InvalidInput: there is no such step.
            NotFound: it failed or was skipped.
        """
        self.pipeline.step(step)
        found = self.steps[step].artifact
        if found is None:
            raise NotFound(
                f"step {step!r} of run {self.run_id!r} gave nothing: {self.steps[step].status}",
                remedy="Look at its error.",
            )
        return found

    def value(self, step: str) -> Any:
        """Returns the step's value; None for one that returns none.

        Raises:
            InvalidInput: there is no such step.
            NotFound: it failed or was skipped.
        """
        artifact = self.artifact(step)
        if artifact.value is None:
            return None
        kind = self.pipeline.contracts[step].returns
        return decode_value(self.shelf.value(artifact), kind, f"the value of step {step!r}")

    def open(self, step: str, folder: Path) -> Path:
        """Lays the step's files out in the folder, read-only, and returns it.

        Raises:
            InvalidInput: there is no such step, or the folder is not empty.
            NotFound: it failed or was skipped.
        """
        artifact = self.artifact(step)
        if folder.is_dir() and any(folder.iterdir()):
            raise InvalidInput(f"folder {str(folder)!r} is not empty", remedy="Give a new one.")
        return self.shelf.open(artifact, folder)
