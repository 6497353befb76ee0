"""The deployment table keeps every change, and its newest rows are what is live."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import sqlalchemy as sa
from onnx import TensorProto, helper

from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings, TablesSettings
from tidemill.models.format import read_manifest, verify_model
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.registry import Registry
from tidemill.serving.live import (
    TABLES,
    FileSource,
    StoreSource,
    current_revision,
    deployment_history,
    live_deployments,
    publish_tables,
    remove_deployment,
    write_deployment,
)
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import Deployment, Live, ServingPlan
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import store_table
from tidemill.tables.redis import is_published
from tidemill.tables.table import TableInfo


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty installation."""
    with open_home(Settings(home=tmp_path / "home")) as opened:
        yield opened


def deployed(application: str, version: int) -> Deployment:
    """Returns a deployment whose revision does not matter yet."""
    return Deployment(
        application=application,
        revision=0,
        versions=(Live(model="m", version=version, table="t"),),
        default={"label": 1},
        key=("a", "b"),
        plan=ServingPlan(replicas=3),
    )


def test_the_newest_row_is_live_and_history_is_kept(home: Home) -> None:
    """Revisions grow over all applications; a row comes back exactly as it was written."""
    with home.store.write(TABLES) as conn:
        assert current_revision(conn) == 0
        first = write_deployment(conn, deployed("one", 1), by="ann", reason="new", at=1.0)
        other = write_deployment(conn, deployed("two", 1), by="ann", reason="new", at=2.0)
        second = write_deployment(conn, deployed("one", 2), by="bob", reason="better", at=3.0)
    assert [first.revision, other.revision, second.revision] == [1, 2, 3]
    with home.store.read(TABLES) as conn:
        assert live_deployments(conn) == (second, other)
        newest, oldest = deployment_history(conn, "one")
    assert (newest.deployment, newest.by, newest.reason) == (second, "bob", "better")
    assert (oldest.deployment, oldest.created_at) == (first, 1.0)


def test_a_removed_application_is_not_live(home: Home) -> None:
    """Removing is a revision of its own; what was never live cannot be removed."""
    with home.store.write(TABLES) as conn:
        write_deployment(conn, deployed("one", 1), by="a", reason="r", at=1.0)
        assert remove_deployment(conn, "one", by="a", reason="over", at=2.0) == 2
        assert live_deployments(conn) == ()
        assert deployment_history(conn, "one")[0].deployment is None
        with pytest.raises(NotFound):
            remove_deployment(conn, "one", by="a", reason="over", at=3.0)
        assert write_deployment(conn, deployed("one", 1), by="a", reason="r", at=4.0).revision == 3


def test_a_transaction_that_fails_leaves_nothing(home: Home) -> None:
    """A deployment is written with all that its transaction writes, or not at all."""

    class BrokenError(Exception):
        pass

    with pytest.raises(BrokenError), home.store.write(TABLES) as conn:
        write_deployment(conn, deployed("one", 1), by="a", reason="r", at=1.0)
        raise BrokenError
    source = StoreSource(home)
    assert source.revision() == 0
    assert source.deployments() == ()


def test_a_revision_is_given_once(home: Home) -> None:
    """The store itself refuses a second row with the same revision."""
    table = TABLES.tables["deployment"]
    row = {"revision": 1, "document": None, "created_at": 0.0, "by": "a", "reason": "r"}
    with home.store.write(TABLES) as conn:
        conn.execute(table.insert().values(application="one", **row))
        with pytest.raises(sa.exc.IntegrityError):
            conn.execute(table.insert().values(application="two", **row))


def test_names_are_checked(home: Home) -> None:
    """An application's name never gets into the store without fitting the pattern."""
    with home.store.write(TABLES) as conn, pytest.raises(InvalidInput, match="application name"):
        write_deployment(conn, deployed("../x", 1), by="a", reason="r", at=1.0)


def test_a_version_that_is_not_registered_is_not_found(home: Home) -> None:
    """Resolving says which model is missing."""
    with pytest.raises(NotFound, match="'m'"):
        StoreSource(home).resolve(Live(model="m", version=1), deployed("one", 1))


