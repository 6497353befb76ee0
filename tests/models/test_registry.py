"""Versions are immutable, aliases have a history, and only what is blessed answers."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import (
    Corrupted,
    InvalidInput,
    InvalidModel,
    NotBlessed,
    NotFound,
    TidemillError,
)
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings, StoreSettings
from tidemill.models.format import MANIFEST, ModelManifest, read_manifest, write_model
from tidemill.models.registry import (
    ALIASES,
    TABLES,
    Registry,
    aliases,
    history,
    rollback,
    set_alias,
)
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Column, Signature

SIGNATURE = Signature((Column("x", "float32", (3,)),), (Column("y", "float32", (3,)),))
WHO: Any = {"by": "ada", "reason": "better"}


def graph(content: str) -> bytes:
    """The bytes of a graph that gives back what it gets; they differ by the content."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy")
    node = helper.make_node("Identity", ["x"], ["y"])
    made = helper.make_graph([node], "same", [x], [y], doc_string=content)
    return bytes(helper.make_model(made).SerializeToString(deterministic=True))


def make_model(folder: Path, content: str) -> Path:
    """Writes a model folder whose graph holds the content."""
    folder.mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "model.onnx").write_bytes(graph(content))
    (folder / "sub" / "notes.txt").write_text("the same in every version")
    manifest = ModelManifest(
        name="m", runtime="onnx", signature=SIGNATURE, entry="model.onnx", trust="data"
    )
    write_model(folder, manifest)
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """An installation on each of the stores."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    chosen = Settings(home=tmp_path / "home", store=StoreSettings(url=url))
    with open_home(chosen, clock=FakeClock(at=1e9)) as opened:
        yield opened


@pytest.fixture
def registry(place: Home, tmp_path: Path) -> Registry:
    """A registry with four versions of the model m, the fourth not blessed."""
    registry = Registry(place)
    for number in range(1, 5):
        folder = make_model(tmp_path / f"m{number}", f"content {number}")
        registry.register(folder, "m", blessed=number != 4, run=f"run {number}")
    return registry


def test_versions_are_numbered_from_one(registry: Registry) -> None:
    """Versions count up without holes, and keep what they were registered with."""
    versions = registry.list("m")
    assert [version.version for version in versions] == [1, 2, 3, 4]
    assert [version.run for version in versions] == [f"run {n}" for n in (1, 2, 3, 4)]
    assert versions[0].created_at == "2001-09-09T01:46:40.000Z"
    assert registry.get("m").version == 4
    assert registry.get("m", 2) == versions[1]
    assert registry.list("other") == ()
    assert registry.list() == versions


def test_what_must_not_be_opened_is_not_registered(place: Home, tmp_path: Path) -> None:
    """What opening checks is checked once, here: a file that is no graph never is a version."""
    folder = make_model(tmp_path / "foreign", "m")
    (folder / "model.onnx").write_text("no graph")
    write_model(folder, read_manifest(folder))
    with pytest.raises(InvalidModel, match="not an ONNX model"):
        Registry(place).register(folder, "m", blessed=True)
    with pytest.raises(NotFound):
        Registry(place).get("m", 1)


def test_the_same_content_is_the_same_version(registry: Registry, tmp_path: Path) -> None:
    """Registering what is there returns it, and blesses it if it comes blessed now."""
    again = make_model(tmp_path / "again", "content 4")
    found = registry.register(again, "m", run="later")
    assert (found.version, found.run, found.blessed) == (4, "run 4", False)
    assert registry.register(again, "m", blessed=True).blessed
    assert registry.register(again, "m", blessed=False).blessed
    assert registry.register(again, "other").version == 1
    assert len(registry.list("m")) == 4


def test_what_is_fetched_is_what_was_registered(registry: Registry, tmp_path: Path) -> None:
    """A version comes back file by file, with an equal manifest, from wherever it is stored."""
    folder = registry.fetch("m", 2)
    assert read_manifest(folder) == read_manifest(tmp_path / "m2")
    assert (folder / "model.onnx").read_bytes() == graph("content 2")
    assert (folder / "sub" / "notes.txt").is_file()
    assert registry.fetch("m", 2) == folder
    assert folder.is_relative_to(registry._home.cache_path / "models" / "m")


@pytest.mark.parametrize("damage", ["byte", "gone", "extra", "manifest"])
def test_a_damaged_copy_is_made_again(registry: Registry, damage: str) -> None:
    """What somebody did to the cached copy does not last."""
    folder = registry.fetch("m", 1)
    if damage == "byte":
        (folder / "model.onnx").write_text("content 9")
    elif damage == "gone":
        (folder / "model.onnx").unlink()
    elif damage == "extra":
        (folder / "extra").touch()
    else:
        (folder / MANIFEST).write_text("{}")
    assert registry.fetch("m", 1) == folder
    assert (folder / "model.onnx").read_bytes() == graph("content 1")
    assert not (folder / "extra").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_damaged_store_of_files_is_found_out(registry: Registry) -> None:
    """A stored file that is not what was registered is named, and nothing is left behind."""
    key = registry.get("m", 1).files["model.onnx"]
    stored = registry._home.files.fetch(key)
    stored.chmod(0o644)
    stored.write_text("content 9")
    with pytest.raises(Corrupted, match=r"model\.onnx"):
        registry.fetch("m", 1)
    assert not list((registry._home.cache_path / "models" / "m").iterdir())


def test_what_is_no_model_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    """Folders without a manifest, damaged ones and impossible names are refused."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidModel, match="no model folder"):
        registry.register(tmp_path / "empty", "m")
    broken = make_model(tmp_path / "broken", "broken")
    (broken / "model.onnx").write_text("changed")
    with pytest.raises(Corrupted, match=r"model\.onnx"):
        registry.register(broken, "m")
    with pytest.raises(InvalidInput, match="name"):
        registry.register(tmp_path / "m1", "../m")
    assert len(registry.list()) == 4


