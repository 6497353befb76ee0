"""From a model file to live: pushed models.

What makes tables is not imported here: nobody who pushes waits for it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.control.deployments import deploy
from tidemill.foundation.home import Home
from tidemill.models.environments import Say
from tidemill.models.signature import Signature
from tidemill.recipes.push import PushedModel, push_model
from tidemill.recipes.remote import push_remote


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """A pushed model and the revision at which its application answers with it."""

    model: PushedModel
    application: str
    revision: int | None


def push(
    home: Home,
    path: Path,
    name: str,
    *,
    trust_code: bool,
    sample: Path | None = None,
    signature: Signature | None = None,
    compiles: bool = True,
    requirements: Path | None = None,
    go_live: bool = True,
    by: str,
    say: Say = lambda _: None,
) -> Live:
    """Registers a model file and, if wanted, makes it live under its name."""
    pushed = push_model(
        home,
        path,
        name,
        trust_code=trust_code,
        sample=sample,
        signature=signature,
        compiles=compiles,
        requirements=requirements,
        say=say,
    )
    return _made_live(home, pushed, go_live=go_live, by=by, reason=f"pushed {path.name}")


def push_url(home: Home, url: str, name: str, *, go_live: bool = True, by: str) -> Live:
    """Registers a model of another server and, if wanted, makes it live under its name."""
    pushed = push_remote(home, url, name)
    return _made_live(home, pushed, go_live=go_live, by=by, reason=f"pushed {url}")


def _made_live(home: Home, pushed: PushedModel, *, go_live: bool, by: str, reason: str) -> Live:
    name = pushed.name
    if not go_live:
        return Live(model=pushed, application=name, revision=None)
    deployment = deploy(home, name, model=name, version=pushed.version, by=by, reason=reason)
    return Live(model=pushed, application=name, revision=deployment.revision)
