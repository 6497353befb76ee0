"""A private server on a candidate: ``python -m tidemill.recipes.candidate FILE``.

Serves the deployments of a file on a free port of the loopback, says the port on standard output
as JSON, and keeps everything that it writes in the file's folder.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from tidemill.foundation.errors import TidemillError
from tidemill.foundation.logs import configure_logs
from tidemill.foundation.settings import LedgerSettings, ServeSettings
from tidemill.serving.live import FileSource
from tidemill.serving.supervisor import Supervisor


async def serve(path: Path) -> None:
    """Serves until SIGTERM."""
    folder = path.parent
    supervisor = Supervisor(
        FileSource(path),
        ServeSettings(port=0, drain_s=1.0),
        LedgerSettings(),
        run_path=folder,
        ledger_path=folder / "ledger",
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def ready(port: int) -> None:
        refused = supervisor.status()["refused"]
        if refused:
            sys.stderr.write(f"{refused[0]['reason']}\n")
            stop.set()
            return
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()

    await supervisor.run(ready, stop)


def main() -> None:
    """Serves the file named on the command line."""
    configure_logs("warning", "json")
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except TidemillError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
