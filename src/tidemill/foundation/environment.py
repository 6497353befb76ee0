"""The environment that processes started here get: what they need, and no secret of this one."""

from __future__ import annotations

import os
from collections.abc import Mapping

_NEEDED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE", "TERM"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "MALLOC_ARENA_MAX"),
    }
)
_NEEDED_PREFIXES = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "CUDA_", "NVIDIA_", "ORT_")


def child_environment(
    extra: Mapping[str, str] = {}, *, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Returns what a child process is given of this process's environment, and ``extra``.

    Only what is known to be needed goes through: settings, keys and passwords stay here.

    Example:
        >>> child_environment({"A": "1"}, environ={"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x"})
        {'PATH': '/bin', 'A': '1'}
    """
    source = os.environ if environ is None else environ
    kept = {
        name: value
        for name, value in source.items()
        if name in _NEEDED or name.startswith(_NEEDED_PREFIXES)
    }
    return {**kept, **extra}
