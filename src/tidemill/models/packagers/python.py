"""Python functions as model folders: their sources, and the columns that they tell.

Nothing of a function is imported here: an interpreter of its own loads it, asks it and measures.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.foundation.errors import InvalidModel
from tidemill.models.format import ModelManifest
from tidemill.models.packagers.tried import package_tried
from tidemill.models.packaging import Given, Taken, made_with
from tidemill.models.signature import Signature
from tidemill.models.sources import Sources, find_sources
from tidemill.models.trying import try_in
from tidemill_worker.functions import CODE


def package_function(path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of a function, to be served among Tidemill's own libraries.

    It must answer the rows given, or a made-up one.
    """
    wanted = made_with("numpy")
    return package_tried(take_function, path, name, folder, given, requirements=wanted)


def take_function(python: Path, path: Path, folder: Path, given: Given) -> Taken:
    """Copies a function's sources into a model folder and finds its columns.

    Args:
        python: the interpreter of the environment that it will be served in.
        path: the function; see ``find_sources``.
        folder: the model's.
        given: its signature is taken if there is one.

    Raises:
        InvalidModel: there is no such function, too much beside it, it does not load, or its
            columns are told neither by it nor by what is given.
    """
    sources = find_sources(path)
    sources.copy(folder / CODE)
    entry, signature = _entry(sources), given.signature
    if signature is None:
        said = try_in(python, "describe-function", str(folder / CODE), sources.reference)
        signature = Signature.from_json(msgspec.json.encode(said["signature"]))
    return Taken(
        runtime="python",
        entry=entry,
        signature=signature,
        options={"function": sources.reference},
    )


def _entry(sources: Sources) -> str:
    module = sources.reference.partition(":")[0].replace(".", "/")
    for place in (Path(f"{module}.py"), Path(module, "__init__.py")):
        if place in sources.files:
            return f"{CODE}/{place.as_posix()}"
    raise InvalidModel(f"module {module!r} has no source file in {str(sources.root)!r}")
