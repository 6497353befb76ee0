"""Loads one model and answers its batches: ``python -m tidemill_worker --socket PATH …``.

Says on standard output, in one line of JSON, that it is ready, or why it cannot be.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tidemill_worker import process


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker; returns 0 when it was asked to stop, 1 when the model cannot be loaded."""
    options = _parser().parse_args(arguments)
    process.set_threads(options.threads)
    process.show_device(options.device)
    process.limit()
    if options.parent is not None:
        process.end_with_parent(options.parent)
    announce = _own_stdout()
    # Only now: what is below loads numeric libraries, which read the number of threads once.
    from tidemill_worker import server, sockets  # noqa: PLC0415

    try:
        runtime = _load(options)
        _warm_up(runtime)
        listener = sockets.listen(options.socket)
    except Exception as error:  # noqa: BLE001 - a model may raise anything; the parent is told
        _tell(announce, {"ready": False, **_described(error)})
        return 1
    gc.collect()
    process.trim_memory()
    _tell(announce, {"ready": True, "pid": os.getpid()})
    server.Server(listener, runtime.predict, overrun_s=options.overrun_s).run()
    runtime.close()
    options.socket.unlink(missing_ok=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tidemill_worker", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--loader", required=True, help="module:function that opens the model")
    parser.add_argument("--folder", type=Path, required=True, help="the model's folder")
    parser.add_argument("--trust-code", action="store_true", help="the model may bring code")
    parser.add_argument("--threads", type=int, default=1, help="threads of numeric libraries")
    parser.add_argument("--device", default="cpu", help="where it runs: cpu, cuda or cuda:N")
    parser.add_argument("--overrun-s", type=float, default=30.0, help="longest batch allowed")
    parser.add_argument("--parent", type=int, help="process to end with")
    return parser


def _own_stdout() -> int:
    """Keeps standard output for the announcement; what a model prints goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def _load(options: argparse.Namespace) -> Any:
    from tidemill_worker.devices import check_device  # noqa: PLC0415 - after the threads are set

    check_device(options.device)
    module, _, function = options.loader.partition(":")
    loader = getattr(importlib.import_module(module), function)
    return loader(
        options.folder,
        trust_code=options.trust_code,
        threads=options.threads,
        device=options.device,
    )


def _warm_up(runtime: Any) -> None:
    from tidemill_worker.warmup import synthetic_row  # noqa: PLC0415

    try:
        runtime.predict(synthetic_row(runtime.signature.inputs))
    except Exception as error:  # noqa: BLE001 - a model may rightly refuse a made-up row
        print(f"the warm-up row was refused: {error!r}", file=sys.stderr)  # noqa: T201


def _described(error: Exception) -> dict[str, str]:
    what = str(getattr(error, "what", "")) or f"{type(error).__name__}: {error}"
    return {
        "kind": type(error).__name__,
        "what": what[:4096],
        "remedy": str(getattr(error, "remedy", ""))[:4096],
    }


def _tell(file: int, words: dict[str, Any]) -> None:
    os.write(file, json.dumps(words).encode() + b"\n")
    os.close(file)


if __name__ == "__main__":
    sys.exit(main())
