"""Our server on the same forest: pushed and served as anybody would, with the cache turned off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import joblib
from bench.forest.model import Work
from bench.measure import ROOT, BenchmarkFailed

from tidemill.control.deployments import Terms, deploy, get_deployment
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.models.packaging import infer_sklearn_signature, package_sklearn
from tidemill.serving.plan import ServingPlan

COMPILED, ORIGINAL = "digits", "digits-original"
_TIDEMILL = (sys.executable, "-m", "tidemill")


def push(work: Work, home: Path, *, original: bool) -> None:
    """Pushes the forest and, if wanted, once more without compiling it; no answer is cached."""
    push_command = ("push", str(work.forest), "--name", COMPILED, "--trust-code")
    _run(*push_command, "--sample", str(work.sample), "--home", str(home))
    plans = {COMPILED: ServingPlan(cache_bytes=0)}
    if original:
        folder = home.parent / "original"
        forest = joblib.load(work.forest)
        package_sklearn(forest, ORIGINAL, infer_sklearn_signature(forest), folder, None)
        _run("push", str(folder), "--name", ORIGINAL, "--trust-code", "--home", str(home))
        # In the gateway, so that it is one process like the others.
        plans[ORIGINAL] = ServingPlan(cache_bytes=0, placement="gateway")
    with open_home(Settings(home=home)) as opened:
        for name, plan in plans.items():
            live = get_deployment(opened, name).versions[0]
            deploy(
                opened,
                name,
                model=live.model,
                version=live.version,
                terms=Terms(plan=plan),
                by="bench",
                reason="the cache is not what is measured",
            )


def serve_command(home: Path, port: int, admin_port: int) -> list[str]:
    """Returns the command that serves on these ports."""
    ports = ("--port", str(port), "--admin-port", str(admin_port))
    return [*_TIDEMILL, "serve", *ports, "--gateways", "1", "--home", str(home)]


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [*_TIDEMILL, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"tidemill {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
