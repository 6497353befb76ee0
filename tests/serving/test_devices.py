"""A PyTorch model from its file to its answers, and the device that a plan names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tidemill.control.applications import apply
from tidemill.control.documents import read_document
from tidemill.control.pushing import push
from tidemill.foundation.errors import InvalidInput, InvalidModel, NotTrusted
from tidemill.models.format import ModelManifest
from tidemill.models.signature import Column, Signature
from tidemill.serving.placement import decide_placement, spread
from tidemill.serving.plan import ServingPlan

NOWHERE = "cuda:99"
WHO: dict[str, Any] = {"by": "tests", "reason": "a test"}


@pytest.fixture(scope="module")
def net() -> Any:
    """A line over three numbers."""
    torch.manual_seed(1)
    return torch.nn.Linear(3, 2).eval()


@pytest.fixture(scope="module")
def files(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The line as an exported program, and its weights alone."""
    folder = tmp_path_factory.mktemp("net")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own next release
        program = torch.export.export(
            net, (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(program, folder / "line.pt2")
    torch.save(net.state_dict(), folder / "weights.pt")
    return folder


def answers(server: Any, application: str, rows: list[list[float]]) -> Any:
    """Returns the predictions of an application."""
    with server.client() as client:
        said = client.post(f"/v1/models/{application}:predict", json={"instances": rows})
        return said.raise_for_status().json()["predictions"]


def test_a_pytorch_file_is_pushed_and_answers(server: Any, files: Path, net: Any) -> None:
    """As it is, in a worker; then compiled, in the gateways: the same numbers."""
    rows = [[0.5, -1.0, 2.0], [3.0, 0.0, 0.25]]
    with torch.inference_mode():
        wanted = net(torch.tensor(rows)).flatten().tolist()
    told: dict[str, Any] = {"trust_code": True, "by": "tests"}
    for name, compiles in (("line-as-is", False), ("line-compiled", True)):
        with pytest.raises(NotTrusted, match="a PyTorch file"):
            push(server.home, files / "line.pt2", name, trust_code=False, by="tests")
        done = push(server.home, files / "line.pt2", name, compiles=compiles, **told)
        assert done.model.compiled == compiles
        assert done.model.runtime == ("onnx" if compiles else "torch")
        server.until(
            lambda: server.health()["applications"].get(name, 0) >= done.revision,  # noqa: B023
            "the model is live",
            within_s=90,
        )
        got = [value for row in answers(server, name, rows) for value in row]
        assert got == pytest.approx(wanted, abs=1e-5)
        devices = [w["device"] for w in server.health()["workers"] if w["application"] == name]
        assert devices == ([] if compiles else ["cpu"])


def test_weights_alone_are_refused(server: Any, files: Path) -> None:
    """What torch.save wrote is not loaded, though its code is trusted."""
    with pytest.raises(InvalidModel, match=r"torch\.export\.save"):
        push(server.home, files / "weights.pt", "weights", trust_code=True, by="tests")


def test_a_gpu_that_is_not_there_changes_nothing(server: Any, files: Path, net: Any) -> None:
    """The revision is refused and says why; what was live answers on, from where it was."""
    push(server.home, files / "line.pt2", "gpu", compiles=False, trust_code=True, by="tests")
    server.until(lambda: "gpu" in server.health()["applications"], "it is live", within_s=90)
    document = f'[applications.gpu.plan]\ndevice = "{NOWHERE}"\n'
    apply(server.home, read_document(document.encode(), origin="a.toml"), **WHO)

    def refusal() -> str:
        said = [each for each in server.health()["refused"] if each["application"] == "gpu"]
        return said[0]["reason"] if said else ""

    server.until(lambda: bool(refusal()), "the device is refused", within_s=60)
    assert f"device '{NOWHERE}' is not there" in refusal()
    rows = [[1.0, 2.0, 3.0]]
    with torch.inference_mode():
        (wanted,) = net(torch.tensor(rows)).tolist()
    assert answers(server, "gpu", rows)[0] == pytest.approx(wanted, abs=1e-5)
    workers = [each for each in server.health()["workers"] if each["application"] == "gpu"]
    assert [each["device"] for each in workers] == ["cpu"]
    back = b'[applications.gpu.plan]\ndevice = "cpu"\n'
    apply(server.home, read_document(back, origin="a.toml"), **WHO)
    server.until(lambda: not refusal(), "the refusal is forgotten", within_s=60)


def test_a_device_is_checked_where_it_is_declared(server: Any, files: Path) -> None:
    """What is no device's name, or a GPU for what cannot use one, is written nowhere."""
    for device in ("gpu", "cuda:", "cuda:0,cpu", "cuda:0, cuda:1", "CUDA"):
        document = f'[applications.digits.plan]\ndevice = "{device}"\n'
        with pytest.raises(InvalidInput, match="known are cpu, cuda, cuda:N") as caught:
            apply(server.home, read_document(document.encode(), origin="a.toml"), **WHO)
        assert "applications.digits.plan" in str(caught.value)
    document = '[applications.slow.plan]\ndevice = "cuda"\n'
    with pytest.raises(InvalidInput, match=r"'slow' \(sklearn\) cannot be placed on 'cuda'"):
        apply(server.home, read_document(document.encode(), origin="a.toml"), **WHO)


def manifest(runtime: str, **fields: Any) -> ModelManifest:
    """Returns the manifest of some model of a runtime."""
    columns = (Column("x", "float32"),)
    return ModelManifest(
        name="m",
        runtime=runtime,
        signature=Signature(columns, columns),
        entry="model",
        trust="code",
        **fields,
    )


def test_what_is_on_a_gpu_is_in_a_worker() -> None:
    """And PyTorch always is: its threads are those of a whole process. So are functions."""
    inside = ServingPlan(placement="gateway")
    assert decide_placement(inside, manifest("onnx")) == "gateway"
    assert decide_placement(msgspec.structs.replace(inside, device="cuda"), manifest("onnx")) == (
        "worker"
    )
    assert decide_placement(inside, manifest("torch")) == "worker"
    assert decide_placement(inside, manifest("python")) == "worker"
    assert decide_placement(ServingPlan(device="cuda:1"), manifest("torch")) == "worker"
    for runtime in ("sklearn", "remote"):
        with pytest.raises(InvalidInput, match=rf"\({runtime}\) cannot be placed on 'cuda'"):
            decide_placement(ServingPlan(device="cuda"), manifest(runtime))


def test_replicas_are_spread_over_gpus() -> None:
    """The GPU with the fewest gets the next one, those that run already counted."""
    devices = ServingPlan(device="cuda:0,cuda:2").devices
    assert devices == ("cuda:0", "cuda:2")
    assert spread(devices, [], 3) == ["cuda:0", "cuda:2", "cuda:0"]
    assert spread(devices, ["cuda:0", "cuda:2", "cuda:0"], 2) == ["cuda:2", "cuda:0"]
    assert spread(devices, ["cuda:2"], 1) == ["cuda:0"]
    assert spread(("cpu",), ["cpu"], 2) == ["cpu", "cpu"]
