"""BentoML with its adaptive batching; ``BATCH=1``: none."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np
from bench.peers.predict import answers, open_model

BATCH = int(os.environ.get("BATCH", "64"))
QUIET = {"access": {"enabled": False}}


@bentoml.service(
    workers=1,
    traffic={"timeout": 60, "max_concurrency": 2000},
    metrics={"enabled": False},
    logging=QUIET,
)
class Model:
    """One row a request; BentoML gathers them."""

    def __init__(self) -> None:
        self._predict = open_model()

    @bentoml.api(**({"batchable": True, "max_batch_size": BATCH} if BATCH > 1 else {}))
    def predict(self, x: np.ndarray) -> list[Any]:
        """Answers a batch."""
        return answers(self._predict(x))
