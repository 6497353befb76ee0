"""Load and unload as clients of the protocol ask for them: changes of a deployment, audited."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from tidemill.control.applications import stop
from tidemill.control.changes import METADATA, current, write_change
from tidemill.foundation.errors import NotBlessed, NotFound
from tidemill.foundation.home import Home
from tidemill.models import registry
from tidemill.serving import live
from tidemill.serving.model_control import KnownModel
from tidemill.serving.plan import Deployment, Live

_REASON = "asked for through the model repository"


class StoreModels:
    """The model repository of an installation, as ``ModelControl`` promises it.

    Args:
        home: the installation.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def index(self) -> list[KnownModel]:  # noqa: D102 - promised by ModelControl
        with self._home.store.read(*METADATA) as conn:
            deployments = live.live_deployments(conn)
            newest = {each.name: each.version for each in registry.list_versions(conn, None)}
        deployed = [
            KnownModel(name=each.application, version=of.version, revision=each.revision)
            for each in deployments
            for of in each.versions
        ]
        names = {each.application for each in deployments}
        idle = [KnownModel(name=n, version=v) for n, v in newest.items() if n not in names]
        return sorted(deployed + idle, key=lambda each: (each.name, each.version))

    def load(self, name: str, *, max_batch: int | None, by: str) -> int:  # noqa: D102
        with self._home.store.write(*METADATA) as conn:
            present = current(conn, name)
            wanted = present or _former(conn, name) or _first(conn, name)
            if max_batch is not None:
                plan = msgspec.structs.replace(wanted.plan, max_batch=max_batch)
                wanted = msgspec.structs.replace(wanted, plan=plan)
            return write_change(
                self._home, conn, present, wanted, verb="load", by=by, reason=_REASON
            ).revision

    def unload(self, name: str, *, by: str) -> int | None:  # noqa: D102
        with self._home.store.read(*METADATA) as conn:
            if current(conn, name) is None:
                if not registry.list_versions(conn, name) and _former(conn, name) is None:
                    raise _unknown("unload", name)
                return None
        return stop(self._home, name, by=by, reason=_REASON).revision


def _former(conn: sa.Connection, name: str) -> Deployment | None:
    """Returns what an application answered with last, before it was unloaded."""
    history = live.deployment_history(conn, name)
    return next((row.deployment for row in history if row.deployment is not None), None)


def _first(conn: sa.Connection, name: str) -> Deployment:
    """Returns an application of a model's name: its champion, or its newest blessed version.

    Raises:
        NotFound: there is no such model.
        NotBlessed: nobody blessed a version of it.
    """
    versions = registry.list_versions(conn, name)
    if not versions:
        raise _unknown("load", name)
    blessed = [each.version for each in versions if each.blessed]
    if not blessed:
        raise NotBlessed(
            f"failed to load {name!r}, no version of it is blessed",
            remedy="Push or train one that passes its gate.",
        )
    version = registry.aliases(conn, name).get("champion", max(blessed))
    return Deployment(application=name, revision=0, versions=(Live(model=name, version=version),))


def _unknown(verb: str, name: str) -> NotFound:
    return NotFound(
        f"failed to {verb} {name[:100]!r}, no model of that name is registered",
        remedy="Ask the index for the names, or push it.",
    )
