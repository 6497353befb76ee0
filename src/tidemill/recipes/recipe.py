"""A recipe: all that is declared about one trained model, from its rows to its promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from tidemill.data.records import DatasetOptions
from tidemill.foundation.errors import InvalidSettings, NotFound
from tidemill.foundation.names import check_name
from tidemill.foundation.settings import Settings
from tidemill.training.evaluator import BlessingRules

Fraction = Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How examples are kept apart for evaluation.

    ``hash`` of ``columns`` keeps rows that agree on them together and is the same for every run;
    ``time`` keeps the newest part by the column; ``group`` keeps whole groups apart.
    """

    by: Literal["hash", "time", "group"] = "hash"
    columns: tuple[str, ...] = ()
    evaluation: Fraction = 0.2
    seed: int = 0


class TableRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table that goes in front of a new version, and the keys that it holds.

    ``source`` is a file (CSV or Parquet) of keyed rows; without one, the keys are those of the
    examples. ``build`` says whether it is built before the version goes live, or after, what is
    asked most first. ``max_age_s`` is how old its answers may be; None leaves it as it is, or any
    age. ``represent`` says by column of the key what represents its values;
    ``min_agreement`` is the share of the rows whose own answer must agree with that of what
    represents them, real numbers up to a ``tolerance``.
    """

    key: tuple[str, ...]
    source: str | None = None
    build: Literal["before", "after"] = "before"
    max_age_s: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    represent: dict[str, str] = {}
    min_agreement: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    tolerance: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``[recipes.NAME]`` in the settings file says.

    Attributes:
        dataset: whose snapshots are trained on.
        select: a DuckDB query over the view ``rows``, one row for each example, with the features,
            the label and whatever the slices and split need. A NULL label is no example.
        features: the columns that a client will send.
        label: the column to be predicted.
        model: ``random-forest``, ``logistic-regression`` or ``module:function``.
        params: what the model is made with.
        seed: makes training repeatable.
        split: how evaluation examples are kept apart.
        slices: columns by whose values the evaluation is also shown and judged.
        rules: what a candidate must pass to be blessed.
        ingest: how the dataset's files are read and judged.
        application: what clients query; the recipe's name if not given.
        slo_ms: within what time an answer is promised.
        default: the answer that stands in when the promise can't be kept.
        table: the table in front of each new version, if one is wanted.
        snapshots: how many of the newest snapshots are trained on; all if None.
    """

    dataset: str
    select: str = "select * from rows"
    features: tuple[str, ...]
    label: str
    model: str = "random-forest"
    params: dict[str, Any] = {}
    seed: int = 0
    split: Split = Split()
    slices: tuple[str, ...] = ()
    rules: BlessingRules = BlessingRules()
    ingest: DatasetOptions | None = None
    application: str | None = None
    slo_ms: Annotated[float, msgspec.Meta(gt=0.0)] = 100.0
    default: dict[str, Any] | None = None
    table: TableRecipe | None = None
    snapshots: Annotated[int, msgspec.Meta(ge=1)] | None = None


def get_recipe(settings: Settings, name: str) -> Recipe:
    """Returns a declared recipe.

    Raises:
        NotFound: the settings file has no such table.
        InvalidSettings: the table has an unknown key or a wrong value; its path is named.
    """
    table = settings.recipes.get(name)
    if table is None:
        known = ", ".join(sorted(settings.recipes)) or "none"
        raise NotFound(
            f"recipe {name!r} is not declared",
            remedy=f"Add [recipes.{name}] to tidemill.toml. Declared: {known}.",
        )
    return _decode(name, table)


def recipes_of(settings: Settings) -> dict[str, Recipe]:
    """Returns every declared recipe, by name."""
    return {name: _decode(name, table) for name, table in settings.recipes.items()}


def _decode(name: str, table: Mapping[str, Any]) -> Recipe:
    check_name("recipe", name)
    try:
        recipe = msgspec.convert(table, Recipe)
    except msgspec.ValidationError as error:
        raise InvalidSettings(
            f"recipe {name!r} is not valid: {error}",
            remedy=f"Mend [recipes.{name}]; `$` in the path above stands for it.",
        ) from error
    check_name("dataset", recipe.dataset)
    return recipe
