"""Models in joblib and pickle files, of whatever framework: loading one runs code that it names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tidemill.foundation.errors import InvalidModel, NotTrusted, Unavailable
from tidemill_worker.estimators import load_pickled
from tidemill_worker.functions import InvalidModel as PickleError

_EXTRAS = {"joblib": "sklearn", "sklearn": "sklearn", "river": "river"}


def load_file(path: Path, *, trust_code: bool) -> Any:
    """Returns what lies in a joblib or pickle file.

    Raises:
        NotTrusted: nobody vouched for it.
        InvalidModel: there is no such file, or it cannot be unpickled.
        Unavailable: a library that it names is not installed.
    """
    if not trust_code:
        raise NotTrusted(
            f"{str(path)!r} runs its maker's code when it is loaded",
            remedy="Say --trust-code if you trust who made it, or push an ONNX file instead.",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModel(f"{str(path)!r} cannot be read: {error.strerror}") from error
    return load_bytes(data, str(path))


def load_bytes(data: bytes, where: str) -> Any:
    """Returns what lies in the bytes of a joblib or pickle file; ``where`` names it in errors.

    Raises:
        InvalidModel: it cannot be unpickled.
        Unavailable: a library that it names is not installed.
    """
    try:
        return load_pickled(data)
    except PickleError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            raise needs(where, cause.name) from error
        if importlib.util.find_spec("joblib") is None:
            raise needs(where, "joblib") from error
        raise InvalidModel(
            f"{where!r} cannot be unpickled: {type(cause).__name__}: {str(cause)[:300]}",
            remedy="Use the versions of Python and of the libraries that it was made with.",
        ) from error


def needs(where: str, module: str) -> Unavailable:
    """Returns the error that asks for a library, by Tidemill's extra if there is one."""
    top = module.partition(".")[0]
    wanted = f"'tidemill[{_EXTRAS[top]}]'" if top in _EXTRAS else top
    return Unavailable(f"{where!r} needs {top}", remedy=f"pip install {wanted}.")
