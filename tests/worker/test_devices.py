"""A worker is shown one GPU, and says at once if it is not there."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest

from tidemill_worker import devices
from tidemill_worker.devices import Unavailable, check_device
from tidemill_worker.process import show_device, visible_device

SHOWN = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("device", "shown", "visible"),
    [
        ("cuda", None, "0"),
        ("cuda:3", None, "3"),
        ("cuda", "4,7", "4"),
        ("cuda:1", "4, 7", "7"),
        ("cuda:1", "GPU-8f,MIG-2c", "MIG-2c"),
        ("cuda:2", "4,7", ""),
        ("cuda:0", "", ""),
    ],
)
def test_one_gpu_is_shown(device: str, shown: str | None, visible: str) -> None:
    """Numbers count among those that the server itself was shown; another shows none."""
    assert visible_device(device, shown) == visible


def test_the_environment_says_so_to_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on the CPU leaves the variable alone; one on a GPU sets it."""
    monkeypatch.setenv(SHOWN, "5,6")
    show_device("cpu")
    assert os.environ[SHOWN] == "5,6"
    show_device("cuda:1")
    assert os.environ[SHOWN] == "6"


class Driver:
    """What NVIDIA's driver answers: a code for each call, and how many GPUs there are."""

    def __init__(self, *, init: int = 0, count: int = 0, gpus: int = 1) -> None:
        self.codes = (init, count)
        self.gpus = gpus

    def cuInit(self, flags: int) -> int:  # noqa: N802 - its name
        assert flags == 0
        return self.codes[0]

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return self.codes[1]


def test_a_gpu_that_the_driver_shows_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is enough: it is the one."""
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Driver())
    check_device("cuda:3")


@pytest.mark.parametrize("driver", [Driver(init=100), Driver(count=3), Driver(gpus=0)])
def test_a_gpu_that_it_does_not_show_is_refused(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the driver says against it, the device and the setting are named."""
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(Unavailable, match=r"'cuda:3' is not there.*CUDA finds none") as caught:
        check_device("cuda:3")
    assert "plan" in caught.value.remedy


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is always there."""

    def absent(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(devices.ctypes, "CDLL", absent)
    check_device("cpu")
    with pytest.raises(Unavailable, match=r"'cuda' is not there.*no driver"):
        check_device("cuda")
