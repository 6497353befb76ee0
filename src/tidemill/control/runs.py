"""A recipe's run from data to live: trains, builds the new version's table, and deploys both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from tidemill.control.deployments import Terms, deploy
from tidemill.control.rescoring import rescore
from tidemill.control.rollout import Progress
from tidemill.foundation.errors import TidemillError
from tidemill.foundation.home import Home
from tidemill.foundation.locks import hold
from tidemill.foundation.logs import log
from tidemill.recipes.keyed_rows import rows_of_files, rows_of_table
from tidemill.recipes.recipe import Recipe, TableRecipe, get_recipe
from tidemill.recipes.representatives import Representing
from tidemill.recipes.table import build_table, examples_source
from tidemill.recipes.train import OnEvent, Trained, train
from tidemill.serving.plan import Deployment
from tidemill.tables.table import TableInfo


class RolledOut(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe's run came to; ``revision`` is None if nothing went live.

    ``without_table`` says why the version is live without the table that was to follow it.
    """

    trained: Trained
    application: str
    table: TableInfo | None
    revision: int | None
    without_table: str | None = None


def run_recipe(
    home: Home,
    name: str,
    *,
    by: str,
    reason: str,
    go_live: bool = True,
    run_id: str | None = None,
    on_event: OnEvent | None = None,
    progress: Progress | None = None,
) -> RolledOut:
    """Runs a recipe to its end and, if the version is blessed, makes it live with its table.

    A table that is to follow is built once the version is live, what is asked most first; until
    a key is in it, the model answers. If it cannot be built, the version stays live.

    Args:
        home: the installation.
        name: the recipe.
        by: who asks for it.
        reason: why, for the audit.
        go_live: whether a blessed version is deployed.
        run_id: continues that run.
        on_event: told of each step.
        progress: told of the table's rows.

    Raises:
        StepFailed: a step failed.
        TidemillError: its table cannot be built, and was to be there before it goes live.
    """
    recipe = get_recipe(home.settings, name)
    # One run of a recipe at a time: a second one would do the same work beside the first.
    with hold(home.run_path / f"run-{name}.lock"):
        return _run(
            home,
            recipe,
            application=recipe.application or name,
            by=by,
            reason=reason,
            go_live=go_live,
            train_into=lambda examples: train(
                home, name, recipe, run_id=run_id, on_event=on_event, examples_to=examples
            ),
            progress=progress,
        )


def _run(
    home: Home,
    recipe: Recipe,
    *,
    application: str,
    by: str,
    reason: str,
    go_live: bool,
    train_into: Callable[[Path], Trained],
    progress: Progress | None,
) -> RolledOut:
    with home.scratch("examples") as work:
        examples = work / "examples"
        trained = train_into(examples)
        if not (trained.blessed and go_live):
            return RolledOut(trained=trained, application=application, table=None, revision=None)
        declared = recipe.table
        table, without = None, None
        if declared is not None and declared.build == "before":
            table = _table(home, application, declared, trained, examples, progress=progress)
        deployment = _deploy(home, application, recipe, trained, table, by=by, reason=reason)
        revision = deployment.revision
        if declared is not None and declared.build == "after":
            try:
                table, revision = _follow(
                    home, application, declared, trained, examples, by=by, progress=progress
                )
            except TidemillError as error:  # the version is live, and answers by its model
                without = str(error)
                log("control.runs").error("table.not_built", application=application, error=without)
    return RolledOut(
        trained=trained,
        application=application,
        table=table,
        revision=revision,
        without_table=without,
    )


def _deploy(
    home: Home,
    application: str,
    recipe: Recipe,
    trained: Trained,
    table: TableInfo | None,
    *,
    by: str,
    reason: str,
) -> Deployment:
    declared = recipe.table
    return deploy(
        home,
        application,
        model=trained.model,
        version=trained.version,
        table=None if table is None else table.id,
        terms=Terms(
            slo_ms=recipe.slo_ms,
            default=recipe.default,
            key=None if declared is None else declared.key,
            max_age_s=None if declared is None else declared.max_age_s,
            represent=None if declared is None else declared.represent,
        ),
        by=by,
        reason=reason,
    )


def _table(
    home: Home,
    application: str,
    declared: TableRecipe,
    trained: Trained,
    examples: Path,
    *,
    progress: Progress | None,
) -> TableInfo:
    """Builds the table of a version that is not live yet."""
    return build_table(
        home,
        application=application,
        model=trained.model,
        version=trained.version,
        key=declared.key,
        source=Path(declared.source) if declared.source else examples_source(examples),
        source_name=_source_name(declared, trained),
        representing=Representing(
            columns=declared.represent,
            min_agreement=declared.min_agreement,
            tolerance=declared.tolerance,
        ),
        progress=progress,
    )


def _follow(
    home: Home,
    application: str,
    declared: TableRecipe,
    trained: Trained,
    examples: Path,
    *,
    by: str,
    progress: Progress | None,
) -> tuple[TableInfo, int]:
    """Builds the table of the version that is live now, the head of its traffic first."""
    name = _source_name(declared, trained)
    rows = (
        rows_of_files(Path(declared.source), name)
        if declared.source
        else rows_of_table(examples_source(examples), name)
    )
    done = rescore(
        home,
        application,
        rows,
        by=by,
        min_agreement=declared.min_agreement,
        tolerance=declared.tolerance,
        progress=progress,
    )
    return done.whole.table, done.whole.revision


def _source_name(declared: TableRecipe, trained: Trained) -> str:
    return declared.source or f"examples of run {trained.run}"
