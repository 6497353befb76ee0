"""Takes files into a dataset under the options that its recipe declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tidemill.data.catalog import get_dataset
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult
from tidemill.data.sources import Source
from tidemill.data.text_options import delimiter_of
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.recipes.recipe import recipes_of


class IngestOptions(msgspec.Struct, frozen=True, kw_only=True):
    r"""What a caller says about an ingest beside what is declared; None says nothing.

    Attributes:
        key: as ``DatasetOptions`` has it, as are all but the last.
        time: the column of the event time.
        lateness_s: how much older than the newest a row may be.
        delimiter: also ``\t`` as two characters, as a shell passes it.
        encoding: of CSV text.
        null_values: texts that mean "no value".
        max_bad_fraction: above it, the batch is refused.
        max_drift: likewise.
        environment: of the schema, for these rows.
        schema: rules for columns.
    """

    key: tuple[str, ...] | None = None
    time: str | None = None
    lateness_s: float | None = None
    delimiter: str | None = None
    encoding: str | None = None
    null_values: tuple[str, ...] | None = None
    max_bad_fraction: float | None = None
    max_drift: float | None = None
    environment: str | None = None
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
        for field in options.__struct_fields__
        if field != "schema" and (value := getattr(options, field)) is not None
    }
    if options.delimiter is not None:
        said["delimiter"] = delimiter_of(options.delimiter)
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
