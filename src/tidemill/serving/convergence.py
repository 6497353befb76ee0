"""From a deployment to what a gateway is told: folders, placement, workers."""

from __future__ import annotations

import msgspec

from tidemill.models.format import read_manifest
from tidemill.serving.live import DeploymentSource, Resolved
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import (
    ApplicationAssignment,
    Assignment,
    Deployment,
    Live,
    ReplicaSpec,
    VersionAssignment,
)
from tidemill.serving.worker_pool import WorkerPool
from tidemill.serving.worker_process import WorkerKey


class PlacedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its files here; ``worker`` says what its workers serve, if it has any."""

    live: Live
    resolved: Resolved
    worker: WorkerKey | None


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that can be served from this machine."""

    deployment: Deployment
    versions: tuple[PlacedVersion, ...]

    @property
    def worker_keys(self) -> tuple[WorkerKey, ...]:
        """What its workers serve."""
        return tuple(each.worker for each in self.versions if each.worker is not None)


def place(source: DeploymentSource, deployment: Deployment) -> Placed:
    """Fetches what a deployment needs and decides where each version runs. Blocks.

    Raises:
        TidemillError: a model or table does not exist, cannot be fetched, or is damaged.
    """
    versions: list[PlacedVersion] = []
    for live in deployment.versions:
        resolved = source.resolve(live, deployment)
        manifest = read_manifest(resolved.folder)
        worker = None
        if decide_placement(deployment.plan, manifest) == "worker":
            worker = WorkerKey(
                application=deployment.application,
                model=live.model,
                version=live.version,
                folder=str(resolved.folder),
                trust_code=resolved.trust_code,
                threads=deployment.plan.threads,
                python=None if resolved.python is None else str(resolved.python),
            )
        versions.append(PlacedVersion(live=live, resolved=resolved, worker=worker))
    return Placed(deployment=deployment, versions=tuple(versions))


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
    if placed.worker is None:
        replicas: tuple[ReplicaSpec, ...] = (ReplicaSpec(kind="gateway"),)
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
        trust_code=resolved.trust_code,
    )
