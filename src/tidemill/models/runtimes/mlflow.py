"""MLflow's pyfunc models, loaded by MLflow itself: in workers, for its import takes seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tidemill.foundation.errors import Unavailable
from tidemill.models.format import ModelManifest
from tidemill.models.runtimes.portable import PortableRuntime, our_errors
from tidemill_worker.mlflow_models import PLACE, PyfuncModel, load_pyfunc


def open_mlflow(folder: Path, manifest: ModelManifest, threads: int) -> PortableRuntime:
    """Loads a verified and trusted model folder; how many threads it uses is the model's business.

    Raises:
        InvalidModel: MLflow cannot load it.
        Unavailable: MLflow is not installed.
    """
    del threads
    try:
        missing = importlib.util.find_spec("mlflow") is None
    except ValueError:  # it is known here not to be there
        missing = True
    if missing:
        raise Unavailable("MLflow's models need MLflow", remedy="pip install 'tidemill[mlflow]'.")
    with our_errors():
        opened = PyfuncModel(load_pyfunc(folder / PLACE), manifest.signature)
    return PortableRuntime(opened, manifest.signature)
