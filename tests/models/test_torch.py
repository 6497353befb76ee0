"""PyTorch's files: what they say of themselves, what is refused unread, and what compiles."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tidemill.foundation.errors import (
    InvalidInput,
    InvalidModel,
    ModelFailed,
    NotTrusted,
    Unavailable,
)
from tidemill.foundation.home import Home
from tidemill.models.format import ORIGINAL, read_manifest, write_model
from tidemill.models.kinds import find_kind
from tidemill.models.packagers.torch import package_torch
from tidemill.models.packaging import Given
from tidemill.models.runtime import open_runtime
from tidemill.models.runtimes.torch import TorchRuntime, form_of, named
from tidemill.models.signature import Batch, Column, Signature
from tidemill.recipes.push import push_model

OUTPUTS = (Column("label", "int64"), Column("probabilities", "float32", (3,)))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_an_exported_program_says_its_columns(exported: Any, tmp_path: Path) -> None:
    """Inputs are those of the program, outputs what it answers; compiled, the original is kept."""
    assert find_kind(exported.path).trust == "code"
    manifest = package_torch(exported.path, "net", tmp_path / "net", Given())
    assert manifest.signature.inputs == (Column("x", "float32", (16,)), Column("kind", "int64"))
    assert manifest.signature.outputs == OUTPUTS
    assert (manifest.runtime, manifest.trust) == ("onnx", "data")
    assert manifest.compiled_from
    assert manifest.compiled_from.rows == 256
    assert manifest.compiled_from.rows_from == "probes"
    original = read_manifest(tmp_path / "net" / ORIGINAL)
    assert (original.runtime, original.trust) == ("torch", "code")
    assert (tmp_path / "net" / ORIGINAL / original.entry).read_bytes() == exported.path.read_bytes()
    again = package_torch(exported.path, "net", tmp_path / "again", Given())
    assert again.content_sha256 == manifest.content_sha256  # nothing of the day in it


def test_torchscript_needs_to_be_told(script: Any, tmp_path: Path) -> None:
    """It does not say the shapes of its inputs: without a signature it is refused, with help."""
    with pytest.raises(InvalidModel, match=r"\(x, kind\).*--signature"):
        package_torch(script.path, "net", tmp_path / "a", Given())
    rows = {name: array[:50] for name, array in script.rows.items()}
    given = Given(signature=script.signature, rows=lambda _: rows)
    manifest = package_torch(script.path, "net", tmp_path / "b", given)
    assert manifest.runtime == "onnx"
    assert manifest.compiled_from
    assert (manifest.compiled_from.rows, manifest.compiled_from.rows_from) == (50, "evaluation")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_sample_tells_the_one_input_of_torchscript(tmp_path: Path) -> None:
    """Its shape is the sample's, its type that of the weights; the outputs are what comes."""
    path = tmp_path / "line.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(4, 1)), path)
    rows = np.random.default_rng(0).normal(size=(20, 4))
    given = Given(rows=lambda told: {told.inputs[0].name: rows})
    manifest = package_torch(path, "line", tmp_path / "line", given)
    assert manifest.signature == Signature(
        (Column("input", "float32", (4,)),), (Column("value", "float32", (1,)),)
    )


def test_it_has_no_requirements_of_its_own(exported: Any, home: Home, tmp_path: Path) -> None:
    """It is no function or estimator: said before anything is locked."""
    (tmp_path / "requirements.txt").write_text("humanize==4.9.0")
    with pytest.raises(InvalidModel, match="a PyTorch file, and cannot have requirements"):
        push_model(
            home,
            exported.path,
            "net",
            trust_code=True,
            requirements=tmp_path / "requirements.txt",
        )


def test_one_that_is_to_stay_is_not_compiled(exported: Any, tmp_path: Path) -> None:
    """Asked not to compile, the model is served as it is, and its record says why."""
    manifest = package_torch(exported.path, "net", tmp_path / "net", Given(compiles=False))
    assert (manifest.runtime, manifest.trust) == ("torch", "code")
    assert manifest.compiled_from
    assert manifest.compiled_from.reason == "it was to be served as it is"
    with pytest.raises(NotTrusted):
        open_runtime(tmp_path / "net")


def test_what_cannot_be_compiled_is_served_as_it_is(
    make_net: Any, export_net: Any, tmp_path: Path
) -> None:
    """An operator that ONNX has not: the reason is in the record, and the model answers."""

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x).sum(1) + kind

    export_net(Odd(), tmp_path / "odd.pt2")
    manifest = package_torch(tmp_path / "odd.pt2", "odd", tmp_path / "odd", Given())
    assert manifest.runtime == "torch"
    assert manifest.compiled_from
    assert not manifest.compiled_from.equal
    assert manifest.compiled_from.reason
    runtime = open_runtime(tmp_path / "odd", trust_code=True)
    zeros = {"x": np.zeros((2, 16), np.float32), "kind": np.array([3, 4])}
    assert runtime.predict(zeros)["value"].tolist() == [19.0, 20.0]
    runtime.close()


