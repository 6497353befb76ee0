"""A model folder is hostile until it is what its manifest says."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tidemill.foundation.errors import Corrupted, InvalidModel, NotTrusted, TidemillError
from tidemill.models.format import (
    MANIFEST,
    ORIGINAL,
    ModelManifest,
    parse_manifest,
    read_manifest,
    read_verified,
    verify_model,
    write_model,
)
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.runtime import open_runtime
from tidemill.models.runtimes.pickled import load_file
from tidemill.models.signature import Column, Signature

SIGNATURE = Signature((Column("x", "float32", (3,)),), (Column("y", "float32", (3,)),))


def graph(*nodes: Any, initializers: Any = (), opsets: Any = (("", 18),)) -> onnx.ModelProto:
    """Returns a model with an input x and an output y, (n, 3) each."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    made = helper.make_graph(list(nodes), "graph", [x], [y], list(initializers))
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    return helper.make_model(made, opset_imports=imports, ir_version=9)


DOUBLED = graph(helper.make_node("Add", ["x", "x"], ["y"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model folder that a test may damage."""
    path = tmp_path / "doubled.onnx"
    path.write_bytes(DOUBLED.SerializeToString())
    package_onnx(path, "doubled", tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest behind Tidemill's back."""
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def test_a_manifest_survives_writing(digits: Any) -> None:
    """What is written in model.json is read back equal, and its folder verifies."""
    manifest = read_manifest(digits.folder)
    assert parse_manifest(msgspec.json.encode(manifest)) == manifest
    verify_model(digits.folder, manifest)
    assert manifest.files.keys() == {"model.onnx", "original/model.joblib", "original/model.json"}


def test_an_untouched_folder_opens(folder: Path) -> None:
    """The folder that the other tests damage is sound."""
    answer = open_runtime(folder).predict({"x": np.ones((2, 3), dtype=np.float32)})
    np.testing.assert_array_equal(answer["y"], np.full((2, 3), 2, dtype=np.float32))


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def truncate(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


def link_out(folder: Path) -> None:
    target = folder.parent / "elsewhere.onnx"
    (folder / "model.onnx").rename(target)
    (folder / "model.onnx").symlink_to(target)


def link_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "weights").symlink_to(folder.parent / "elsewhere")


DAMAGES: list[tuple[Callable[[Path], object], type[TidemillError], str]] = [
    (flip_a_byte, Corrupted, "'model.onnx'.*sha256 differs"),
    (truncate, Corrupted, "'model.onnx'.*sha256 differs"),
    (link_out, Corrupted, "'model.onnx'.*link"),
    (link_folder, Corrupted, "'weights'.*link"),
    (lambda f: (f / "model.onnx").unlink(), Corrupted, "'model.onnx'.*missing"),
    (lambda f: (f / "extra.so").write_bytes(b"x"), Corrupted, "'extra.so'.*not named"),
    (lambda f: os.mkfifo(f / "pipe"), Corrupted, "'pipe'.*no plain file"),
    (lambda f: (f / MANIFEST).unlink(), InvalidModel, "no model folder"),
    (lambda f: (f / MANIFEST).write_text("not JSON"), InvalidModel, "cannot be read"),
    (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), InvalidModel, "cannot be read"),
    (lambda f: (f / MANIFEST).write_text("[" * 100_000), InvalidModel, "cannot be read"),
    (lambda f: (f / MANIFEST).write_text("{}"), InvalidModel, "format"),
    (lambda f: edit(f, lambda d: d.update(format=2)), InvalidModel, "newer.*Upgrade"),
    (lambda f: edit(f, lambda d: d.update(runtime="caffe")), InvalidModel, "runtime 'caffe'.*onnx"),
    (lambda f: edit(f, lambda d: d.update(entry="gone.onnx")), InvalidModel, "entry"),
    (lambda f: edit(f, lambda d: d.update(surprise=1)), InvalidModel, "surprise"),
    (lambda f: edit(f, lambda d: d.update(trust="full")), InvalidModel, "trust"),
    (lambda f: edit(f, lambda d: d["files"].update(a="no hash")), InvalidModel, "no sha256"),
    (lambda f: edit(f, lambda d: d["signature"].update(inputs=[])), InvalidModel, "input"),
]


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGES)
def test_a_damaged_folder_is_refused(
    folder: Path, damage: Callable[[Path], object], error: type[TidemillError], message: str
) -> None:
    """Whatever was done to the folder, it is refused by name before anything is loaded."""
    damage(folder)
    with pytest.raises(error, match=message):
        open_runtime(folder, trust_code=True)


PATHS = [
    "../x",
    "/etc/passwd",
    "a/../../x",
    "a//b",
    "./a",
    "a/",
    "",
    ".hidden",
    "a\\b",
    "a\0b",
    "ä",
    "a" * 101,
    "a/" * 9 + "a",
    MANIFEST,
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leaves_the_folder(folder: Path, path: str) -> None:
    """A manifest cannot name a file outside its folder, nor one with a doubtful name."""
    edit(folder, lambda document: document["files"].update({path: "0" * 64}))
    with pytest.raises(InvalidModel, match="not allowed"):
        read_manifest(folder)


def test_a_manifest_that_is_a_link_is_refused(folder: Path) -> None:
    """Even the manifest must be a plain file of the folder."""
    (folder / MANIFEST).rename(folder.parent / "elsewhere.json")
    (folder / MANIFEST).symlink_to(folder.parent / "elsewhere.json")
    with pytest.raises(InvalidModel, match="plain file"):
        read_manifest(folder)


def test_what_is_loaded_is_what_was_hashed(folder: Path) -> None:
    """A file that changes between the check and the load is caught by the load."""
    manifest = read_manifest(folder)
    verify_model(folder, manifest)
    flip_a_byte(folder)
    with pytest.raises(Corrupted):
        read_verified(folder, manifest, "model.onnx")


def rehash(folder: Path) -> None:
    """Makes the hashes true again, as an attacker who can write the folder would."""
    (folder / MANIFEST).rename(folder.parent / MANIFEST)
    manifest = parse_manifest((folder.parent / MANIFEST).read_bytes())
    write_model(folder, manifest)


def save(model: onnx.ModelProto, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def external() -> onnx.ModelProto:
    """Returns a model whose weights are said to lie in another file."""
    weights = numpy_helper.from_array(np.ones(3, dtype=np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../secret")
    return graph(helper.make_node("Add", ["x", "w"], ["y"]), initializers=[weights])


def external_inside() -> onnx.ModelProto:
    """Returns a model that hides another file's tensor in a branch's constant."""
    tensor = external().graph.initializer[0]
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["z"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [3])],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    return graph(
        helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["x", "w"], ["y"]),
        initializers=[yes],
    )


FOREIGN = graph(
    helper.make_node("Evil", ["x"], ["y"], domain="evil"), opsets=(("", 18), ("evil", 1))
)
CONTEXT = graph(
    helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/x"),
    opsets=(("", 18), ("com.microsoft", 1)),
)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (external(), "another file"),
        (external_inside(), "another file"),
        (FOREIGN, "foreign operator evil:Evil"),
        (CONTEXT, "foreign operator"),
        (graph(helper.make_node("NoSuchOperator", ["x"], ["y"])), "cannot load"),
        (onnx.ModelProto(), "cannot load"),
    ],
    ids=["external", "external in a branch", "foreign", "context", "unknown", "empty"],
)
def test_a_graph_must_stand_alone(folder: Path, model: onnx.ModelProto, message: str) -> None:
    """Graphs that refer to other files or foreign operators are refused, with true hashes too."""
    save(model, folder)
    rehash(folder)
    with pytest.raises(InvalidModel, match=message):
        open_runtime(folder)


@pytest.mark.parametrize("data", [b"", b"\x00", b"PAR1", b"\x80\x04K\x01.", b"\xff" * 1000])
def test_bytes_that_are_no_graph_are_refused(folder: Path, data: bytes) -> None:
    """Whatever lies in the entry, it is a graph or an InvalidModel."""
    (folder / "model.onnx").write_bytes(data)
    rehash(folder)
    with pytest.raises(InvalidModel):
        open_runtime(folder)


@given(cut=st.integers(0, len(DOUBLED.SerializeToString()) - 1))
def test_a_truncated_graph_is_refused(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A graph cut off anywhere is refused when it is packaged."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "cut.onnx").write_bytes(DOUBLED.SerializeToString()[:cut])
    with pytest.raises(InvalidModel):
        package_onnx(folder / "cut.onnx", "cut", folder / "model", SIGNATURE)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("trust", ["code", "data"])
def test_a_pickle_does_not_run_unasked(tmp_path: Path, trust: Any) -> None:
    """A pickle runs nothing without trust, whatever its manifest claims."""
    folder, mark = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    joblib.dump(Evil(mark), folder / "model.joblib")
    manifest = ModelManifest(
        name="evil", runtime="sklearn", signature=SIGNATURE, entry="model.joblib", trust=trust
    )
    write_model(folder, manifest)
    with pytest.raises(NotTrusted, match="--trust-code"):
        open_runtime(folder)
    with pytest.raises(NotTrusted, match="--trust-code"):
        load_file(folder / "model.joblib", trust_code=False)
    assert not mark.exists()
    with pytest.raises(InvalidModel, match="cannot predict"):
        open_runtime(folder, trust_code=True)
    assert mark.exists()


def test_a_pickle_that_was_changed_does_not_run(tmp_path: Path) -> None:
    """Trust is in the bytes that were packaged: changed ones do not run."""
    folder, mark = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    joblib.dump({}, folder / "model.joblib")
    manifest = ModelManifest(
        name="evil", runtime="sklearn", signature=SIGNATURE, entry="model.joblib", trust="code"
    )
    write_model(folder, manifest)
    joblib.dump(Evil(mark), folder / "model.joblib")
    with pytest.raises(Corrupted):
        open_runtime(folder, trust_code=True)
    assert not mark.exists()


def test_a_pickle_in_the_onnx_runtime_is_only_bytes(folder: Path, tmp_path: Path) -> None:
    """A pickle that calls itself ONNX is refused, not run."""
    joblib.dump(Evil(tmp_path / "ran"), folder / "model.onnx")
    rehash(folder)
    with pytest.raises(InvalidModel):
        open_runtime(folder, trust_code=True)
    assert not (tmp_path / "ran").exists()


def test_the_original_needs_trust(digits: Any) -> None:
    """The estimator beside a compiled model is code, and is never loaded with it."""
    open_runtime(digits.folder).close()
    with pytest.raises(NotTrusted):
        open_runtime(digits.folder / ORIGINAL)


def test_content_is_what_answers(folder: Path, tmp_path: Path) -> None:
    """Packaged again, it is the same content; with another option, signature or byte, it is not."""
    first = read_manifest(folder)
    again = package_onnx(tmp_path / "doubled.onnx", "other", tmp_path / "again")
    assert again.content_sha256 == first.content_sha256
    named = msgspec.structs.replace(first, metrics={"auc": 1.0}, latency=None, lineage={"run": "r"})
    assert named.content_sha256 == first.content_sha256
    for changed in (
        msgspec.structs.replace(first, runtime_options={"a": 1}),
        msgspec.structs.replace(first, signature=Signature(SIGNATURE.inputs, SIGNATURE.inputs)),
        msgspec.structs.replace(first, files={"model.onnx": "0" * 64}),
    ):
        assert changed.content_sha256 != first.content_sha256


def test_a_folder_with_doubtful_names_is_not_written(folder: Path) -> None:
    """What could not be read again is not written."""
    shutil.copy(folder / "model.onnx", folder / "a model.onnx")
    with pytest.raises(InvalidModel, match=r"'a model\.onnx'.*not allowed"):
        write_model(folder, read_manifest(folder))
