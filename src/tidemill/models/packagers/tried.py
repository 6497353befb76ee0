"""Models that run in another process, as model folders: what every such framework has in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from tidemill.foundation.clock import iso
from tidemill.foundation.names import check_name
from tidemill.models.format import ModelManifest, write_model
from tidemill.models.packaging import Given, Taken, new_folder
from tidemill.models.signature import check_batch
from tidemill.models.trying import THIS_PYTHON, measure_in

Take = Callable[[Path, Path, Path, Given], Taken]
"""Puts a model into a folder: of an interpreter, where it lies, the folder, and what is given."""


def package_tried(
    take: Take,
    path: Path,
    name: str,
    folder: Path,
    given: Given,
    *,
    requirements: tuple[str, ...],
) -> ModelManifest:
    """Makes a model folder of what runs code, to be served among Tidemill's own libraries.

    It must answer the rows given, or a made-up one.

    Args:
        take: puts it into the folder.
        path: where it lies.
        name: the model's name.
        folder: a new folder, or an empty one.
        given: what the caller knows of it.
        requirements: what it was made with, for the manifest.

    Raises:
        InvalidModel: it cannot be taken, or does not answer as its signature says.
    """
    check_name("model", name)
    new_folder(folder)
    taken = take(THIS_PYTHON, path, folder, given)
    manifest = ModelManifest(
        name=name,
        runtime=taken.runtime,
        signature=taken.signature,
        entry=taken.entry,
        trust="code",
        runtime_options=taken.options,
        requirements=requirements,
        created_at=iso(given.clock.now()),
    )
    manifest = write_model(folder, manifest)
    rows = None if given.rows is None else given.rows(taken.signature)
    checked = None if rows is None else check_batch(taken.signature, rows)
    latency = measure_in(THIS_PYTHON, folder, checked)
    return write_model(folder, msgspec.structs.replace(manifest, latency=latency))
