"""Killed at any point, an ingest happens once; two at a time make one snapshot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.data.held_rows import show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions
from tidemill.data.snapshots import list_snapshots, read_snapshot
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings

OPTIONS = DatasetOptions(key=("id",))

CHILD = """
import os, signal, sys
from pathlib import Path
from tidemill.data import catalog, gate, ingest as story
from tidemill.data.records import DatasetOptions
from tidemill.foundation.files import LocalFiles
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings

folder, where, count, names = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]

def dying(function):
    calls = [0]
    def wrapper(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

if where == "admit":
    gate.Gate.admit = dying(gate.Gate.admit)
elif where == "put":
    LocalFiles.put = dying(LocalFiles.put)
elif where != "nowhere":
    setattr(story, where, dying(getattr(story, where)))

with open_home(Settings(home=folder / "home")) as home:
    result = story.ingest(
        home, "x", [folder / name for name in names], options=DatasetOptions(key=("id",))
    )
    print(result.repeated, result.received, result.accepted)
"""


def _rows(start: int) -> str:
    rows = [f"{i},{i}.5\n" for i in range(start, start + 50)]
    return "id,score\n" + "".join([*rows, rows[0], "bad\n"])


def _child(folder: Path, where: str, count: int, *names: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), where, str(count), *names],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("admit", 1),
        ("put", 1),
        ("put", 2),
        ("put", 4),
        ("save_dataset", 1),
        ("save_ingest", 1),
        ("save_snapshot", 1),
        ("_result", 1),
    ],
)
def test_a_killed_ingest_happens_once(where: str, count: int, tmp_path: Path) -> None:
    """After SIGKILL the same call gives the counts of an ingest that was never killed."""
    (tmp_path / "1.csv").write_text(_rows(0))
    (tmp_path / "2.csv").write_text(_rows(40))
    with open_home(Settings(home=tmp_path / "home")) as home:
        ingest(home, "x", [tmp_path / "1.csv"], options=OPTIONS)
    child = _child(tmp_path, where, count, "2.csv")
    child.communicate(timeout=60)
    assert child.returncode == -9
    with open_home(Settings(home=tmp_path / "home")) as home:
        result = ingest(home, "x", [tmp_path / "2.csv"], options=OPTIONS)
        assert result.repeated == (where == "_result")
        counts = (result.received, result.accepted, result.quarantined, result.duplicate)
        assert counts == (52, 40, 1, 11)
        snapshots = list_snapshots(home, "x")
        assert [snapshot.sequence for snapshot in snapshots] == [1, 2]
        ids = [i for one in snapshots for i in read_snapshot(home, one).column("id").to_pylist()]
        assert ids == list(range(90))
        assert show_held(home, "x", limit=1000).num_rows == 2 + 12


def test_two_ingests_of_one_file_at_once_make_one_snapshot(tmp_path: Path) -> None:
    """Processes take turns; the later one finds the file known."""
    (tmp_path / "1.csv").write_text(_rows(0))
    children = [_child(tmp_path, "nowhere", 0, "1.csv") for _ in range(2)]
    said = sorted(child.communicate(timeout=60)[0].strip() for child in children)
    assert said == ["False 52 50", "True 52 50"]
    with open_home(Settings(home=tmp_path / "home")) as home:
        assert len(list_snapshots(home, "x")) == 1


def test_an_ingest_beside_another_is_judged_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another machine commits first, rows are judged again: no key is accepted twice."""
    from tidemill.data import ingest as story

    (tmp_path / "1.csv").write_text(_rows(0))
    (tmp_path / "2.csv").write_text(_rows(10))
    with open_home(Settings(home=tmp_path / "home")) as home:
        whole = story._commit
        meddled: list[bool] = []

        def commit(*args: object) -> object:
            if not meddled:
                meddled.append(True)
                with monkeypatch.context() as patch:
                    patch.setattr(story, "my_turn", lambda home, _: _other_turn(tmp_path))
                    ingest(home, "x", [tmp_path / "1.csv"], options=OPTIONS)
            return whole(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(story, "_commit", commit)
        result = ingest(home, "x", [tmp_path / "2.csv"], options=OPTIONS)
        assert (result.accepted, result.duplicate) == (10, 41)
        assert [one.sequence for one in list_snapshots(home, "x")] == [1, 2]


def _other_turn(folder: Path) -> object:
    from contextlib import nullcontext

    return nullcontext(folder / "other-machine")
