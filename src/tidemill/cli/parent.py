"""Ends a verb that runs on when whoever started it is gone."""

from __future__ import annotations

import os
import signal
import threading

_LOOK_EVERY_S = 0.5


def stop_with_parent() -> None:
    """Sends this process SIGTERM once the process that started it is not its parent any more."""
    parent = os.getppid()

    def watch() -> None:
        waiting = threading.Event()
        while os.getppid() == parent:
            waiting.wait(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watches-parent", daemon=True).start()