def test_a_bound_on_the_batch_is_kept(make_net: Any, export_net: Any, tmp_path: Path) -> None:
    """A program for at most 32 rows answers 100, in parts."""
    batch = torch.export.Dim("batch", max=32)
    net = make_net().eval()
    export_net(net, tmp_path / "net.pt2", dynamic_shapes={"x": {0: batch}, "kind": {0: batch}})
    package_torch(tmp_path / "net.pt2", "net", tmp_path / "net", Given(compiles=False))
    runtime = open_runtime(tmp_path / "net", trust_code=True)
    x = np.random.default_rng(1).normal(size=(100, 16)).astype(np.float32)
    answer = runtime.predict({"x": x, "kind": np.zeros(100, np.int64)})
    with torch.inference_mode():
        wanted = net(torch.tensor(x), torch.zeros(100, dtype=torch.int64))
    np.testing.assert_allclose(answer["probabilities"], wanted["probabilities"], atol=1e-6)
    runtime.close()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_never_loaded(tmp_path: Path, *, zipped: bool) -> None:
    """A module or weights from torch.save: the error says how to export, and nothing has run."""
    path, sprung = tmp_path / "net.pt", tmp_path / "sprung"
    torch.save({"weights": Trap(sprung)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidModel, match=r"pickle.*torch\.export\.save") as caught:
        package_torch(path, "net", tmp_path / "net", Given())
    assert "torch.jit.script" in str(caught.value)
    assert not sprung.exists()


def test_a_folder_with_a_pickle_is_refused_too(home: Home, exported: Any, tmp_path: Path) -> None:
    """A folder made by hand, whatever its manifest says: refused before it is registered."""
    manifest = package_torch(exported.path, "net", tmp_path / "net", Given(compiles=False))
    torch.save({"weights": Trap(tmp_path / "sprung")}, tmp_path / "net" / manifest.entry)
    write_model(tmp_path / "net", manifest)
    with pytest.raises(InvalidModel, match="pickled module"):
        push_model(home, tmp_path / "net", "net", trust_code=True)
    assert not (tmp_path / "sprung").exists()


def archive(*names: str) -> bytes:
    """Returns a zip archive of these empty files."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as made:
        for name in names:
            made.writestr(name, "")
    return written.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps({}), "a pickle"),
        (b"hello", "no archive"),
        (archive("a/b"), "no model that PyTorch saved"),
        (archive("net/data.pkl", "net/data/0"), "pickled module or its weights"),
        (archive(*(str(n) for n in range(100_001))), "100001 entries"),
    ],
)
def test_what_is_no_model_is_told(data: bytes, said: str) -> None:
    """By the names in the archive alone."""
    with pytest.raises(InvalidModel, match=said):
        form_of(data, "net.pt")


def test_a_damaged_file_is_told(exported: Any, script: Any, tmp_path: Path) -> None:
    """Cut short, or with its middle overwritten: an error of the model, whichever it is."""
    for saved in (exported, script):
        whole = saved.path.read_bytes()
        cut = tmp_path / f"cut{saved.path.suffix}"
        cut.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InvalidModel, match="damaged"):
            package_torch(cut, "net", tmp_path / "net", Given(signature=saved.signature))
        spoilt = tmp_path / f"spoilt{saved.path.suffix}"
        spoilt.write_bytes(whole[:60] + b"\0" * (len(whole) // 2) + whole[60 + len(whole) // 2 :])
        with pytest.raises(InvalidModel, match="cannot load"):
            package_torch(spoilt, "net", tmp_path / "net", Given(signature=saved.signature))


def test_a_batch_that_is_not_open_is_refused(
    make_net: Any, export_net: Any, tmp_path: Path
) -> None:
    """A fixed first dimension: the error says how to open it."""
    export_net(make_net().eval(), tmp_path / "net.pt2", dynamic_shapes=None)
    with pytest.raises(InvalidModel, match=r"fixed shape \(3, 16\).*dynamic_shapes"):
        package_torch(tmp_path / "net.pt2", "net", tmp_path / "net", Given())


def test_a_dropout_that_is_on_is_found(make_net: Any, export_net: Any, tmp_path: Path) -> None:
    """Exported for training, it answers otherwise each time: refused, with the word to say."""
    export_net(make_net(), tmp_path / "net.pt2")
    with pytest.raises(InvalidModel, match=r"model\.eval\(\)"):
        package_torch(tmp_path / "net.pt2", "net", tmp_path / "net", Given())


def test_a_signature_must_be_that_of_the_program(exported: Any, tmp_path: Path) -> None:
    """It may name columns otherwise, in order; it may not change their types."""
    inputs = (Column("features", "float32", (16,)), Column("index", "int64"))
    renamed = Signature(inputs, exported_outputs("class", "odds"))
    wrong = Signature((Column("x", "float64", (16,)), inputs[1]), OUTPUTS)
    with pytest.raises(InvalidModel, match="x float32"):
        package_torch(exported.path, "net", tmp_path / "a", Given(signature=wrong))
    with pytest.raises(InvalidModel, match="no 'class'"):
        package_torch(exported.path, "net", tmp_path / "b", Given(signature=renamed))
    fewer = Signature(inputs, OUTPUTS[1:])
    manifest = package_torch(exported.path, "net", tmp_path / "c", Given(signature=fewer))
    assert manifest.runtime == "onnx"
    runtime = open_runtime(tmp_path / "c")
    rows: Batch = {"features": exported.rows["x"], "index": exported.rows["kind"]}
    own = exported.own(exported.rows)["probabilities"]
    np.testing.assert_allclose(runtime.predict(rows)["probabilities"], own, atol=1e-5)


def exported_outputs(label: str, probabilities: str) -> tuple[Column, ...]:
    """Returns the outputs under other names."""
    return (Column(label, "int64"), Column(probabilities, "float32", (3,)))


def test_outputs_are_named_by_the_model_or_in_order() -> None:
    """Dictionaries and named tuples say their names; the others are counted, or are told."""
    one, two = torch.zeros(2), torch.ones(2)
    assert list(named({"a": one, "b": two})) == ["a", "b"]
    assert list(named((one, two))) == ["value_0", "value_1"]
    assert list(named([one, two], ["y", "z"])) == ["y", "z"]
    assert list(named(one)) == ["value"]
    with pytest.raises(InvalidModel, match="2 outputs, not 1"):
        named((one, two), ["y"])
    with pytest.raises(InvalidModel, match="is a str"):
        named({"a": "text"})


def test_numbers_that_numpy_has_not_come_as_float32(export_net: Any, tmp_path: Path) -> None:
    """An answer in bfloat16 is given as float32."""

    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
            return (x.sum(1) + kind).to(torch.bfloat16)

    export_net(Half(), tmp_path / "half.pt2")
    given = Given(compiles=False)
    manifest = package_torch(tmp_path / "half.pt2", "half", tmp_path / "half", given)
    assert manifest.signature.outputs == (Column("value", "float32"),)


def test_rows_of_a_sample_must_be_answered(exported: Any, tmp_path: Path) -> None:
    """An index beyond the model's table, in the sample: refused, and the sample is named."""
    rows = {"x": exported.rows["x"][:3], "kind": np.array([0, 99, 1])}
    with pytest.raises(InvalidModel, match=r"rows of the sample.*--sample"):
        package_torch(exported.path, "net", tmp_path / "net", Given(rows=lambda _: rows))
    with pytest.raises(InvalidInput, match="kind"):
        short = {"x": rows["x"]}
        package_torch(exported.path, "net", tmp_path / "net", Given(rows=lambda _: short))


@pytest.mark.parametrize(
    ("raised", "becomes", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), ModelFailed, "Lower max_batch"),
        (torch.AcceleratorError("CUDA error: illegal access"), SystemExit, "illegal access"),
        (RuntimeError("shapes do not fit"), InvalidInput, "shapes do not fit"),
    ],
)
def test_a_failing_device_is_not_the_callers_error(
    raised: Exception, becomes: type[BaseException], said: str
) -> None:
    """Too little memory is the model's failure; a GPU that failed ends the process that has it."""

    def module(x: torch.Tensor) -> torch.Tensor:
        raise raised

    columns = (Column("x", "float32"),)
    runtime = TorchRuntime(module, Signature(columns, columns))
    with pytest.raises(becomes, match=said):
        runtime.predict({"x": np.zeros(2, np.float32)})


def test_a_gpu_that_cannot_be_used_is_told(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No silent fall to the CPU: neither PyTorch nor ONNX Runtime opens the model there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    package_torch(exported.path, "net", tmp_path / "net", Given())
    with pytest.raises(Unavailable, match=r"PyTorch .* cannot use 'cuda:1' here"):
        open_runtime(tmp_path / "net" / ORIGINAL, trust_code=True, device="cuda:1")
    with pytest.raises(Unavailable, match=r"ONNX Runtime cannot use 'cuda:1' here.*--no-compile"):
        open_runtime(tmp_path / "net", device="cuda:1")
