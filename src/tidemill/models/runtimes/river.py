"""River's models, asked row by row; they learn nothing from what they are asked."""

from __future__ import annotations

from pathlib import Path

from tidemill.foundation.errors import InvalidModel, Unavailable
from tidemill.models.format import ModelManifest, read_verified
from tidemill.models.runtimes.pickled import load_bytes
from tidemill.models.runtimes.portable import PortableRuntime, our_errors
from tidemill_worker.river_models import RiverModel, is_river


def open_river(folder: Path, manifest: ModelManifest, threads: int) -> PortableRuntime:
    """Loads the entry of a verified and trusted model folder; it uses one thread.

    Raises:
        InvalidModel: it is no model of River's, or does not fit the signature.
        Corrupted: the entry is not what was written.
        Unavailable: River is not installed.
    """
    del threads
    try:
        import river  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "River's models need River", remedy="pip install 'tidemill[river]'."
        ) from error
    model = load_bytes(read_verified(folder, manifest, manifest.entry), manifest.entry)
    if not is_river(model):
        raise InvalidModel(f"{manifest.entry!r} holds a {type(model).__name__}, not River's")
    classes = manifest.runtime_options.get("classes", ())
    with our_errors():
        opened = RiverModel(model, manifest.signature, classes)
    return PortableRuntime(opened, manifest.signature)