def test_a_registered_version_is_fetched(home: Home, tmp_path: Path) -> None:
    """Resolving gives a verified folder on this machine; a model of data needs no trust."""
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "neg",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, tmp_path / "neg.onnx")
    package_onnx(tmp_path / "neg.onnx", "m", tmp_path / "packaged")
    Registry(home).register(tmp_path / "packaged", "m")
    resolved = StoreSource(home).resolve(Live(model="m", version=1), deployed("one", 1))
    manifest = read_manifest(resolved.folder)
    verify_model(resolved.folder, manifest)
    assert not resolved.trust_code
    assert resolved.table is None
    assert decide_placement(ServingPlan(), manifest) == "gateway"
    assert decide_placement(ServingPlan(inline_below_ms=0.0), manifest) == "worker"
    assert decide_placement(ServingPlan(placement="worker"), manifest) == "worker"


def add_graph(folder: Path) -> Path:
    """Writes a model that adds one."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, folder / "add.onnx")
    return folder / "add.onnx"


def test_a_file_is_a_source(tmp_path: Path) -> None:
    """A file gives deployments and folders; a change is seen; mistakes are said plainly."""
    path = tmp_path / "live.json"
    source = FileSource(path)
    with pytest.raises(InvalidInput, match=r"live\.json"):
        source.revision()
    deployment = {
        "application": "one",
        "revision": 4,
        "versions": [{"model": "m", "version": 2, "table": "t"}],
    }
    package_onnx(add_graph(tmp_path), "m", tmp_path / "m")
    folders = {"m:2": str(tmp_path / "m")}
    content = {"deployments": [deployment], "folders": folders, "trust_code": True}
    path.write_text(json.dumps(content))
    (found,) = source.deployments()
    assert source.revision() == 4
    with pytest.raises(NotFound, match="table 't'"):
        source.resolve(found.versions[0], found)
    path.write_text(json.dumps({**content, "tables": {"t": "/tables/t"}}) + "\n")
    resolved = source.resolve(found.versions[0], found)
    assert (resolved.folder, resolved.table) == (tmp_path / "m", Path("/tables/t"))
    assert resolved.trust_code
    with pytest.raises(NotFound, match="'m:3'"):
        source.resolve(Live(model="m", version=3), found)
    path.write_text(json.dumps({**content, "folder": {}}))
    with pytest.raises(InvalidInput, match="folder"):
        source.deployments()


def test_a_table_that_cannot_be_published_keeps_no_other_from_it(
    tmp_path: Path, redis_url: str
) -> None:
    """Its file is gone; the tables of the other applications are in Redis all the same."""
    settings = Settings(home=tmp_path / "home", tables=TablesSettings(url=redis_url))
    with open_home(settings) as home:
        found = {}
        for name in ("a", "b", "c"):
            info = stored(home, tmp_path, name)
            found[info.id] = info
            made = Deployment(
                application=name, revision=0, versions=(Live(model="m", version=1, table=info.id),)
            )
            with home.store.write(TABLES) as conn:
                write_deployment(conn, made, by="t", reason="t", at=1.0)
        bad = min(found)
        (key_of_bad,) = (k for k in home.files.scan("tables/") if found[bad].sha256 in k)
        home.files.delete(key_of_bad)
        with pytest.raises(NotFound):
            publish_tables(home)
        assert {each for each in found if is_published(home, found[each])} == {*found} - {bad}


def stored(home: Home, folder: Path, application: str) -> TableInfo:
    """Stores a table of one key for an application."""
    with TableBuilder(folder / application) as builder:
        builder.put([b"k"], [application.encode()])
        key = (("k", "int64"),)
        builder.commit(TableInfo(application=application, model="m", version=1, key=key))
    return store_table(home, folder / application)


def test_a_redis_that_hangs_is_waited_for_once_and_briefly(tmp_path: Path) -> None:
    """It takes the connection and says nothing: all applications go live without their tables."""
    with socket.socket(socket.AF_UNIX) as silent, contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "socket"
        silent.bind(str(path))
        silent.listen(8)
        settings = Settings(home=tmp_path / "home", tables=TablesSettings(url=f"unix://{path}"))
        home = stack.enter_context(open_home(settings))
        package_onnx(add_graph(tmp_path), "m", tmp_path / "packaged")
        Registry(home).register(tmp_path / "packaged", "m")
        source, began = StoreSource(home), time.monotonic()
        for name in ("a", "b", "c"):
            live = Live(model="m", version=1, table=stored(home, tmp_path, name).id)
            resolved = source.resolve(live, deployed(name, 1))
            assert str(resolved.table).startswith(f"unix://{path}#{live.table}")
        assert time.monotonic() - began < 12.0
