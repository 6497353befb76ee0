"""Imports without what they drag along: memory and time that nothing would ever be done with."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def import_without(name: str, *absent: str) -> ModuleType:
    """Imports a module as if others were not installed, which it can do without.

    Some libraries import others only because they are there. Who needs those imports them later, as
    ever; one that is imported already stays.

    Example:
        >>> import_without("json.tool", "argparse_of_nobody").__name__
        'json.tool'
    """
    if name in sys.modules:  # nothing is left to hide, even for a moment, from other threads
        return importlib.import_module(name)
    hidden = [each for each in absent if each not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        return importlib.import_module(name)
    finally:
        for each in hidden:
            del sys.modules[each]
