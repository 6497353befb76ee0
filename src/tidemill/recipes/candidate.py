"""A private server on a candidate: ``python -m tidemill.recipes.candidate FILE``.

Serves the deployments of a file on a free port of the loopback, says the port on standard output
as JSON, and keeps everything that it writes in the file's folder. It ends with its standard input,
so that it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

from tidemill.foundation.errors import TidemillError
from tidemill.foundation.logs import configure_logs
from tidemill.foundation.settings import LedgerSettings, LogSettings, ServeSettings
from tidemill.serving.live import FileSource
from tidemill.serving.supervisor import Supervisor


async def serve(path: Path) -> None:
    """Serves until SIGTERM, or until standard input ends."""
    folder = path.parent
    supervisor = Supervisor(
        FileSource(path),
        ServeSettings(port=0, drain_s=1.0),
        LedgerSettings(),
        run_path=folder,
        ledger_path=folder / "ledger",
        logs=LogSettings(level="warning", format="json"),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threading.Thread(target=_await_end, args=(loop, stop), daemon=True).start()

    def ready(port: int) -> None:
        refused = supervisor.status()["refused"]
        if refused:
            sys.stderr.write(f"{refused[0]['reason']}\n")
            stop.set()
            return
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()

    await supervisor.run(ready, stop)


def _await_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    with contextlib.suppress(RuntimeError):  # it has stopped already
        loop.call_soon_threadsafe(stop.set)


def main() -> None:
    """Serves the file named on the command line."""
    configure_logs("warning", "json")
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except TidemillError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
