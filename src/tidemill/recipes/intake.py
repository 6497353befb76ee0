"""Takes files into a dataset under the options that its recipe declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tidemill.data.catalog import get_dataset
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult
from tidemill.data.sources import Source
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.recipes.recipe import recipes_of


class IngestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says about an ingest beside what is declared; None says nothing."""

    key: tuple[str, ...] | None = None
    time: str | None = None
    lateness_s: float | None = None
    schema: Path | None = None


def take(
    home: Home,
    name: str,
    sources: Sequence[Source],
    options: IngestOptions = IngestOptions(),  # noqa: B008 - frozen
    *,
    progress: Callable[[int, int], None] | None = None,
) -> IngestResult:
    """Takes files through the data gate; see ``data.ingest``."""
    said = {
        field: value
        for field in ("key", "time", "lateness_s")
        if (value := getattr(options, field)) is not None
    }
    judged = _declared(home, name)
    if said:
        judged = msgspec.structs.replace(judged or _stored(home, name), **said)
    return ingest(
        home, name, list(sources), options=judged, schema=options.schema, progress=progress
    )


def _stored(home: Home, name: str) -> DatasetOptions:
    """Returns the options that the dataset was last ingested with, or the defaults."""
    try:
        return get_dataset(home, name).options
    except NotFound:
        return DatasetOptions()


def _declared(home: Home, name: str) -> DatasetOptions | None:
    for recipe in recipes_of(home.settings).values():
        if recipe.dataset == name and recipe.ingest is not None:
            return recipe.ingest
    return None
