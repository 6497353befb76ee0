"""From a deployment to what a gateway is told: folders, placement, workers."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.foundation.settings import ServeSettings
from tidemill.models.format import ModelManifest, read_manifest
from tidemill.serving.live import DeploymentSource, Resolved
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import (
    ApplicationAssignment,
    Assignment,
    Deployment,
    Live,
    RemoteSpec,
    ReplicaSpec,
    VersionAssignment,
)
from tidemill.serving.replicas.address import check_host, read_remote, token_for
from tidemill.serving.worker_pool import WorkerPool
from tidemill.serving.worker_process import WorkerKey

_REMOTE_GRACE_S = 0.25
"""How much longer than its promise a remote batch may take: after it, nobody waits any more."""


class PlacedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its files here.

    ``worker`` says what its workers serve, if it has any; ``remote`` where it answers, if that is
    in another server.
    """

    live: Live
    resolved: Resolved
    worker: WorkerKey | None
    remote: RemoteSpec | None = None


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that can be served from this machine."""

    deployment: Deployment
    versions: tuple[PlacedVersion, ...]

    @property
    def worker_keys(self) -> tuple[WorkerKey, ...]:
        """What its workers serve."""
        return tuple(each.worker for each in self.versions if each.worker is not None)


def place(source: DeploymentSource, deployment: Deployment, settings: ServeSettings) -> Placed:
    """Fetches what a deployment needs and decides where each version runs. Blocks.

    Raises:
        Refused: a version is in a server that the settings do not allow.
        TidemillError: a model or table does not exist, cannot be fetched, or is damaged.
    """
    versions: list[PlacedVersion] = []
    for live in deployment.versions:
        resolved = source.resolve(live, deployment)
        manifest = read_manifest(resolved.folder)
        worker, remote = None, None
        placement = decide_placement(deployment.plan, manifest)
        if placement == "remote":
            remote = _remote(resolved.folder, manifest, deployment, settings)
        elif placement == "worker":
            worker = WorkerKey(
                application=deployment.application,
                model=live.model,
                version=live.version,
                folder=str(resolved.folder),
                trust_code=resolved.trust_code,
                threads=deployment.plan.threads,
                python=None if resolved.python is None else str(resolved.python),
                devices=deployment.plan.devices,
            )
        placed = PlacedVersion(live=live, resolved=resolved, worker=worker, remote=remote)
        versions.append(placed)
    return Placed(deployment=deployment, versions=tuple(versions))


def is_superseded(begun: Deployment, wanted: Deployment, present: Deployment | None) -> bool:
    """Says whether what a deployment still loads is of no use to the one that is wanted now.

    That is so where it brought versions, and none of them is wanted any more: a broken version
    that was corrected. Where one of them still is, it goes on: changes that follow each other
    faster than a model loads must not keep it from ever going live.

    Example:
        >>> def deployment(version: int) -> Deployment:
        ...     versions = (Live(model="m", version=version),)
        ...     return Deployment(application="a", revision=version, versions=versions)
        >>> is_superseded(deployment(2), deployment(3), deployment(1))
        True
        >>> is_superseded(deployment(2), deployment(2), deployment(1))
        False
    """
    brought = _versions(begun) - (set() if present is None else _versions(present))
    return bool(brought) and not brought & _versions(wanted)


def _versions(deployment: Deployment) -> set[tuple[str, int]]:
    return {(live.model, live.version) for live in deployment.versions}


def _remote(
    folder: Path, manifest: ModelManifest, deployment: Deployment, settings: ServeSettings
) -> RemoteSpec:
    model = read_remote(folder, manifest)
    check_host(model.address, settings.remote_hosts)
    return RemoteSpec(
        url=model.url,
        binary=model.binary,
        timeout_s=deployment.slo_ms / 1000.0 + _REMOTE_GRACE_S,
        number=0,
        token=token_for(model.address, settings.remote_tokens),
    )


def assign(placed: dict[str, Placed], pool: WorkerPool, *, revision: int) -> Assignment:
    """Returns what gateways are told, with the workers that are alive now."""
    return Assignment(
        revision=revision,
        applications=tuple(
            ApplicationAssignment(
                deployment=placed[name].deployment,
                versions=tuple(
                    _version(each, pool, placed[name].deployment.plan.replicas)
                    for each in placed[name].versions
                ),
            )
            for name in sorted(placed)
        ),
    )


def _version(placed: PlacedVersion, pool: WorkerPool, count: int) -> VersionAssignment:
    resolved = placed.resolved
    replicas: tuple[ReplicaSpec, ...]
    if placed.remote is not None:
        specs = (msgspec.structs.replace(placed.remote, number=number) for number in range(count))
        replicas = tuple(ReplicaSpec(kind="remote", remote=spec) for spec in specs)
    elif placed.worker is None:
        replicas = (ReplicaSpec(kind="gateway"),)
    else:
        workers = pool.alive(placed.worker)[:count]
        replicas = tuple(
            ReplicaSpec(kind="worker", socket=str(worker.socket)) for worker in workers
        )
    return VersionAssignment(
        live=placed.live,
        folder=str(resolved.folder),
        replicas=replicas,
        table=None if resolved.table is None else str(resolved.table),
        record=resolved.record,
        features=None if resolved.features is None else str(resolved.features),
        trust_code=resolved.trust_code,
    )
