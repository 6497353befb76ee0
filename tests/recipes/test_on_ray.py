"""A table that is built in a Ray cluster is the one that is built here, byte for byte."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.control.deployments import deploy
from tidemill.foundation.errors import InvalidModel, Unavailable
from tidemill.foundation.home import Home
from tidemill.models.registry import Registry
from tidemill.recipes.chunks import Asked
from tidemill.recipes.on_ray import Actors, actors, connected
from tidemill.recipes.pieces import CHUNK
from tidemill.recipes.representatives import Representing
from tidemill.recipes.table import build_table
from tidemill.tables.builds import list_builds
from tidemill.tables.catalog import get_table, list_tables
from tidemill.tables.table import TableInfo

ROWS = 3 * CHUNK + 7

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chunks of keyed rows."""
    path = tmp_path_factory.mktemp("source") / "rows.parquet"
    ids = range(ROWS)
    x = pa.array([float(each % 97) for each in ids], pa.float32())
    pq.write_table(pa.table({"id": pa.array(ids, pa.int64()), "x": x}), path)
    return path


@pytest.fixture(scope="module")
def live(ratios: Home) -> Iterator[Home]:
    """The home of ratios, with version 1 live."""
    deploy(ratios, "ratio", model="ratio", version=1, by="tests", reason="tests")
    yield ratios
    ray.shutdown()


def command(home: Home, source: Path, *more: str) -> list[str]:
    """The command that builds on Ray."""
    return [
        *(sys.executable, "-m", "tidemill", "table", "build", "ratio", "--from", str(source)),
        *("--key", "id", "--on", "ray", "--home", str(home.path), *more),
    ]


def here(home: Home, source: Path | pa.Table, **more: Any) -> TableInfo:
    """Builds in this process."""
    given = {"version": 1, "key": ("id",), "source_name": "rows", **more}
    return build_table(home, application="ratio", model="ratio", source=source, **given)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of one's own for clusters; sockets lie in it, so its name is short."""
    with tempfile.TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def leave(place: Path) -> None:
    """Leaves what builds that were killed before their folder had its name leave, and others."""
    old = time.time() - 7_200.0
    for name, inside in (
        ("tm-new-bare", None), ("tm-new-locked", "lock"), ("tm-ray-half", "r"),
        ("tm-new-young", "lock"), ("tm-new-others", "notes"),
    ):  # fmt: skip
        (place / name).mkdir()
        if inside is not None:
            (place / name / inside).touch()
        if name != "tm-new-young":
            os.utime(place / name, (old, old))