def test_unknown_names_list_the_known(registry: Registry) -> None:
    """Whoever asks for what is not there learns what is."""
    with pytest.raises(NotFound, match="Known models: m"):
        registry.get("n")
    with pytest.raises(NotFound, match=r"no version 9\. Its versions: 1, 2, 3, 4"):
        registry.fetch("m", 9)
    with pytest.raises(NotFound, match="no version 9"):
        registry.set_alias("m", "champion", 9, **WHO)
    with pytest.raises(NotFound, match="no version 9"):
        registry.bless("m", 9, {"blessed": True})
    with pytest.raises(InvalidInput, match="Known aliases: champion"):
        registry.set_alias("m", "boss", 1, **WHO)


def test_only_the_blessed_become_champion(registry: Registry) -> None:
    """The gate's verdict decides, and its reasons are told; a challenger needs none."""
    with pytest.raises(NotBlessed, match="never evaluated"):
        registry.set_alias("m", "champion", 4, **WHO)
    registry.bless("m", 4, {"blessed": False, "reasons": ["loss rose by 0.1"]})
    with pytest.raises(NotBlessed, match=r"version 4 .* champion: loss rose by 0\.1"):
        registry.set_alias("m", "champion", 4, **WHO)
    registry.set_alias("m", "challenger", 4, **WHO)
    registry.bless("m", 4, {"blessed": True, "reasons": []})
    registry.set_alias("m", "champion", 4, **WHO)
    assert registry.get("m", 4).blessing == {"blessed": True, "reasons": []}
    with pytest.raises(InvalidInput, match="does not say whether"):
        registry.bless("m", 4, {"reasons": []})


def test_a_new_champion_makes_the_old_one_previous(registry: Registry) -> None:
    """The champion before is what a rollback returns to, and who did it is on record."""
    registry.set_alias("m", "champion", 1, **WHO)
    assert registry.aliases("m") == {"champion": 1}
    registry.set_alias("m", "champion", 3, by="bob", reason="newer")
    assert registry.aliases("m") == {"champion": 3, "previous": 1}
    assert registry.rollback("m", by="eve", reason="errors") == (3, 1)
    assert registry.aliases("m") == {"champion": 1}
    told = [(c.alias, c.from_version, c.to_version, c.verb, c.by) for c in registry.history("m")]
    assert told == [
        ("champion", None, 1, "set", "ada"),
        ("champion", 1, 3, "set", "bob"),
        ("previous", None, 1, "moved", "bob"),
        ("champion", 3, 1, "rolled back", "eve"),
        ("previous", 1, None, "moved", "eve"),
    ]
    with pytest.raises(NotFound, match="no previous champion"):
        registry.rollback("m", **WHO)


def test_rollback_needs_somewhere_blessed_to_go(registry: Registry) -> None:
    """Without a champion, or to a version that lost its blessing, there is no rollback."""
    with pytest.raises(NotFound, match="no champion"):
        registry.rollback("m", **WHO)
    registry.set_alias("m", "champion", 1, **WHO)
    registry.set_alias("m", "champion", 2, **WHO)
    registry.bless("m", 1, {"blessed": False, "reasons": ["withdrawn"]})
    with pytest.raises(NotBlessed, match="withdrawn"):
        registry.rollback("m", **WHO)
    assert registry.aliases("m") == {"champion": 2, "previous": 1}


def test_previous_is_another_than_the_champion(registry: Registry) -> None:
    """The target of a rollback can be chosen, but not so that a rollback does nothing."""
    with pytest.raises(InvalidInput, match="there is no champion"):
        registry.set_alias("m", "previous", 1, **WHO)
    registry.set_alias("m", "champion", 1, **WHO)
    with pytest.raises(InvalidInput, match="it is the champion"):
        registry.set_alias("m", "previous", 1, **WHO)
    registry.set_alias("m", "previous", 2, **WHO)
    assert registry.rollback("m", **WHO) == (1, 2)


