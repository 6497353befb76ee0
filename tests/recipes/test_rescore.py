"""After a new version: the head of the traffic goes live first, then the whole table."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pytest

from tidemill.control.deployments import deploy, get_deployment, promote
from tidemill.control.rescoring import follow, measured_build, rescore
from tidemill.control.rollout import LiveTable, answering, build_live_table
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.models.signature import Column
from tidemill.recipes import head
from tidemill.recipes.head import asked_keys, head_of
from tidemill.recipes.keyed_rows import rows_of_table
from tidemill.tables.builds import Build, KeyCounts, keep_build, list_builds
from tidemill.tables.catalog import fetch_table, get_table, list_tables
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable

KEY = (Column("id", "int64"), Column("x", "float32"))
ROWS = pa.table({"id": pa.array(range(100), pa.int64()), "x": np.full(100, 2.0, np.float32)})


def asked(monkeypatch: pytest.MonkeyPatch, *inputs: dict[str, Any]) -> None:
    """Has the ledger hold these questions."""
    texts = [orjson.dumps(each).decode() for each in inputs]
    part = pa.table({"inputs": pa.array(texts, pa.large_string())})
    monkeypatch.setattr(head, "each_part", lambda *_: iter([part]))


def live(home: Home, application: str, key: tuple[str, ...] = ("id", "x")) -> LiveTable:
    """Has version 1 live with its table, and then version 2 without one."""
    deploy(home, application, model="ratio", version=1, by="tests", reason="first")
    built = build_live_table(home, application, rows_of_table(ROWS, "rows"), key=key, by="tests")
    deploy(home, application, model="ratio", version=2, by="tests", reason="second")
    assert answering(get_deployment(home, application)).table is None
    return built


def keys_of(home: Home, table: str) -> set[int]:
    """Which of the rows a table holds."""
    encoder = KeyEncoder(get_table(home.store, table).key)
    columns = {name: ROWS[name].to_numpy() for name in ("id", "x")}
    keys = encoder.many([columns[name] for name, _ in encoder.columns])
    with LmdbTable.open(fetch_table(home, table), verify=True) as opened:
        return {at for at, answer in enumerate(opened.get(keys)) if answer is not None}


def test_the_head_is_what_was_asked_most(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """By key, whatever else was sent; in the key's types; no more than a share of the traffic."""
    questions = [{"id": 5}] * 3 + [{"id": 5, "y": 1.0}] * 2 + [{"id": 7, "y": 0}] * 4
    asked(monkeypatch, *questions, {"id": 1}, {"y": 3.0}, {"id": "five"}, {"id": None})
    key = (Column("id", "int64"),)
    encoder = KeyEncoder([("id", "int64")])
    found = asked_keys(home, "any", key, head=10)
    assert found == [encoder.one([each]) for each in (5, 7, 1)]
    assert asked_keys(home, "any", key, head=2) == found[:2]
    assert asked_keys(home, "any", key, head=10, share=0.5) == found[:1]
    assert asked_keys(home, "any", key, head=10, share=0.51) == found[:2]
    rows = head_of(rows_of_table(ROWS, "rows"), key, found)
    ids = [each for batch in rows.batches() for each in batch["id"].to_pylist()]
    assert ids == [1, 5, 7]
    asked(monkeypatch)
    assert asked_keys(home, "any", key, head=10) == []
    for wrong in ({"head": 0}, {"head": 10**9}, {"head": 1, "share": 0.0}):
        with pytest.raises(InvalidInput):
            asked_keys(home, "any", key, **wrong)