@pytest.mark.timeout(240)
def test_a_build_that_is_killed_goes_on_and_is_the_one_of_here(
    live: Home, source: Path, place: Path
) -> None:
    """By kill -9, in the middle of the work; what it has is kept, and its cluster is gone.

    So are folders that were never named, once they are old: a young one may be about to be locked.
    """
    leave(place)
    before = {each.id for each in list_tables(live.store, "ratio")}
    process = subprocess.Popen(command(live, source), stderr=subprocess.PIPE)
    builds = live.cache_path / "builds"
    until = time.monotonic() + 100
    while not list(builds.glob("*/scored-*.parquet")):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    left = list(place.glob("tm-ray-*/lock"))
    assert {each.id for each in list_tables(live.store, "ratio")} == before
    kept = {path.name: path.stat().st_mtime_ns for path in builds.glob("*/scored-*.parquet")}
    assert kept
    done = subprocess.run(
        command(live, source, "--json"), capture_output=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert left
    stays = {path.name for path in place.glob("tm-*")}
    assert stays == {"tm-new-young", "tm-new-others"}, "a build removes what killed ones left"
    (info,) = (each for each in list_tables(live.store, "ratio") if each.id not in before)
    build = list_builds(live.store, info.id)[0]
    assert (info.rows, build.resumed, build.cpu_s > 0.0) == (ROWS, True, True)
    assert info.sha256 == here(live, source).sha256


def scorers() -> list[psutil.Process]:
    """The processes that score for this program, and for no other on this machine."""
    return [each for each in psutil.Process().children(recursive=True) if "Scorer" in each.name()]


@pytest.fixture(scope="module")
def cluster(live: Home) -> Iterator[None]:
    """A cluster that this program has started itself."""
    del live
    with connected(None, workers=2):
        folder = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[3]
        assert folder.stat().st_mode & 0o077 == 0, "nobody else may look inside"
        yield
    assert not folder.exists()


@pytest.mark.timeout(240)
def test_what_is_folded_and_refreshed_is_the_same_there(live: Home, cluster: None) -> None:
    """Represented keys with their agreement, and a build that takes answers over."""
    rows = pa.table(
        {"id": pa.array(range(500), pa.int64()), "x": pa.array([2.0] * 500, pa.float32())}
    )
    folded = Representing(columns={"id": "step(10)"})
    one, other = (
        get_table(live.store, here(live, rows, representing=folded, on=on).id)
        for on in ("here", "ray")
    )
    assert one.agreement == other.agreement is not None
    assert one.sha256 == other.sha256
    base = here(live, rows)
    more = pa.table(
        {"id": pa.array(range(600), pa.int64()), "x": pa.array([2.0] * 600, pa.float32())}
    )
    refreshed = here(live, more, base=base.id, on="ray")
    keys = list_builds(live.store, refreshed.id)[0].keys
    assert (keys.new, keys.unchanged) == (100, 500)
    assert refreshed.sha256 == here(live, more).sha256
    assert ray.is_initialized(), "a cluster that the program has is not taken from it"


@pytest.mark.timeout(240)
def test_an_error_of_a_model_is_the_error_that_it_is_here(
    live: Home, cluster: None, tmp_path: Path
) -> None:
    """Not one of Ray's: it is of the model, wherever it was."""
    pq.write_table(pa.table({"c0": pa.array([1], pa.int64())}), tmp_path / "rows.parquet")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("no model")
    with (
        actors(tmp_path / "model", Asked(key=("id",)), address=None, workers=1) as pool,
        pytest.raises(InvalidModel, match="is no model folder"),
    ):
        list(pool.scored(tmp_path / "rows.parquet", [0], lambda at, made: None))


@pytest.mark.timeout(240)
def test_a_chunk_whose_process_dies_is_scored_by_another(
    live: Home, cluster: None, source: Path, tmp_path: Path
) -> None:
    """Each comes back once, whole; the build does not hear of it."""
    asked = Asked(key=("id",))
    wide = pq.read_table(source).rename_columns(["c0", "c1"])
    rows = tmp_path / "rows.parquet"
    pq.write_table(wide, rows, row_group_size=CHUNK // 4)
    todo = range(pq.read_metadata(rows).num_row_groups)
    kept: dict[int, int] = {}
    killed = []
    with actors(Registry(live).fetch("ratio", 1), asked, address=None, workers=2) as pool:
        for at in pool.scored(rows, todo, lambda at, made: kept.update({at: len(made.answers)})):
            if not killed:
                killed = scorers()
                killed[0].kill()
            assert at in kept
    assert sorted(kept) == list(todo)
    assert min(kept.values()) > 0


@pytest.mark.timeout(240)
def test_a_cluster_that_falls_silent_ends_the_build(
    live: Home, cluster: None, source: Path, tmp_path: Path
) -> None:
    """Whatever was done stays; a process that stands still is told apart from a slow one."""
    rows = tmp_path / "rows.parquet"
    pq.write_table(pq.read_table(source).rename_columns(["c0", "c1"]), rows)
    pq.write_table(pq.read_table(rows), rows, row_group_size=CHUNK // 4)
    folder, asked = Registry(live).fetch("ratio", 1), Asked(key=("id",))
    stopped: list[psutil.Process] = []
    kept: list[int] = []
    pool = Actors(ray, folder, asked, 2, "this machine's", silence_s=2.0)
    try:
        with pytest.raises(Unavailable, match="has been silent for 4 s"):
            for at in pool.scored(rows, range(13), lambda at, made: None):
                kept.append(at)
                if not stopped:
                    stopped = scorers()
                    for each in stopped:
                        each.suspend()
    finally:
        for each in stopped:
            each.kill()
    assert 0 < len(kept) < 13


def test_a_cluster_that_is_not_there_is_named(live: Home, tmp_path: Path) -> None:
    """By its address, with what to look at."""
    pq.write_table(
        pa.table({"id": [1], "x": pa.array([1.0], pa.float32())}), tmp_path / "r.parquet"
    )
    found = subprocess.run(
        command(live, tmp_path / "r.parquet", "--ray-address", "127.0.0.1:1"),
        capture_output=True, check=False, timeout=100,
    )  # fmt: skip
    assert found.returncode == 1
    assert b"the Ray cluster (127.0.0.1:1) cannot be reached" in found.stderr


def test_without_ray_the_extra_is_named(live: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said before anything is done."""
    whole = builtins.__import__

    def missing(name: str, *more: Any, **named: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return whole(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(Unavailable, match=r"pip install 'tidemill\[ray\]'"):
        here(live, pa.table({"id": [1], "x": [1.0]}), on="ray")
