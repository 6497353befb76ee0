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
_NEEDED_PREFIXES = (
    "LC_",
    "PYTHON",
    "OMP_",
    "OPENBLAS_",
    "MKL_",
    "CUDA_",
    "NVIDIA_",
    "ORT_",
    "PYTORCH_",
)

_FOR_INSTALLERS = frozenset(
    {
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "XDG_CONFIG_HOME"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_DIRS"),
    }
)


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


def installer_environment(*, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns what uv and pip are given: how this machine reaches its package index, on top.

    Example:
        >>> installer_environment(environ={"PIP_INDEX_URL": "there", "AWS_SECRET_ACCESS_KEY": "x"})
        {'PIP_INDEX_URL': 'there'}
    """
    source = os.environ if environ is None else environ
    needed = child_environment(environ=source)
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        needed.pop(name, None)
    reaching = {
        name: value
        for name, value in source.items()
        if name.upper() in _FOR_INSTALLERS or name.startswith(("PIP_", "UV_"))
    }
    return {**needed, **reaching}


def set_for_libraries(values: Mapping[str, str]) -> None:
    """Sets variables of this process that a library reads when it starts, unless they are set.

    Example:
        >>> set_for_libraries({"TIDEMILL_DOC": "1"})
        >>> set_for_libraries({"TIDEMILL_DOC": "2"})
        >>> os.environ.pop("TIDEMILL_DOC")
        '1'
    """
    for name, value in values.items():
        os.environ.setdefault(name, value)