def test_the_head_goes_live_first_then_all(ratios: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by a swap of its own; the whole takes the head over, and is that of a full build."""
    live(ratios, "heads")
    asked(monkeypatch, *[{"id": at, "x": 2.0} for at in (3, 4, 5, 5, 500)])
    seen: list[set[int]] = []

    def look(first: LiveTable) -> None:
        main = answering(get_deployment(ratios, "heads"))
        assert (main.version, main.table) == (2, first.table.id)
        seen.append(keys_of(ratios, first.table.id))

    done = rescore(ratios, "heads", by="tests", head=2, on_head=look)
    assert seen == [{3, 5}]
    assert done.whole.build.keys == KeyCounts(new=98, unchanged=2)
    assert done.whole.table.source == "rows"
    full = build_live_table(
        ratios, "heads", rows_of_table(ROWS, "rows"), key=None, by="tests", full=True
    )
    assert done.whole.table.sha256 == full.table.sha256
    again = rescore(ratios, "heads", by="tests")  # of a version that has its table
    assert (again.head, again.whole.build.keys.unchanged) == (None, 100)


def test_what_was_never_asked_has_no_head(ratios: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has what the source lacks; the whole is scored."""
    for application, question in (("quiet", []), ("strange", [{"id": 999, "x": 2.0}])):
        live(ratios, application)
        asked(monkeypatch, *question)
        done = rescore(ratios, application, by="tests")
        assert (done.head, done.whole.table.rows) == (None, 100)


def test_what_cannot_be_rescored_is_told(ratios: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no table before, or keys that do not say all inputs: then a source must be named."""
    asked(monkeypatch)
    deploy(ratios, "bare", model="ratio", version=1, by="tests", reason="first")
    with pytest.raises(InvalidInput, match="has no key"):
        rescore(ratios, "bare", by="tests")
    rows = rows_of_table(ROWS, "rows")
    build_live_table(ratios, "bare", rows, key=("id",), by="tests")
    with pytest.raises(NotFound, match="no other version"):
        rescore(ratios, "bare", by="tests")
    deploy(ratios, "bare", model="ratio", version=2, by="tests", reason="second")
    with pytest.raises(InvalidInput, match="do not say the input 'x'"):
        rescore(ratios, "bare", by="tests")
    with pytest.raises(InvalidInput, match="do not say the input 'x'"):
        follow(ratios, "bare", by="tests")
    assert rescore(ratios, "bare", rows, by="tests").whole.table.rows == 100


def test_stored_features_are_the_rows_of_a_rescore(
    ratios: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of keys that do not say all inputs; each whole build stores them anew, a head leaves them."""
    asked(monkeypatch, {"id": 7})
    deploy(ratios, "stored", model="ratio", version=1, by="tests", reason="first")
    rows = rows_of_table(ROWS, "rows")
    build_live_table(ratios, "stored", rows, key=("id",), by="tests", features=True)
    deploy(ratios, "stored", model="ratio", version=2, by="tests", reason="second")
    before = get_deployment(ratios, "stored").features
    assert before is not None
    heads: list[str | None] = []
    done = rescore(
        ratios,
        "stored",
        by="tests",
        on_head=lambda _: heads.append(get_deployment(ratios, "stored").features),
    )
    assert heads == [before]
    assert (done.whole.table.rows, done.whole.table.source) == (100, "rows")
    after = get_deployment(ratios, "stored").features
    assert after == done.whole.build.features
    assert get_table(ratios.store, after or "").rows == 100
    assert after not in {info.id for info in list_tables(ratios.store)}
    with pytest.raises(InvalidInput, match="holds features"):
        promote(ratios, "stored", 2, table=after, by="tests", reason="wrong")
    with pytest.raises(InvalidInput, match="lacks the features"):
        build_live_table(ratios, "stored", rows, key=None, by="tests", keep=True)
    changed = rows_of_table(pa.table({"id": [1], "x": pa.array([4.0], pa.float32())}), "other")
    again = build_live_table(ratios, "stored", changed, key=None, by="tests")
    assert get_table(ratios.store, again.build.features or "").rows == 1
    both = build_live_table(ratios, "stored", changed, key=("id", "x"), by="tests")
    assert (both.build.features, get_deployment(ratios, "stored").features) == (None, None)


def test_what_follows_a_new_version(ratios: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table follows where the version before had one, whoever deployed again meanwhile."""
    asked(monkeypatch)
    deploy(ratios, "after", model="ratio", version=1, by="tests", reason="first")
    assert follow(ratios, "after", by="tests") is None
    live(ratios, "after")
    deploy(ratios, "after", model="ratio", version=2, by="tests", reason="once more")
    done = follow(ratios, "after", by="tests")
    assert done is not None
    assert answering(get_deployment(ratios, "after")).table == done.whole.table.id
    assert follow(ratios, "after", by="tests") is None


def test_a_build_tells_what_a_key_takes(ratios: Home) -> None:
    """The newest whole one of enough keys, of this version; none that was cut off or refreshed."""
    built = live(ratios, "measured")
    version = answering(get_deployment(ratios, "measured"))
    first = msgspec.structs.replace(version, version=1)
    assert measured_build(ratios, "measured", first) is None  # of 100 keys
    good = Build(table=built.table.id, at=1.0, seconds=2.0, cpu_s=3.0, keys=KeyCounts(new=50_000))
    keep_build(ratios, good)
    keep_build(ratios, msgspec.structs.replace(good, resumed=True))
    keep_build(ratios, msgspec.structs.replace(good, base="0" * 16))
    assert measured_build(ratios, "measured", first) == good
    head = Build(table="a" * 16, cpu_s=1.0, seconds=2.0, keys=KeyCounts(new=7), part=True)
    keep_build(ratios, head)
    after = msgspec.structs.replace(good, base=head.table, keys=KeyCounts(new=40_000, unchanged=7))
    keep_build(ratios, after)
    both = measured_build(ratios, "measured", first)
    assert both is not None
    assert (both.keys.scored, both.cpu_s, both.seconds) == (40_007, 4.0, 4.0)
    assert measured_build(ratios, "measured", version) is None
    assert len(list_builds(ratios.store, built.table.id)) >= 4


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from tidemill.control import rescoring
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes import head, table
home, application, stage = sys.argv[1:]
part = pa.table({"inputs": pa.array(['{"id":3,"x":2.0}'], pa.large_string())})
head.each_part = lambda *_: iter([part])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if stage == "head":
    table.store_table = die
with open_home(Settings(home=Path(home))) as opened:
    rescoring.rescore(opened, application, by="tests", on_head=die)
"""


@pytest.mark.parametrize("stage", ["head", "whole"])
def test_killed_anywhere_what_is_live_is_right(
    ratios: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Kill -9 before the head or before the whole: the version has no table, or the head's."""
    application = f"killed-{stage}"
    live(ratios, application)
    (tmp_path / "rescore.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "rescore.py"), str(ratios.path), application, stage]
    killed = subprocess.run(command, capture_output=True, check=False, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    main = answering(get_deployment(ratios, application))
    assert main.version == 2
    assert (set() if main.table is None else keys_of(ratios, main.table)) == (
        set() if stage == "head" else {3}
    )
    asked(monkeypatch, {"id": 3, "x": 2.0})
    done = rescore(ratios, application, by="tests")
    assert (done.head is None) == (stage == "whole")
    assert keys_of(ratios, done.whole.table.id) == set(range(100))
    assert done.whole.build.keys.unchanged == 1
