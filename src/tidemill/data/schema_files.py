"""Schemas in files: TOML, or TFX's ``schema.pbtxt``."""

from __future__ import annotations

from pathlib import Path

from tidemill.data.schema import Schema
from tidemill.data.tfx_schema import schema_from_pbtxt
from tidemill.foundation.errors import InvalidInput, NotFound

TFX_SUFFIXES = {".pbtxt", ".textproto", ".txtpb"}


def read_schema(path: Path) -> Schema:
    """Returns the schema in a file: TFX's if its name ends like one of theirs, else TOML.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it isn't a schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"schema file {path} does not exist", remedy="Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"schema file {path} cannot be read", remedy=str(error)) from error
    if path.suffix.lower() in TFX_SUFFIXES:
        return schema_from_pbtxt(text, origin=str(path))
    return Schema.from_toml(text, origin=str(path))