def test_only_the_challenger_can_be_cleared(registry: Registry) -> None:
    """A challenger may go; a champion is only ever replaced."""
    registry.set_alias("m", "challenger", 2, **WHO)
    registry.clear_alias("m", "challenger", **WHO)
    registry.clear_alias("m", "challenger", **WHO)
    assert registry.aliases("m") == {}
    assert len(registry.history("m")) == 2
    with pytest.raises(InvalidInput, match="cannot be cleared"):
        registry.clear_alias("m", "champion", **WHO)


def test_aliases_change_with_the_callers_transaction(registry: Registry) -> None:
    """What the caller undoes, the alias never did."""
    with (
        pytest.raises(ZeroDivisionError),
        registry._home.store.write(TABLES) as conn,
    ):
        set_alias(conn, "m", "champion", 1, **WHO)
        assert aliases(conn, "m") == {"champion": 1}
        raise ZeroDivisionError
    assert registry.aliases("m") == {}
    assert registry.history("m") == ()


class Undone(Exception):  # noqa: N818
    """Ends a transaction without a trace."""


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(ALIASES), st.integers(1, 4)),
        st.tuples(st.just("rollback"), st.just(0)),
    ),
    max_size=25,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(steps=STEPS)
def test_history_is_complete_and_rollback_undoes(registry: Registry, steps: Any) -> None:
    """Whatever is tried, replaying the history gives the aliases, and each rollback returns to
    the champion before.
    """
    champions: list[int] = []
    challenger: int | None = None
    with pytest.raises(Undone), registry._home.store.write(TABLES) as conn:
        for verb, version in steps:
            try:
                if verb == "rollback":
                    start, target = rollback(conn, "m", **WHO)
                    assert [target, start] == champions[-2:]
                    champions.pop()
                else:
                    set_alias(conn, "m", verb, version, **WHO)
                    challenger = version if verb == "challenger" else challenger
                    if verb == "champion" and champions[-1:] != [version]:
                        champions.append(version)
                    if verb == "previous":
                        below = [*champions[:-2], version]
                        if below[-2:] == [version] * 2:
                            below.pop()
                        champions = [*below, champions[-1]]
            except TidemillError:
                continue
            now = aliases(conn, "m")
            assert now.get("champion") == (champions[-1] if champions else None)
            assert now.get("previous") == (champions[-2] if len(champions) > 1 else None)
            assert now.get("challenger") == challenger
            replayed: dict[str, int | None] = {}
            for change in history(conn, "m"):
                assert replayed.get(change.alias) == change.from_version
                replayed[change.alias] = change.to_version
            assert {a: v for a, v in replayed.items() if v is not None} == now
        raise Undone


REGISTER = """
import sys
from pathlib import Path
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings, StoreSettings
from tidemill.models.registry import Registry

home, url, *folders = sys.argv[1:]
sys.stdin.readline()
with open_home(Settings(home=Path(home), store=StoreSettings(url=url or None))) as opened:
    for folder in folders:
        print(Registry(opened).register(Path(folder), "raced").version)
"""


def test_processes_that_register_at_once_get_their_own_numbers(place: Home, tmp_path: Path) -> None:
    """Different content gets different numbers without holes; the same content, the same one."""
    url = place.settings.store.url or ""
    shared = make_model(tmp_path / "shared", "shared")
    children = []
    for name in "ab":
        own = [str(make_model(tmp_path / f"{name}{i}", f"{name}{i}")) for i in range(4)]
        command = [sys.executable, "-c", REGISTER, str(place.path), url, *own, str(shared)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    numbers = []
    for child in children:
        told, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        numbers.append([int(line) for line in told.split()])
    assert numbers[0][-1] == numbers[1][-1]
    assert sorted({*numbers[0], *numbers[1]}) == list(range(1, 10))


def test_threads_that_fetch_at_once_get_the_same_folder(registry: Registry) -> None:
    """Several who fetch a version first all get it whole."""
    found: list[Path] = []

    def fetch() -> None:
        folder = registry.fetch("m", 3)
        assert (folder / "model.onnx").read_bytes() == graph("content 3")
        found.append(folder)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in found[0].parent.iterdir()] == ["3"]


def test_a_model_goes_the_whole_way(home: Home, digits: Any, tmp_path: Path) -> None:
    """Packaged, registered, blessed, made champion, fetched and opened, it answers the same."""
    registry = Registry(home)
    folder = tmp_path / "moved"
    shutil.copytree(digits.folder, folder)
    version = registry.register(folder, "digits", run="run 1").version
    shutil.rmtree(folder)
    registry.bless("digits", version, {"blessed": True, "reasons": ["auc 0.99"]})
    registry.set_alias("digits", "champion", version, by="ada", reason="first")
    fetched = registry.fetch("digits", registry.aliases("digits")["champion"])
    runtime = open_runtime(fetched)
    answer = runtime.predict(digits.head(10))
    np.testing.assert_array_equal(answer["label"], digits.estimator.predict(digits.rows["x"][:10]))
