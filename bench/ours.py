"""Our server, installed as anybody would: models are pushed, ``tidemill serve`` serves them.

The ledger, metrics and deadlines are on, as they always are, and every query needs an API key.
Answers are not cached unless a benchmark is about that.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import joblib
from bench.servers import Server, free_port, run

from tidemill.control.deployments import Terms, deploy, get_deployment
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.models.packagers.sklearn import infer_sklearn_signature, package_sklearn
from tidemill.serving.plan import ServingPlan

TIDEMILL = (sys.executable, "-m", "tidemill")
SLO_MS = 1000.0
"""Deadlines are kept, but 256 connections that wait for one another are no reason to refuse."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A home folder and what is served from it."""

    home: Path

    def push(self, model: Path, name: str, *, sample: Path | None = None) -> None:
        """Registers a model under its name, compiled if that changes no answer."""
        rows = () if sample is None else ("--sample", str(sample))
        self._command("push", str(model), "--name", name, "--trust-code", *rows)

    def push_original(self, model: Path, name: str, folder: Path) -> None:
        """Registers an estimator as it is, not compiled."""
        estimator = joblib.load(model)
        package_sklearn(estimator, name, infer_sklearn_signature(estimator), folder, None)
        self._command("push", str(folder), "--name", name, "--trust-code")

    def make_key(self) -> str:
        """Makes an API key, without which nothing is answered from now on, and returns its header.

        It is for the server of a benchmark on this machine, and ends with it.
        """
        options = ("--name", "bench", "--scope", "query,feedback", "--expires", "1d", "--json")
        key = json.loads(self._command("keys", "create", *options))["key"]
        return f"Authorization: Bearer {key}"

    def deploy(
        self, application: str, model: str, plan: ServingPlan | None = None, slo_ms: float = SLO_MS
    ) -> None:
        """Makes a model live under an application's name, with this plan."""
        with open_home(Settings(home=self.home)) as opened:
            live = get_deployment(opened, model).versions[0]
            deploy(
                opened,
                application,
                model=live.model,
                version=live.version,
                terms=Terms(plan=plan or ServingPlan(cache_bytes=0, coalesce=False), slo_ms=slo_ms),
                by="bench",
                reason="what is measured",
            )

    def server(self, application: str, *, log: Path, key: str) -> Server:
        """Returns ``tidemill serve`` with one gateway, ready once the application is."""
        port = free_port()
        ports = ("--port", str(port), "--admin-port", str(free_port()), "--gateways", "1")
        return Server(
            command=(*TIDEMILL, "serve", *ports, "--home", str(self.home)),
            log=log,
            ready_url=f"http://127.0.0.1:{port}/v2/models/{application}/ready",
            headers=key,
        )

    def _command(self, *arguments: str) -> str:
        return run((*TIDEMILL, *arguments, "--home", str(self.home)))


def infer_url(server: Server, application: str) -> str:
    """Returns where queries of an application go."""
    return f"{server.ready_url.partition('/v2/')[0]}/v2/models/{application}/infer"
