"""Every peer in its configurations, and how each is started and asked.

Not among them: Clipper. Nobody maintains it, and it runs only as a set of Docker containers; what
its paper promised is measured of ours alone (``bench.openloop``).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.peers import install, triton
from bench.servers import ROOT, Server, free_port

ALL = ("sum", "lr", "rf", "mlp")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a configuration is started with."""

    workload: str
    columns: int
    model: Path | None
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Returns what the peers' modules read."""
        model = {} if self.model is None else {"MODEL": str(self.model)}
        return {"WORKLOAD": self.workload, "PYTHONPATH": str(ROOT), **model, **more}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One configuration of a peer; ``best`` names the workloads that it is the quickest at.

    ``rests``: it is stopped by a signal while others are measured. Not so the floor and Triton,
    which do nothing unasked; and Triton gives its Python backend up, if that cannot answer a check
    of its health within a second.
    """

    name: str
    requires: str | None
    format: str
    body: str
    path: str
    start: Callable[[Launch, int], Server]
    best: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ALL
    processes: str = "1"
    rests: bool = True

    def server(self, launch: Launch, port: int) -> Server:
        """Returns the server, not yet started."""
        return self.start(launch, port)


def _floor(launch: Launch, port: int) -> Server:
    return Server(
        command=(sys.executable, "-m", "bench.peers.floor", str(port)),
        log=launch.folder / "log",
        ready_url=f"http://127.0.0.1:{port}/",
        environment=launch.environment(),
    )


def _fastapi(app: str, workers: int) -> Callable[[Launch, int], Server]:
    def start(launch: Launch, port: int) -> Server:
        options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
        where = (f"bench.peers.fastapi_app:{app}", "--port", str(port), "--log-level", "warning")
        uvicorn = str(install.binary("fastapi", "uvicorn"))
        return Server(
            command=(uvicorn, *where, *options, "--workers", str(workers)),
            log=launch.folder / "log",
            ready_url=f"http://127.0.0.1:{port}/ready",
            environment=launch.environment(),
        )

    return start


def _triton(delay_us: int, backends: int = 1) -> Callable[[Launch, int], Server]:
    def start(launch: Launch, port: int) -> Server:
        program = triton.lay_out(
            launch.folder, launch.workload, launch.columns, delay_us=delay_us, backends=backends
        )
        options = {
            "model-repository": launch.folder / "repository",
            "backend-directory": launch.folder / "backends",
            "http-address": "127.0.0.1",
            "http-port": port,
            "http-thread-count": 2,
            "allow-grpc": "false",
            "allow-metrics": "false",
        }
        path = f"{install.folder() / 'triton' / 'bin'}:{os.environ['PATH']}"
        return Server(
            command=(str(program), *(f"--{name}={value}" for name, value in options.items())),
            log=launch.folder / "log",
            ready_url=f"http://127.0.0.1:{port}/v2/health/ready",
            environment=launch.environment(PATH=path, LD_LIBRARY_PATH=triton.library_path()),
        )

    return start


def _mlserver(batch: int) -> Callable[[Launch, int], Server]:
    def start(launch: Launch, port: int) -> Server:
        server = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "gzip_enabled": False,
        }
        batching = {"max_batch_size": batch, "max_batch_time": 0.002} if batch > 1 else {}
        model = {"name": "model", "implementation": "bench.peers.mlserver_runtime.Model"}
        _write_json(launch.folder / "settings.json", server)
        _write_json(launch.folder / "model-settings.json", {**model, **batching})
        return Server(
            command=(str(install.binary("mlserver", "mlserver")), "start", str(launch.folder)),
            log=launch.folder / "log",
            ready_url=f"http://127.0.0.1:{port}/v2/health/ready",
            environment=launch.environment(),
        )

    return start


def _litserve(**settings: str) -> Callable[[Launch, int], Server]:
    def start(launch: Launch, port: int) -> Server:
        return Server(
            command=(str(install.binary("litserve")), "-m", "bench.peers.litserve_app"),
            log=launch.folder / "log",
            ready_url=f"http://127.0.0.1:{port}/health",
            environment=launch.environment(PORT=str(port), **settings),
        )

    return start


def _bentoml(launch: Launch, port: int) -> Server:
    bentoml = str(install.binary("bentoml", "bentoml"))
    service = "bench.peers.bentoml_service:Model"
    return Server(
        command=(bentoml, "serve", service, "--host", "127.0.0.1", "--port", str(port)),
        log=launch.folder / "log",
        ready_url=f"http://127.0.0.1:{port}/readyz",
        environment=launch.environment(
            BENTOML_DO_NOT_TRACK="True", BENTOML_HOME=str(launch.folder / "home")
        ),
    )


def _ray(launch: Launch, port: int) -> Server:
    return Server(
        command=(str(install.binary("ray")), "-m", "bench.peers.ray_app"),
        log=launch.folder / "log",
        ready_url=f"http://127.0.0.1:{port}/-/healthz",
        environment=launch.environment(
            PORT=str(port), RAY_USAGE_STATS_ENABLED="0", RAY_SERVE_THROUGHPUT_OPTIMIZED="1"
        ),
        timeout_s=180.0,
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


V2 = "/v2/models/model/infer"
PEERS = (
    Peer(
        name="the floor",
        requires=None,
        format="plain",
        body="plain",
        path="/",
        start=_floor,
        best=("sum",),
        workloads=("sum",),
        rests=False,
    ),
    Peer(
        name="FastAPI",
        requires="fastapi",
        format="plain",
        body="plain",
        path="/predict",
        start=_fastapi("inline", 1),
        best=("sum", "lr", "mlp"),
    ),
    Peer(
        name="FastAPI, 2 workers",
        requires="fastapi",
        format="plain",
        body="plain",
        path="/predict",
        start=_fastapi("inline", 2),
        processes="2",
    ),
    Peer(
        name="FastAPI + micro-batcher",
        requires="fastapi",
        format="plain",
        body="plain",
        path="/predict",
        start=_fastapi("batched", 1),
        best=("rf",),
    ),
    Peer(
        name="Triton",
        requires="triton",
        format="v2",
        body="v2",
        path=V2,
        start=_triton(0),
        best=ALL,
        processes="2 (server and backend)",
        rests=False,
    ),
    Peer(
        name="Triton, delay 2 ms",
        requires="triton",
        format="v2",
        body="v2",
        path=V2,
        start=_triton(2000),
        processes="2 (server and backend)",
        rests=False,
    ),
    Peer(
        name="Triton, 2 workers",
        requires="triton",
        format="v2",
        body="v2",
        path=V2,
        start=_triton(0, backends=2),
        processes="3 (server and backends)",
        rests=False,
    ),
    Peer(
        name="Triton, binary",
        requires="triton",
        format="v2",
        body="v2-binary",
        path=V2,
        start=_triton(0),
        best=("mlp",),
        workloads=("mlp",),
        processes="2 (server and backend)",
        rests=False,
    ),
    Peer(
        name="MLServer",
        requires="mlserver",
        format="v2",
        body="v2",
        path=V2,
        start=_mlserver(1),
        best=("sum",),
    ),
    Peer(
        name="MLServer, adaptive batching",
        requires="mlserver",
        format="v2",
        body="v2",
        path=V2,
        start=_mlserver(64),
    ),
    Peer(
        name="LitServe",
        requires="litserve",
        format="plain",
        body="plain",
        path="/predict",
        start=_litserve(FAST_QUEUE="1"),
        best=("sum",),
        processes="4 (API server, queues, worker)",
    ),
    Peer(
        name="LitServe, no batching",
        requires="litserve",
        format="plain",
        body="plain",
        path="/predict",
        start=_litserve(BATCH="1"),
        processes="4 (API server, queues, worker)",
    ),
    Peer(
        name="BentoML",
        requires="bentoml",
        format="list",
        body="batch",
        path="/predict",
        start=_bentoml,
        best=("sum",),
        processes="2 (arbiter, worker)",
    ),
    Peer(
        name="Ray Serve",
        requires="ray",
        format="plain",
        body="plain",
        path="/",
        start=_ray,
        best=("sum",),
        processes="11 (proxy, controller, replica, Ray's own)",
    ),
)
