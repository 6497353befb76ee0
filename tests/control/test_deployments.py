"""What is live changes whole or not at all: alias, deployment and audit together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from tidemill.control import audit
from tidemill.control.audit import read_audit
from tidemill.control.deployments import (
    Terms,
    attach_table,
    deploy,
    get_deployment,
    list_deployments,
    promote,
    rollback,
)
from tidemill.control.views import models
from tidemill.foundation.errors import InvalidInput, NotBlessed, NotFound
from tidemill.foundation.home import Home
from tidemill.models import registry
from tidemill.models.registry import Registry
from tidemill.serving import live
from tidemill.serving.live import StoreSource
from tidemill.serving.plan import Live

Tables = tuple[str, str]


def go(home: Home, version: int, **more: Any) -> Any:
    """Deploys a version of the model as ``app``."""
    return deploy(home, "app", model="m", version=version, by="ann", reason="because", **more)


def state(home: Home) -> tuple[dict[str, int], int, int, int]:
    """Returns aliases, their changes, the newest revision and how many audit rows there are."""
    versions = Registry(home)
    revision = StoreSource(home).revision()
    audited = len(read_audit(home.store, limit=1000))
    return versions.aliases("m"), len(versions.history("m")), revision, audited


def test_a_deployment_is_written_with_alias_and_audit(home: Home, tables: Tables) -> None:
    """The champion moves, the application answers, and the audit says who, what and why."""
    terms = Terms(slo_ms=50.0, default={"y": [0.0]}, key=("x",))
    done = go(home, 1, table=tables[0], terms=terms)
    assert (done.revision, done.slo_ms, done.key) == (1, 50.0, ("x",))
    assert done.versions == (Live(model="m", version=1, table=tables[0]),)
    assert list_deployments(home) == [done] == [get_deployment(home, "app")]
    assert Registry(home).aliases("m") == {"champion": 1}
    (entry,) = read_audit(home.store, subject="app")
    assert (entry.verb, entry.by, entry.reason) == ("deploy", "ann", "because")
    assert entry.detail == json.loads(msgspec.json.encode(done))


def test_terms_stay_until_they_are_said_again(home: Home, tables: Tables) -> None:
    """A promotion changes the version only; what is given replaces what was."""
    go(home, 1, terms=Terms(slo_ms=50.0, key=("x",)))
    kept = promote(home, "app", 2, table=None, by="ann", reason="r")
    assert (kept.revision, kept.slo_ms, kept.key, kept.versions[0].version) == (2, 50.0, ("x",), 2)
    assert go(home, 2, terms=Terms(slo_ms=70.0)).slo_ms == 70.0


def test_a_promotion_brings_the_versions_table_along(home: Home, tables: Tables) -> None:
    """A version that had a table here goes live with it again, without being told its id."""
    go(home, 1, table=tables[0])
    go(home, 2)
    back = promote(home, "app", 1, table=None, by="ann", reason="r")
    assert back.versions == (Live(model="m", version=1, table=tables[0]),)


@pytest.mark.parametrize("broken", ["write_audit", "write_deployment", "set_alias"])
def test_what_fails_halfway_leaves_nothing(
    home: Home, tables: Tables, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the three writes fails, before or after the others, none is kept."""
    go(home, 1)
    before = state(home)
    place: Any = {
        "write_audit": audit,
        "write_deployment": live,
        "set_alias": registry,
    }[broken]
    write = getattr(place, broken)

    def fails(*args: Any, **more: Any) -> None:
        write(*args, **more)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(place, broken, fails)
    with pytest.raises(RuntimeError, match="disk"):
        go(home, 2, table=tables[1])
    assert state(home) == before


