"""InfraValidator starts a real server, and lets nothing through that answers otherwise."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.foundation.errors import NotBlessed, WorkerLost
from tidemill.foundation.home import Home
from tidemill.models.format import MANIFEST
from tidemill.models.registry import Registry
from tidemill.recipes import private_server
from tidemill.recipes.steps import infra
from tidemill.recipes.steps.examples import EVALUATION


@pytest.fixture
def candidate(trained: Home, tmp_path: Path) -> Path:
    """A copy of the registered model's folder, to be spoilt."""
    return Path(shutil.copytree(Registry(trained).fetch("trips", 1), tmp_path / "candidate"))


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder with evaluation rows."""
    rows = [{"carrier": "AA", "origin": "JFK", "hour": hour} for hour in range(5, 24)]
    folder = tmp_path / "examples"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / EVALUATION)
    return folder


def manifest_with(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites a model's manifest."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.chmod(0o600)
    path.write_text(json.dumps(manifest))


def test_a_good_candidate_passes_and_its_server_is_gone(
    candidate: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are those of the model; no process stays behind."""
    mine = tempfile.mkdtemp(prefix="infra-")  # a path as short as a socket's must be
    monkeypatch.setattr(tempfile, "tempdir", mine)
    report = infra.infra_validator(candidate, examples)
    assert (report.rows, report.queries) == (19, 19)
    assert report.max_difference <= infra.TOLERANCE
    assert 0.0 < report.p50_ms <= report.p99_ms
    assert not [pid for pid in psutil.pids() if serves(pid, mine)]
    Path(mine).rmdir()  # nor does a file


def serves(pid: int, words: str) -> bool:
    """Says whether a living process has these words in its command."""
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and words in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_a_server_that_answers_otherwise_is_refused(
    candidate: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is with the candidate itself: one answer that is off refuses it."""
    asked = infra._ask_model

    def another(model: Path, rows: dict[str, Any]) -> dict[str, Any]:
        answers = asked(model, rows)
        answers["probabilities"] = answers["probabilities"].copy()
        answers["probabilities"][7] += 1e-3
        return answers

    monkeypatch.setattr(infra, "_ask_model", another)
    with pytest.raises(NotBlessed, match=r"differ from the model's by 0\.00"):
        infra.infra_validator(candidate, examples)


def test_a_tampered_folder_is_refused_by_the_server(candidate: Path) -> None:
    """The server verifies files before it loads them, and its reason is told."""
    (candidate / "model.onnx").chmod(0o600)
    with (candidate / "model.onnx").open("ab") as file:
        file.write(b"x")
    with (
        pytest.raises(NotBlessed, match=r"did not become ready: .*model\.onnx"),
        infra.candidate_server(candidate, "trips"),
    ):
        pass


def test_a_signature_that_is_not_the_models_is_refused(candidate: Path) -> None:
    """A manifest that promises another input is found out before a query is asked."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["signature"]["inputs"][0]["name"] = "airline"

    manifest_with(candidate, change)
    with (
        pytest.raises(NotBlessed, match=r"did not become ready: .*airline"),
        infra.candidate_server(candidate, "trips"),
    ):
        pass


def test_a_server_that_dies_is_a_loss_not_a_verdict(
    candidate: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed under the queries, it may have been anybody's fault: the step may be tried again."""
    ask = infra._ask_server

    def killed(connection: Any, *more: Any) -> Any:
        (server,) = [
            child
            for child in psutil.Process().children()
            if "tidemill.recipes.candidate" in " ".join(child.cmdline())
        ]
        gateways = server.children(recursive=True)
        server.kill()
        server.wait(10)
        psutil.wait_procs(gateways, timeout=10)  # they end with their supervisor
        return ask(connection, *more)

    monkeypatch.setattr(infra, "_ask_server", killed)
    with pytest.raises(WorkerLost, match="was lost while it was asked"):
        infra.infra_validator(candidate, examples)


def test_a_server_ends_with_who_started_it(
    candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its standard input ends it stops, so that a killed run leaves no server behind."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(*args, **more))
        return started[-1]

    replaced = SimpleNamespace(**vars(subprocess) | {"Popen": start})
    monkeypatch.setattr(private_server, "subprocess", replaced)
    with infra.candidate_server(candidate, "trips"):
        server = psutil.Process(started[0].pid)
        family = [server, *server.children(recursive=True)]
        assert len(family) > 1
        assert started[0].stdin is not None
        started[0].stdin.close()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive


@pytest.mark.parametrize(
    ("served", "expected", "apart"),
    [
        ([0.5, 0.25], [0.5, 0.25], 0.0),
        ([None, 0.25], [np.nan, 0.25], 0.0),
        ([None, None], [0.5, 0.25], np.inf),
        ([0.5, 0.25], [np.nan, 0.25], np.inf),
    ],
)
def test_no_number_is_unlike_any_number(
    served: list[Any], expected: list[float], apart: float
) -> None:
    """An answer that is null where the model gives a number is as different as can be."""
    answers = [{"value": value} for value in served]
    if np.isinf(apart):
        with pytest.raises(NotBlessed, match="by inf"):
            infra._difference(answers, {"value": np.array(expected)})
    else:
        assert infra._difference(answers, {"value": np.array(expected)}) == apart


def test_a_label_that_differs_is_named() -> None:
    """Labels are compared as they are; the row and both values are told."""
    with pytest.raises(NotBlessed, match="row 1: the server answers label = 'a', the model 'b'"):
        infra._difference([{"label": "a"}] * 2, {"label": np.array(["a", "b"], object)})
