"""What a process that runs a model's code is given, set before any of that code is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

_M_ARENA_MAX = -8
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_MAX_FILES = 1024
_SHOWN = "CUDA_VISIBLE_DEVICES"


def set_threads(threads: int) -> None:
    """Bounds the threads of numeric libraries; must come before they are imported."""
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))


def show_device(device: str) -> None:
    """Makes a GPU the only one that CUDA's libraries see; must come before they are loaded.

    Args:
        device: "cpu", which changes nothing; "cuda", the first one; or "cuda:N".
    """
    if device != "cpu":
        os.environ[_SHOWN] = visible_device(device, os.environ.get(_SHOWN))


def visible_device(device: str, shown: str | None) -> str:
    """Returns what ``CUDA_VISIBLE_DEVICES`` must be for a device; empty if it is none of those.

    Args:
        device: "cuda", the first one; or "cuda:N".
        shown: what the variable is: N counts among the devices that it lists.

    Example:
        >>> visible_device("cuda:1", None), visible_device("cuda:1", "2,5")
        ('1', '5')
    """
    number = int(device.partition(":")[2] or 0)
    if shown is None:
        return str(number)
    names = [name.strip() for name in shown.split(",")]
    return names[number] if number < len(names) else ""


def keep_mlflow_quiet() -> None:
    """Has MLflow tell nobody that it runs; must come before it is imported."""
    os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"})


def die_with_parent(parent: int) -> None:
    """Makes the system kill this process when its parent dies; exits if that happened already."""
    _follow(parent, signal.SIGKILL)


def end_with_parent(parent: int) -> None:
    """Has this process asked to stop when its parent dies; exits if that happened already.

    It finishes what its connections wait for, as whenever it is asked; they end soon, too.
    """
    _follow(parent, signal.SIGTERM)


def _follow(parent: int, told: signal.Signals) -> None:
    _prctl(_PR_SET_PDEATHSIG, told)
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


def limit() -> None:
    """Takes away what a model never needs: core dumps, new privileges, many files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def share_heap() -> None:
    """Has all threads share one heap: each of its own keeps what a thread once needed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def trim_memory() -> None:
    """Gives back to the system what loading a model took for a while and the heap still holds."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(option, value, 0, 0, 0):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({option}): {os.strerror(number)}")
