"""A model that names its requirements runs among them, and among nothing else.

These tests ask the machine's package index for wheels of ``six`` (two versions, 11 KB each), NumPy
and msgspec.
"""

from __future__ import annotations

import json
import pickle
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from tidemill.control.pushing import push
from tidemill.foundation.errors import (
    Corrupted,
    InvalidInput,
    InvalidModel,
    NotBlessed,
    NotTrusted,
    TidemillError,
    Unavailable,
)
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.models.environments import build_environment, environment_key, environments_path
from tidemill.models.format import read_manifest, write_model
from tidemill.models.registry import Registry
from tidemill.models.requirements import LOCK, Lock, lock_requirements, read_lock
from tidemill.models.runtime import open_runtime
from tidemill.recipes.isolated import build_for
from tidemill.recipes.push import push_model
from tidemill.recipes.steps.infra import candidate_server
from tidemill.serving.live import StoreSource
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import Deployment, Live, ServingPlan
from tidemill_worker.loading import open_model

TELLS = """
import importlib.util, json, os, sys
import six

def predict(x: float) -> str:
    return json.dumps({
        "six": six.__version__,
        "tidemill": importlib.util.find_spec("tidemill") is not None,
        "isolated": sys.flags.isolated,
        "secret": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "x": x,
    })
"""
VERSIONS = ("1.15.0", "1.16.0")


def pushed(home: Home, folder: Path, name: str, needs: str, code: str = TELLS) -> Any:
    """Pushes a function with its requirements and makes it live."""
    folder.mkdir(exist_ok=True)
    (folder / "tells.py").write_text(code)
    (folder / "requirements.txt").write_text(needs + "\n")
    return push(
        home,
        folder / "tells.py",
        name,
        trust_code=True,
        requirements=folder / "requirements.txt",
        by="tests",
    )


@pytest.fixture(scope="module")
def built_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with ``old`` and ``new``, two functions with two versions of one library."""
    folder = tmp_path_factory.mktemp("isolated")
    with open_home(Settings(home=folder / "home")) as home:
        for name, each in zip(("old", "new"), VERSIONS, strict=True):
            done = pushed(home, folder / name, name, f"six=={each}")
            assert done.model.environment.built
            assert f"six=={each}" in done.model.environment.distributions
    return folder / "home"


@pytest.fixture
def built(built_path: Path) -> Iterator[Home]:
    """That home; tests leave its environments as they are."""
    with open_home(Settings(home=built_path)) as home:
        yield home


def lock_of(home: Home, name: str) -> tuple[Path, Lock]:
    """Returns the folder and the lock of a model's first version."""
    folder = Registry(home).fetch(name, 1)
    lock = read_lock(folder, read_manifest(folder))
    assert lock is not None
    return folder, lock


