"""A model inside the gateway process: for compiled models that take microseconds."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tidemill.foundation.errors import NotReady, TidemillError
from tidemill.foundation.logs import log
from tidemill.models.runtime import Runtime, open_registered
from tidemill.models.signature import Batch
from tidemill.serving.replicas.failure import model_failed
from tidemill.serving.replicas.replica import Done
from tidemill_worker.warmup import synthetic_row


class InlineReplica:
    """Predicts on the event loop itself: no hop, no copy, and nothing else runs meanwhile.

    Args:
        folder: the model's folder.
        trust_code: the model may bring code.
        threads: threads of one prediction.
    """

    on_loop = True
    capacity = 1
    name = "gateway"

    def __init__(self, folder: Path, *, trust_code: bool = False, threads: int = 1) -> None:
        self._folder = folder
        self._trust_code = trust_code
        self._threads = threads
        self._runtime: Runtime | None = None
        self.in_flight = 0

    @property
    def alive(self) -> bool:
        """Says whether it is loaded."""
        return self._runtime is not None

    async def start(self) -> None:
        """Loads the model in a thread and predicts one made-up row.

        Raises:
            TidemillError: the model could not be loaded.
        """
        self._runtime = await asyncio.to_thread(self._open)

    def submit(self, batch: Batch, done: Done) -> None:
        """Predicts; ``done`` has been called when this returns."""
        self.in_flight += 1
        try:
            result = self._predict(batch)
        finally:
            self.in_flight -= 1
        done(result)

    def collect(self) -> None:
        """Has nothing out that could come back."""

    async def aclose(self) -> None:
        """Gives the model back."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()

    def _predict(self, batch: Batch) -> Batch | TidemillError:
        if self._runtime is None:
            return NotReady("the model is not loaded", remedy="Retry in a moment.")
        try:
            return self._runtime.predict(batch)
        except TidemillError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a model may raise anything; the caller is told
            return model_failed(type(error).__name__, str(error))

    def _open(self) -> Runtime:
        runtime = open_registered(self._folder, trust_code=self._trust_code, threads=self._threads)
        try:
            runtime.predict(synthetic_row(runtime.signature.inputs))
        except Exception as error:  # noqa: BLE001 - a model may rightly refuse a made-up row
            log("serving.replicas").info("warmup.refused", folder=self._folder, error=repr(error))
        return runtime