def test_a_rollback_that_fails_leaves_nothing(
    home: Home, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias is not moved when the audit cannot be written."""
    go(home, 1)
    go(home, 2)
    before = state(home)

    def fails(*args: Any, **more: Any) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(audit, "write_audit", fails)
    with pytest.raises(RuntimeError, match="disk"):
        rollback(home, "app", by="ann", reason="r")
    with pytest.raises(RuntimeError, match="disk"):
        attach_table(home, "app", tables[1], key=("x",), by="ann", reason="r")
    assert state(home) == before


def test_a_rollback_brings_the_table_back(home: Home, tables: Tables) -> None:
    """Also one that was attached later than the version went live."""
    go(home, 1)
    attach_table(home, "app", tables[0], key=("x",), by="ann", reason="r")
    go(home, 2, table=tables[1])
    back = rollback(home, "app", by="bob", reason="worse")
    assert (back.from_version, back.to_version, back.table) == (2, 1, tables[0])
    now = get_deployment(home, "app")
    assert (now.revision, now.versions[0].table, now.key) == (back.revision, tables[0], ("x",))
    newest = read_audit(home.store, subject="app")[0]
    assert (newest.verb, newest.by, newest.reason) == ("rollback", "bob", "worse")


def test_each_rollback_goes_one_further_back(home: Home, tables: Tables) -> None:
    """Twice goes back two versions; there is nothing before the first, and nothing changes."""
    for version in (1, 2, 3):
        go(home, version)
    assert rollback(home, "app", by="a", reason="r").to_version == 2
    assert rollback(home, "app", by="a", reason="r").to_version == 1
    before = state(home)
    with pytest.raises(NotFound, match="no previous champion"):
        rollback(home, "app", by="a", reason="r")
    assert state(home) == before
    history = models(home, "m").history
    assert [each.version for each in history if each.alias == "champion"] == [1, 2, 3, 2, 1]


def test_a_version_that_is_not_blessed_never_goes_live(home: Home, tables: Tables) -> None:
    """The reasons of the gate are told, and nothing is written."""
    go(home, 1)
    before = state(home)
    with pytest.raises(NotBlessed, match=r"version 4 is not blessed.*AUC 0\.5000"):
        promote(home, "app", 4, table=None, by="ann", reason="r")
    with pytest.raises(NotBlessed):
        go(home, 4)
    assert state(home) == before


@pytest.mark.parametrize("version", [0, -1, 5, 1 << 31, 10**30])
def test_a_version_that_does_not_exist_is_told(home: Home, tables: Tables, version: int) -> None:
    """Whatever the number; nothing is written."""
    go(home, 1)
    before = state(home)
    with pytest.raises(NotFound, match=f"no version {version}"):
        promote(home, "app", version, table=None, by="ann", reason="r")
    assert state(home) == before


def test_unknown_names_are_told(home: Home, tables: Tables) -> None:
    """Of applications, models and tables; names that are none are refused."""
    with pytest.raises(NotFound, match="application 'app' does not exist"):
        promote(home, "app", 1, table=None, by="ann", reason="r")
    with pytest.raises(NotFound, match="application 'app' does not exist"):
        rollback(home, "app", by="ann", reason="r")
    with pytest.raises(NotFound, match="application 'app' does not exist"):
        attach_table(home, "app", tables[0], key=("x",), by="ann", reason="r")
    go(home, 1)
    with pytest.raises(NotFound, match="Known: app"):
        rollback(home, "other", by="ann", reason="r")
    with pytest.raises(NotFound, match="'nope' does not exist"):
        deploy(home, "app", model="nope", version=1, by="ann", reason="r")
    with pytest.raises(NotFound, match="table '0123456789abcdef' does not exist"):
        promote(home, "app", 1, table="0123456789abcdef", by="ann", reason="r")
    with pytest.raises(InvalidInput, match="application name"):
        deploy(home, "../app", model="m", version=1, by="ann", reason="r")
    with pytest.raises(InvalidInput, match="slo_ms"):
        go(home, 1, terms=Terms(slo_ms=0.0))
    assert state(home)[2:] == (1, 1)


def test_a_table_of_another_version_is_refused(home: Home, tables: Tables) -> None:
    """A version never answers with what another one had said."""
    go(home, 1)
    before = state(home)
    with pytest.raises(InvalidInput, match="was built with 'm' version 1, not with 'm' version 2"):
        promote(home, "app", 2, table=tables[0], by="ann", reason="r")
    with pytest.raises(InvalidInput, match="version 2, which is not live in 'app'"):
        attach_table(home, "app", tables[1], key=("x",), by="ann", reason="r")
    assert state(home) == before


def test_the_same_again_changes_nothing(home: Home, tables: Tables) -> None:
    """What is live already gets no new revision; other terms do, and a rollback still works."""
    go(home, 1)
    done = go(home, 2)
    before = state(home)
    assert go(home, 2) == done
    assert state(home) == before
    assert go(home, 2, terms=Terms(slo_ms=70.0)).revision == done.revision + 1
    assert Registry(home).aliases("m") == {"champion": 2, "previous": 1}
    assert rollback(home, "app", by="a", reason="r").to_version == 1


CHILD = """
import sys
from pathlib import Path
from tidemill.control.deployments import Terms, deploy
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings, StoreSettings

home, url, version = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with open_home(Settings(home=home, store=StoreSettings(url=url or None))) as opened:
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(5):
        terms = Terms(slo_ms=version * 100.0 + turn)
        done = deploy(opened, "app", model="m", version=version, terms=terms, by="me", reason="r")
        print(done.revision, flush=True)
"""


def check_two_at_once(home: Home, url: str) -> None:
    """Lets two processes deploy a version each, five times, and looks at what came of it."""
    go(home, 1)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home.path), url, str(version)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in (2, 3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    said = []
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        said.append([int(line) for line in child.communicate(timeout=60)[0].split()])
        assert child.returncode == 0
    assert sorted(said[0] + said[1]) == list(range(2, 12))  # each change has a revision of its own
    now = get_deployment(home, "app")
    assert now.revision == 11
    champion = Registry(home).aliases("m")["champion"]
    assert champion == now.versions[0].version
    entries = read_audit(home.store, subject="app", limit=1000)
    assert [entry.detail["revision"] for entry in entries] == list(range(11, 0, -1))
    moves = [each for each in Registry(home).history("m") if each.alias == "champion"]
    for before, after in pairwise(moves):
        assert after.from_version == before.to_version  # one chain of changes, none lost


def test_two_processes_promote_at_once(home: Home, tables: Tables) -> None:
    """In SQLite they take turns; what is live is what the champion is."""
    check_two_at_once(home, "")


def test_two_processes_promote_at_once_in_postgresql(
    postgres_home: Home, fill: Callable[[Home], Tables], postgres_url: str
) -> None:
    """In PostgreSQL as in SQLite."""
    fill(postgres_home)
    check_two_at_once(postgres_home, postgres_url)
    assert rollback(postgres_home, "app", by="a", reason="r").to_version in (1, 2, 3)


def test_the_audit_reads_back_as_json(home: Home, tables: Tables) -> None:
    """Its detail is the whole deployment, the newest entry first, and never more than asked for."""
    for version in (1, 2, 3):
        go(home, version)
    entries = read_audit(home.store, limit=2)
    assert [entry.detail["versions"][0]["version"] for entry in entries] == [3, 2]
    assert json.dumps(entries[0].detail)
    assert read_audit(home.store, subject="other") == []
