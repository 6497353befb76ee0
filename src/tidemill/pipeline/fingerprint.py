"""The fingerprint of a function's code: of it, and of all of its own project that it can reach.

Reached are the functions, classes and constants of the same top-level package (for code outside
of a package: of the same folder), through names, ``module.helper`` chains, imports inside of
functions, decorators, closures, default values, base classes and annotations. Of other
distributions the version counts. What cannot be seen: names made up at run time
(``getattr(module, name)``), and files that the code reads by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.pipeline.reach import Walk
from tidemill.pipeline.scope import scope_of, version_of
from tidemill.pipeline.tokens import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFingerprint:
    """What a function's result depends on, besides its arguments.

    Args:
        hash: 64 hexadecimal digits over all of the rest.
        parts: the hash of each reached function, class and constant by its qualified name.
        packages: the version of each distribution used directly, and of Python.
    """

    hash: str
    parts: Mapping[str, str]
    packages: Mapping[str, str]


def fingerprint(function: Callable[..., Any]) -> CodeFingerprint:
    """Returns the fingerprint of the code that the function runs.

    It is the same in every process with the same code, Python minor version and packages.
    Comments, docstrings and formatting do not count.

    Example:
        >>> def double(x: int) -> int:
        ...     return 2 * x
        >>> fingerprint(double).hash == fingerprint(double).hash
        True
    """
    walk = Walk(scope=scope_of(function))
    walk.reach(function)
    walk.finish()
    packages = {name: version_of(name) for name in sorted(walk.packages)}
    packages["python"] = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
    parts = dict(sorted(walk.parts.items()))
    return CodeFingerprint(hash=digest([parts, packages], 64), parts=parts, packages=packages)
