"""What would change, field by field: from one deployment to another, purely."""

from __future__ import annotations

from typing import Any

import msgspec

from tidemill.control.documents import document_of
from tidemill.serving.plan import Deployment


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One field that differs; None stands for what is not there."""

    path: str
    old: Any
    new: Any


def differences(before: Deployment | None, after: Deployment) -> tuple[Difference, ...]:
    """Returns the fields that differ, in the document's order; all of them for a new application.

    Example:
        >>> old = Deployment(application="a", revision=1, versions=())
        >>> differences(old, msgspec.structs.replace(old, slo_ms=20.0))
        (Difference(path='slo_ms', old=100.0, new=20.0),)
    """
    was = {} if before is None else _fields(before)
    will_be = _fields(after)
    paths = [*will_be, *(path for path in was if path not in will_be)]
    return tuple(
        Difference(path=path, old=was.get(path), new=will_be.get(path))
        for path in paths
        if was.get(path) != will_be.get(path)
    )


def _fields(deployment: Deployment) -> dict[str, Any]:
    """Returns a document's fields by dotted path; versions stand under their model and number."""
    document = document_of(deployment)
    document["versions"] = {
        f"{each.pop('model')}:{each.pop('version')}": each for each in document["versions"]
    }
    return dict(_flat("", document))


def _flat(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [
            found
            for name, inner in value.items()
            for found in _flat(f"{path}.{name}" if path else name, inner)
        ]
    if value in ({}, []):
        return []
    return [(path, value)]
