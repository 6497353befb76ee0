"""River's models as model folders: what they know of their features and classes becomes columns."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidModel
from tidemill.foundation.names import check_name
from tidemill.models.format import ModelManifest
from tidemill.models.packaging import Given, answering, made_with, new_folder, write_served
from tidemill.models.probing import probe_rows
from tidemill.models.runtimes.portable import our_errors
from tidemill.models.signature import Batch, Signature, check_batch
from tidemill_worker.river_models import RiverModel, describe_river
from tidemill_worker.signatures import Column as ToldColumn

_ENTRY = "model.pkl"
_PROBES = 64


def package_river(model: Any, path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of a River model that was loaded from a file, kept as it is.

    It must answer the rows given, or made-up ones, and answer them again alike.

    Raises:
        InvalidModel: it is of a kind that answers no rows, does not know its features, or learns
            or draws while it predicts.
    """
    check_name("model", name)
    with answering(path, given), our_errors():
        signature, rows, classes = _described(model, given)
        RiverModel(model, signature, classes).check_steady(rows)

        def copy(place: Path) -> None:
            shutil.copyfile(path, place / _ENTRY)

        new_folder(folder)
        manifest = ModelManifest(
            name=name,
            runtime="river",
            signature=signature,
            entry=_ENTRY,
            trust="code",
            runtime_options={"classes": list(classes)} if classes else {},
            classes=tuple(map(str, classes)),
            requirements=made_with("river", "numpy"),
            created_at=iso(given.clock.now()),
        )
        return write_served(
            folder,
            manifest,
            None,
            rows,
            write_original=copy,
            clock=given.clock,
        )


def _described(model: Any, given: Given) -> tuple[Signature, Batch, tuple[Any, ...]]:
    """Returns the signature, rows to ask, and the classes that the model knows of all of them."""
    inputs = None
    if given.signature is not None:
        told = msgspec.json.encode(given.signature.inputs)
        inputs = msgspec.json.decode(told, type=tuple[ToldColumn, ...])
    first, _ = describe_river(model, inputs)
    signature = given.signature or Signature.from_json(msgspec.json.encode(first))
    made_up = probe_rows(None, signature, n=_PROBES)
    rows = made_up if given.rows is None else check_batch(signature, given.rows(signature))
    found, classes = describe_river(model, inputs, rows)
    if given.signature is None:
        return Signature.from_json(msgspec.json.encode(found)), rows, classes
    outputs = {column.name: column.shape for column in given.signature.outputs}
    if "probabilities" in outputs and outputs["probabilities"] != (len(classes),):
        raise InvalidModel(
            f"the signature has {outputs['probabilities']} probabilities, the model knows the "
            f"{len(classes)} classes {', '.join(map(str, classes))[:300]}",
            remedy="Correct the shape; or show it rows of every class, with --sample.",
        )
    return given.signature, rows, classes
