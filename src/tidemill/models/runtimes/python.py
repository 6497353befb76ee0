"""Python functions, called among Tidemill's own libraries: in workers, for they may do anything."""

from __future__ import annotations

from pathlib import Path

from tidemill.models.format import ModelManifest
from tidemill.models.runtimes.portable import PortableRuntime, our_errors
from tidemill_worker.functions import open_function


def open_python(
    folder: Path, manifest: ModelManifest, threads: int, device: str = "cpu"
) -> PortableRuntime:
    """Imports the function of a verified and trusted model folder.

    What it does with its threads and a device is its own business: it was shown the right one.

    Raises:
        InvalidModel: there is no such function, its module fails to load, or it cannot be called
            with the signature's columns.
    """
    del device
    with our_errors():
        opened = open_function(folder, trust_code=True, threads=threads)
    return PortableRuntime(opened, manifest.signature)
