"""Ray Serve with ``@serve.batch``; ends on SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=300, ray_actor_options={"num_cpus": 0.5})
class Model:
    """One row a request; Ray Serve gathers them."""

    def __init__(self) -> None:
        from bench.peers import predict  # noqa: PLC0415 - in the replica's process

        self._predict, self._answers = predict.open_model(), predict.answers

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)  # type: ignore[untyped-decorator]
    async def ask(self, rows: list[Any]) -> list[Any]:
        """Answers a batch."""
        return list(self._answers(self._predict(rows)))

    async def __call__(self, request: Request) -> Any:
        """Answers one row."""
        return await self.ask((await request.json())["x"])


def main() -> None:
    """Serves on ``PORT`` until SIGTERM."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    # A short path: Ray makes Unix sockets in it.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            _temp_dir=folder,
            logging_level="ERROR",
            object_store_memory=100_000_000,
        )
        serve.start(
            http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        serve.run(Model.bind(), name="model", route_prefix="/")
        while not stop:
            time.sleep(0.1)
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
