"""The training journey: ExampleGen to Pusher, wired as a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidemill.data.records import Snapshot
from tidemill.data.snapshots import list_snapshots, snapshot_paths
from tidemill.foundation.errors import NotFound, Refused
from tidemill.foundation.home import Home
from tidemill.foundation.names import new_id
from tidemill.models.registry import Registry
from tidemill.pipeline.fingerprint import fingerprint
from tidemill.pipeline.result import RunResult
from tidemill.pipeline.runner import StepEvent, run
from tidemill.pipeline.step import Handle, Output, Pipeline, SourceFile, Step
from tidemill.recipes.recipe import Recipe
from tidemill.recipes.steps import description, evaluation, examples, infra, modelling, pusher
from tidemill.recipes.steps.evaluation import Verdict
from tidemill.recipes.steps.infra import InfraReport
from tidemill.recipes.steps.modelling import Compiled
from tidemill.recipes.steps.pusher import Pushed
from tidemill.training.trainer import TrainingPlan, own_function

OnEvent = Callable[[StepEvent], None]


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a recipe that reached its end: the version, and why it may or may not go live.

    ``steps`` says of each step whether it ran now ("finished") or was there already ("reused").
    """

    run: str
    recipe: str
    model: str
    version: int
    blessed: bool
    reasons: tuple[str, ...]
    snapshots: tuple[str, ...]
    examples: examples.Examples
    compiled: Compiled
    verdict: Verdict
    infra: InfraReport
    steps: dict[str, str]


def train(
    home: Home,
    name: str,
    recipe: Recipe,
    *,
    run_id: str | None = None,
    on_event: OnEvent | None = None,
    examples_to: Path | None = None,
) -> Trained:
    """Runs a recipe over its dataset's snapshots; what was done before is reused.

    The version is registered with its verdict; nothing goes live by it.

    Args:
        home: the installation.
        name: the recipe's name, which is the model's.
        recipe: what is declared.
        run_id: continues that run, if it was cut off.
        on_event: told of each step.
        examples_to: a new folder that gets the examples, if they are wanted.

    Raises:
        NotFound: the dataset has no snapshot.
        DataRefused: the data gate said no.
        NotBlessed: a real server on the candidate did not answer as the model does.
        StepFailed: a step failed; the cause is chained.
    """
    snapshots = _snapshots(home, recipe)
    run_name = run_id or new_id()[:12]
    result = run(
        pipeline_of(home, name, recipe, snapshots, run_name),
        store=home.store,
        files=home.files,
        work=home.path / "work",
        parallel=home.settings.pipeline.parallel,
        clock=home.clock,
        on_event=on_event,
        run_id=run_name,
    )
    for error in result.errors.values():
        if isinstance(error, Refused):
            raise error
    result.raise_if_failed()
    if examples_to is not None:
        result.open("Transform", examples_to)
    return _trained(name, result, snapshots)


def pipeline_of(
    home: Home, name: str, recipe: Recipe, snapshots: list[Snapshot], run_name: str
) -> Pipeline:
    """Returns the recipe's steps, each with what it takes from which."""
    rows = [SourceFile(path) for path in snapshot_paths(home, snapshots)]
    plan = TrainingPlan(
        features=recipe.features,
        label=recipe.label,
        kind=recipe.model,
        params=recipe.params,
        seed=recipe.seed,
    )
    lineage = {"recipe": name, "snapshots": [snapshot.id for snapshot in snapshots]}
    steps = [
        *_gate_steps(rows, recipe),
        *_model_steps(name, recipe, plan, lineage, _champion(home, name)),
        Step(
            "Pusher",
            pusher.pusher,
            {
                "home": Handle(home),
                "model": Output("Compiler"),
                "name": name,
                "verdict": Output("Evaluator"),
                "infra": Output("InfraValidator"),
                "run": run_name,
            },
            cache=False,
        ),
    ]
    return Pipeline(f"train-{name}", steps)


def _gate_steps(rows: list[SourceFile], recipe: Recipe) -> list[Step]:
    """From rows to examples that look as they should."""
    raw, statistics = Output("ExampleGen"), Output("StatisticsGen")
    columns = {
        "select": recipe.select,
        "features": recipe.features,
        "label": recipe.label,
        "slices": recipe.slices,
    }
    return [
        Step("ExampleGen", examples.example_gen, {"files": rows, "split": recipe.split}),
        Step("StatisticsGen", description.statistics_gen, {"examples": raw}),
        Step("SchemaGen", description.schema_gen, {"examples": raw, "statistics": statistics}),
        Step(
            "ExampleValidator",
            description.example_validator,
            {"examples": raw, "statistics": statistics, "schema": Output("SchemaGen")},
        ),
        Step(
            "Transform",
            examples.transform,
            {"examples": raw, "valid": Output("ExampleValidator"), **columns},
        ),
    ]


def _model_steps(
    name: str,
    recipe: Recipe,
    plan: TrainingPlan,
    lineage: dict[str, Any],
    champion: list[SourceFile],
) -> list[Step]:
    """From examples to a model that was judged and tried in a real server."""
    prepared, model = Output("Transform"), Output("Compiler")
    judged = {"label": recipe.label, "slices": recipe.slices, "rules": recipe.rules}
    return [
        Step(
            "Trainer",
            modelling.trainer,
            {"examples": prepared, "plan": plan, "code": _own_code(plan)},
        ),
        Step(
            "Compiler",
            modelling.compiler,
            {
                "trained": Output("Trainer"),
                "signature": Output("Trainer", "signature"),
                "examples": prepared,
                "name": name,
                "lineage": lineage,
            },
        ),
        Step(
            "Evaluator",
            evaluation.evaluator,
            {"model": model, "champion": champion, "examples": prepared, **judged},
        ),
        Step(
            "InfraValidator",
            infra.infra_validator,
            {"model": model, "examples": prepared},
            retries=1,
            timeout_s=180.0,
        ),
    ]


def _own_code(plan: TrainingPlan) -> str | None:
    """Returns the hash of the code of a plan's own function, and of all that it reaches."""
    return fingerprint(own_function(plan.kind)).hash if ":" in plan.kind else None


def _snapshots(home: Home, recipe: Recipe) -> list[Snapshot]:
    found = sorted(list_snapshots(home, recipe.dataset), key=lambda each: each.sequence)
    if not found:
        raise NotFound(
            f"dataset {recipe.dataset!r} has no snapshot",
            remedy=f"tidemill ingest {recipe.dataset} FILE",
        )
    return found if recipe.snapshots is None else found[-recipe.snapshots :]


def _champion(home: Home, name: str) -> list[SourceFile]:
    registry = Registry(home)
    version = registry.aliases(name).get("champion")
    return [] if version is None else [SourceFile(Path(registry.fetch(name, version)))]


def _trained(name: str, result: RunResult, snapshots: list[Snapshot]) -> Trained:
    pushed: Pushed = result.value("Pusher")
    return Trained(
        run=result.run_id,
        recipe=name,
        model=pushed.name,
        version=pushed.version,
        blessed=pushed.blessed,
        reasons=pushed.reasons,
        snapshots=tuple(snapshot.id for snapshot in snapshots),
        examples=result.value("Transform"),
        compiled=result.value("Compiler"),
        verdict=result.value("Evaluator"),
        infra=result.value("InfraValidator"),
        steps={name: step.status for name, step in result.steps.items()},
    )
