"""What is measured in each workload: ours in the placements that the claims name, and the peers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urljoin

from bench.effort import Effort
from bench.measure import Target, check
from bench.ours import Installation, infer_url
from bench.peers import install
from bench.peers.catalog import PEERS, Launch, Peer
from bench.results import say
from bench.servers import BenchmarkFailed, Server, free_port
from bench.serving.names import AT, BINARY, GATEWAY, ORIGINAL, WORKER
from bench.serving.work import Work

from tidemill.serving.plan import ServingPlan

CURVE, ONCE = (1, 8, 64, 256), (AT,)
ASKED = {
    "smoke": {"sum": (1, 64, 256), "others": ONCE, "peers": ONCE},
    "quick": {"sum": (1, 64, 256), "others": ONCE, "peers": ONCE},
    "brief": {"sum": CURVE, "others": (1, 64), "peers": ONCE},
    "full": {"sum": CURVE, "others": CURVE, "peers": CURVE},
}
"""How many connections ask ours and the floor in ``sum``, ours in the others, and the peers.

A peer in a configuration that is not its best is asked where throughput is compared, at ``AT``.
"""


def ours(work: Work, folder: Path, stack: ExitStack, effort: Effort) -> list[Target]:
    """Pushes the model, starts our server and returns how it is asked."""
    installation = Installation(home=folder / "home")
    installation.push(work.model, work.name, sample=None if work.name == "sum" else work.sample)
    applications = _applications(work, installation, folder)
    last, _ = list(applications.values())[-1]
    server = installation.server(last, log=folder / "ours.log", key=installation.make_key())
    stack.callback(server.stop)
    server.start()
    server.wait()
    return [
        Target(
            name=name,
            server=server,
            url=infer_url(server, application),
            format="v2",
            bodies=work.bodies[form],
            expected=work.expected,
            connections=_asked(work, effort),
        )
        for name, (application, form) in applications.items()
    ]


def peers(
    work: Work, folder: Path, stack: ExitStack, effort: Effort, refused: dict[str, str]
) -> list[Target]:
    """Starts the peers side by side; one that fails is noted in ``refused`` and left out."""
    chosen = [peer for peer in PEERS if _wanted(peer, work, effort) and _installed(peer, refused)]
    started: dict[str, Server] = {}
    for number, peer in enumerate(chosen):
        place = folder / f"peer{number}"
        place.mkdir()
        launch = Launch(workload=work.name, columns=work.columns, model=work.model, folder=place)
        try:
            started[peer.name] = peer.server(launch, free_port())
            stack.callback(started[peer.name].stop)
            started[peer.name].start()
        except (BenchmarkFailed, OSError) as error:
            _refuse(refused, f"{peer.name} ({work.name})", str(error))
            started.pop(peer.name, None)
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(started, pool.map(_reason, started.values()), strict=True))
    targets = []
    for peer in (each for each in chosen if each.name in started):
        target = _target(peer, work, started[peer.name], effort)
        reason = reasons[peer.name] or _checked(target)
        if reason is not None:
            _refuse(refused, f"{peer.name} ({work.name})", reason)
            target.server.stop()
            continue
        if target.pausable:
            target.server.pause()
        targets.append(target)
    return targets


def _applications(
    work: Work, installation: Installation, folder: Path
) -> dict[str, tuple[str, str]]:
    plain, worker = (
        ServingPlan(cache_bytes=0, coalesce=False),
        ServingPlan(cache_bytes=0, coalesce=False, placement="worker"),
    )
    if work.name == "sum":
        installation.deploy(
            "sum", "sum", ServingPlan(cache_bytes=0, coalesce=False, placement="gateway")
        )
        installation.deploy("sum-worker", "sum", worker)
        return {GATEWAY: ("sum", "v2"), WORKER: ("sum-worker", "v2")}
    installation.deploy(work.name, work.name, plain)
    if work.name == "rf":
        installation.push_original(work.model, "rf-original", folder / "original")
        installation.deploy("rf-original", "rf-original", plain)
        return {GATEWAY: ("rf", "v2"), ORIGINAL: ("rf-original", "v2")}
    if work.name == "mlp":
        return {GATEWAY: ("mlp", "v2"), BINARY: ("mlp", "v2-binary")}
    return {GATEWAY: (work.name, "v2")}


def _wanted(peer: Peer, work: Work, effort: Effort) -> bool:
    if work.name not in peer.workloads:
        return False
    if effort.peers is not None and peer.requires not in (None, *effort.peers):
        return False
    return effort.every_configuration or work.name in peer.best


def _installed(peer: Peer, refused: dict[str, str]) -> bool:
    if peer.requires is None:
        return True
    if peer.requires not in refused:
        reason = install.install(peer.requires)
        if reason is None:
            return True
        _refuse(refused, peer.requires, reason)
    return False


def _reason(server: Server) -> str | None:
    try:
        server.wait()
    except BenchmarkFailed as error:
        return str(error)
    return None


def _checked(target: Target) -> str | None:
    try:
        check(target)
    except BenchmarkFailed as error:
        return str(error)
    return None


def _refuse(refused: dict[str, str], name: str, reason: str) -> None:
    say(f"LEFT OUT: {name}: {reason}")
    refused[name] = reason


def _target(peer: Peer, work: Work, server: Server, effort: Effort) -> Target:
    is_floor = peer.requires is None
    return Target(
        name=peer.name,
        server=server,
        url=urljoin(server.ready_url, peer.path),
        format=peer.format,
        bodies=work.bodies[peer.body],
        expected=work.expected,
        pausable=peer.rests,
        expendable=not is_floor,
        connections=_asked(work, effort) if is_floor else _peers_asked(peer, work, effort),
    )


def _peers_asked(peer: Peer, work: Work, effort: Effort) -> tuple[int, ...]:
    return ASKED[effort.name]["peers"] if work.name in peer.best else ONCE


def _asked(work: Work, effort: Effort) -> tuple[int, ...]:
    return ASKED[effort.name]["sum" if work.name == "sum" else "others"]