def test_two_versions_of_a_library_serve_side_by_side(
    built_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer comes from its model's own version, isolated and without secrets."""
    assert version("six") not in VERSIONS
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    ports = ("--port", "0", "--admin-port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "tidemill", "serve", "--json", *ports, "--home", str(built_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 90)[0]
        port = json.loads(process.stdout.readline())["port"]
        for name, each in zip(("old", "new"), VERSIONS, strict=True):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/models/{name}:predict",
                json.dumps({"instances": [2.0]}).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                (said,) = json.loads(response.read())["predictions"]
            expected = {"six": each, "tidemill": False, "isolated": 1, "secret": None, "x": 2.0}
            assert json.loads(said) == expected
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()  # type: ignore[union-attr]


def test_a_server_finds_an_environment_that_comes_later(built_path: Path) -> None:
    """A version that was refused for want of it is served as soon as it is there."""
    place = built_path / "cache" / "environments"
    elsewhere = built_path / "elsewhere"
    place.rename(elsewhere)
    ports = ("--port", "0", "--admin-port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "tidemill", "serve", "--json", *ports, "--home", str(built_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 90)[0]
        port = json.loads(process.stdout.readline())["admin_port"]

        def health() -> Any:
            url = f"http://127.0.0.1:{port}/admin/v1/health"
            with urllib.request.urlopen(url, timeout=20) as response:
                return json.loads(response.read())

        refused = {each["application"]: each for each in health()["refused"]}
        assert "tidemill environment old 1" in refused["old"]["reason"]
        elsewhere.rename(place)
        until = time.monotonic() + 60
        while health()["refused"] or set(health()["applications"]) != {"old", "new"}:
            assert time.monotonic() < until, health()
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()  # type: ignore[union-attr]
        if elsewhere.exists():
            elsewhere.rename(place)


def test_an_environment_that_is_there_is_not_built_again(built: Home) -> None:
    """What is found is used, and says so."""
    found = build_for(built, "old", 1)
    assert not found.built
    assert found.seconds < 5


def test_a_model_with_requirements_is_opened_nowhere_else(built: Home) -> None:
    """Neither this process nor a gateway loads it, whatever the plan says."""
    folder, _ = lock_of(built, "old")
    with pytest.raises(InvalidModel, match="an environment of its own"):
        open_runtime(folder, trust_code=True)
    assert decide_placement(ServingPlan(placement="gateway"), read_manifest(folder)) == "worker"


def test_a_candidate_server_runs_it_in_the_same_environment(built: Home) -> None:
    """A private server takes what was built, and without it serves nothing."""
    folder, _ = lock_of(built, "old")
    place = environments_path(built.cache_path)
    with candidate_server(folder, "tried", environments=place) as port:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models/tried:predict",
            json.dumps({"instances": [1.0]}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            (said,) = json.loads(response.read())["predictions"]
    assert json.loads(said)["six"] == VERSIONS[0]
    with (
        pytest.raises(NotBlessed, match="tidemill environment tried 1"),
        candidate_server(folder, "tried"),
    ):
        pass


def test_serving_never_builds(built: Home, tmp_path: Path) -> None:
    """Where the environment lacks, the version is refused with the command that builds it."""
    live = Live(model="old", version=1)
    deployment = Deployment(application="old", revision=1, versions=(live,))
    assert StoreSource(built).resolve(live, deployment).python is not None
    place, elsewhere = environments_path(built.cache_path), tmp_path / "elsewhere"
    place.rename(elsewhere)
    try:
        with pytest.raises(Unavailable, match="tidemill environment old 1"):
            StoreSource(built).resolve(live, deployment)
        assert not place.exists()
        assert build_for(built, "old", 1).built
        assert StoreSource(built).resolve(live, deployment).python is not None
        shutil.rmtree(place)
    finally:
        elsewhere.rename(place)


def test_a_requirement_without_wheels_is_refused_by_name(home: Home, tmp_path: Path) -> None:
    """Nothing is built from sources; nothing is registered."""
    with pytest.raises(InvalidInput, match="docopt"):
        pushed(home, tmp_path / "it", "it", "docopt==0.6.2")
    assert Registry(home).list() == ()
    assert not environments_path(home.cache_path).exists()


def test_a_tampered_lock_is_refused(built: Home, home: Home, tmp_path: Path) -> None:
    """Changed, it is not what was written; written anew, no wheel has its hash."""
    original, lock = lock_of(built, "old")
    folder = shutil.copytree(original, tmp_path / "copy")
    wrong = tuple(
        msgspec.structs.replace(each, sha256=("0" * 64,)) if each.name == "six" else each
        for each in lock.distributions
    )
    (folder / LOCK).write_bytes(msgspec.structs.replace(lock, distributions=wrong).to_json())
    with pytest.raises(Corrupted, match="not what was written"):
        push_model(home, folder, "copy", trust_code=True)
    write_model(folder, read_manifest(folder))
    with pytest.raises(InvalidInput, match=r"cannot be installed.*six"):
        push_model(home, folder, "copy", trust_code=True)
    assert Registry(home).list() == ()
    left = environments_path(home.cache_path)
    assert [path.suffix for path in left.iterdir()] == [".lock"]


def test_a_build_that_was_killed_leaves_nothing_half(built: Home, tmp_path: Path) -> None:
    """What counts is whole: the next build starts anew and clears what was left."""
    _, lock = lock_of(built, "old")
    (tmp_path / "lock").write_bytes(lock.to_json())
    code = (
        "import sys; from pathlib import Path; import msgspec;"
        "from tidemill.models.environments import build_environment;"
        "from tidemill.models.requirements import Lock;"
        "lock = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Lock);"
        "build_environment(Path(sys.argv[2]), lock)"
    )
    place = tmp_path / "environments"
    command = [sys.executable, "-c", code, str(tmp_path / "lock"), str(place)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(place.glob(".*/bin")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(30)
    assert not (place / environment_key(lock)).exists()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: build_environment(place, lock), range(2)))
    assert sorted(each.built for each in both) == [False, True]
    assert both[0].python.exists()
    assert {path.name for path in place.iterdir()} == {
        environment_key(lock),
        f"{environment_key(lock)}.lock",
    }


def test_an_estimator_may_have_requirements(
    built: Home, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickled estimator is loaded, described, measured and kept where it will be served."""
    place = environments_path(home.cache_path)
    place.symlink_to(environments_path(built.cache_path))
    estimator = SimpleNamespace(n_features_in_=1, predict=np.ravel)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(estimator))
    (tmp_path / "requirements.txt").write_text("six==1.15.0 # and no more\n")
    (tmp_path / "rows.csv").write_text("x\n2.5\n3.5\n")
    monkeypatch.setattr(pickle, "load", None)  # nothing of it is loaded in this process
    monkeypatch.setattr(pickle, "loads", None)
    done = push_model(
        home,
        tmp_path / "model.pkl",
        "raveled",
        trust_code=True,
        requirements=tmp_path / "requirements.txt",
        sample=tmp_path / "rows.csv",
    )
    monkeypatch.undo()
    assert (done.runtime, done.inputs, done.outputs) == ("sklearn", ("x",), ("value",))
    assert done.environment is not None
    assert not done.environment.built
    assert done.batch_1_ms is not None
    model = open_model(Registry(home).fetch("raveled", 1), trust_code=True, threads=1)
    assert model.predict({"x": np.array([[2.5], [3.5]])})["value"].tolist() == [2.5, 3.5]


def test_a_lock_of_another_python_is_refused(built: Home, tmp_path: Path) -> None:
    """It says for which one it is."""
    _, lock = lock_of(built, "old")
    with pytest.raises(InvalidModel, match=r"Python 2\.7"):
        build_environment(tmp_path, msgspec.structs.replace(lock, python="2.7"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def predict(x: float) -> str:\n    raise RuntimeError('broken')\n", "broken"),
        ("import nothing_such\ndef predict(x: float) -> str: ...\n", "nothing_such"),
        ("def predict(anything): return 1\n", "does not say what it takes"),
        ("import os\nos._exit(3)\n", "ended with 3"),
    ],
)
def test_what_does_not_answer_in_its_environment_is_not_registered(
    built: Home, tmp_path: Path, code: str, said: str
) -> None:
    """The push asks it there, and tells what it came to."""
    with pytest.raises(TidemillError, match=said):
        pushed(built, tmp_path / "bad", "bad", "six==1.15.0", code)
    assert {each.name for each in Registry(built).list()} == {"old", "new"}


def test_requirements_run_code_and_need_the_word(home: Home, tmp_path: Path) -> None:
    """Without it nothing is asked, built or kept."""
    (tmp_path / "tells.py").write_text(TELLS)
    (tmp_path / "requirements.txt").write_text("six\n")
    with pytest.raises(NotTrusted, match="run code"):
        push_model(home, tmp_path / "tells.py", "it", requirements=tmp_path / "requirements.txt")
    assert not environments_path(home.cache_path).exists()


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://elsewhere.example/simple",
        "-r others.txt",
        "-e .",
        "six @ https://elsewhere.example/six.whl",
        "./six.whl",
        "git+https://elsewhere.example/six",
        "six --hash=sha256:00",
    ],
)
def test_only_names_with_versions_are_requirements(home: Home, tmp_path: Path, line: str) -> None:
    """Options, addresses and paths are refused with their line."""
    with pytest.raises(InvalidInput, match="line 1 of"):
        pushed(home, tmp_path / "it", "it", line)


def test_pip_locks_what_uv_is_not_there_to_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pip alone the lock has the same distributions, each with its hash."""
    monkeypatch.setattr("tidemill.models.requirements.installer", lambda: None)
    monkeypatch.setattr("tidemill.models.environments.installer", lambda: None)
    lock = lock_requirements(("six==1.15.0",), tmp_path)
    assert [each.name for each in lock.distributions] == ["msgspec", "numpy", "six"]
    found = build_environment(tmp_path / "environments", lock)
    assert found.built
