"""The servers that are compared: ours by key in two ways, and three that only look up."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urljoin

from bench.lookup.claims import BARE, LMDB, LOOKUP, PREDICT, REDIS
from bench.lookup.work import APPLICATION, KEY, Work
from bench.measure import Target, check
from bench.ours import TIDEMILL, Installation
from bench.peers import install
from bench.results import say
from bench.servers import ROOT, BenchmarkFailed, Server, free_port, run

AT = 64
REDIS_S = 10.0


def ours(work: Work, folder: Path, stack: ExitStack) -> list[Target]:
    """Pushes the model, builds its table and starts our server."""
    installation = Installation(home=folder / "home")
    installation.push(work.model, APPLICATION)
    installation.deploy(APPLICATION, APPLICATION)
    build = ("table", "build", APPLICATION, "--from", str(work.rows), "--key", KEY)
    run([*TIDEMILL, *build, "--home", str(installation.home)])
    log, key = folder / "ours.log", installation.make_key()
    server = installation.server(APPLICATION, log=log, key=key)
    stack.callback(server.stop)
    server.start()
    server.wait()
    root = server.ready_url.partition("/v2/")[0]
    return [
        Target(
            name=name,
            server=server,
            url=f"{root}/v1/models/{APPLICATION}:{form}",
            format="v1",
            bodies=work.bodies[form],
            expected=work.expected,
            connections=(AT,),
        )
        for name, form in ((LOOKUP, "lookup"), (PREDICT, "predict"))
    ]


def peers(work: Work, folder: Path, stack: ExitStack, left_out: dict[str, str]) -> list[Target]:
    """Starts the others; one that cannot be started is noted in ``left_out``."""
    lmdb = folder / "lmdb"
    fill = ("-m", "bench.peers.lookup_data", str(work.values))
    run([sys.executable, *fill, "lmdb", str(lmdb)])
    targets = [_target(BARE, _bare(lmdb, folder), work, stack)]
    for name in (LMDB, REDIS):
        reason = install.install("fastapi")
        if reason is None and name == REDIS and shutil.which("redis-server") is None:
            reason = "redis-server is not installed (Debian package redis-server)"
        if reason is not None:
            say(f"LEFT OUT: {name}: {reason}")
            left_out[name] = reason
            continue
        if name == LMDB:
            server = _fastapi("lmdb", folder, LMDB_PATH=str(lmdb))
        else:
            port = _redis(folder, stack)
            run([str(install.binary("fastapi")), *fill, "redis", str(port)])
            server = _fastapi("redis", folder, REDIS_PORT=str(port))
        targets.append(_target(name, server, work, stack))
    return targets


def _target(name: str, server: Server, work: Work, stack: ExitStack) -> Target:
    stack.callback(server.stop)
    server.start()
    server.wait()
    target = Target(
        name=name,
        server=server,
        url=urljoin(server.ready_url, "/lookup"),
        format="plain",
        bodies=work.bodies["peers"],
        expected=work.expected,
        pausable=True,
        connections=(AT,),
    )
    check(target)
    server.pause()
    return target


def _bare(lmdb: Path, folder: Path) -> Server:
    port = free_port()
    return Server(
        command=(sys.executable, "-m", "bench.peers.lookup_bare", str(port), str(lmdb)),
        log=folder / "bare.log",
        ready_url=f"http://127.0.0.1:{port}/lookup/0",
    )


def _fastapi(app: str, folder: Path, **settings: str) -> Server:
    port = free_port()
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
    where = (f"bench.peers.lookup_{app}:app", "--port", str(port), "--log-level", "warning")
    return Server(
        command=(str(install.binary("fastapi", "uvicorn")), *where, *options, "--workers", "1"),
        log=folder / f"fastapi-{app}.log",
        ready_url=f"http://127.0.0.1:{port}/lookup/0",
        environment={"PYTHONPATH": str(ROOT), **settings},
    )


def _redis(folder: Path, stack: ExitStack) -> int:
    """Starts a Redis that keeps nothing on the disk; returns its port."""
    port = free_port()
    options = {"--port": port, "--bind": "127.0.0.1", "--save": "", "--appendonly": "no"}
    words = [str(word) for option in options.items() for word in option]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(["redis-server", *words], stdout=log, stderr=log, cwd=folder)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    deadline = time.monotonic() + REDIS_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkFailed("redis-server did not start") from error
            time.sleep(0.05)
        else:
            return port
