"""Whether the GPU that a worker was shown is there: asked of the driver, whatever the framework."""

from __future__ import annotations

import ctypes

from tidemill_worker.functions import FunctionError

_DRIVER = "libcuda.so.1"


class Unavailable(FunctionError):  # noqa: N818 - as the error is called that it becomes
    """The device is not there."""


def check_device(device: str) -> None:
    """Does nothing where the device can be used.

    Args:
        device: "cpu", or a GPU that ``show_device`` has made the only one here.

    Raises:
        Unavailable: there is no driver, or no such GPU.
    """
    if device == "cpu":
        return
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise _missing(device, f"this machine has no driver of NVIDIA's ({_DRIVER})") from error
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code or count.value < 1:
        raise _missing(device, f"CUDA finds none of that number (code {code})")


def _missing(device: str, why: str) -> Unavailable:
    return Unavailable(
        f"device {device!r} is not there: {why}",
        remedy='Name one that nvidia-smi lists, or set device = "cpu" in the plan.',
    )
