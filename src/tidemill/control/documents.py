"""The document of applications: TOML (or JSON) that says, whole or in part, what is to be live.

What a document leaves out stays as it is. ``"none"`` takes away what an application may lack.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.names import check_name, nearest
from tidemill.foundation.toml import toml_key, toml_value
from tidemill.models.signature import Column, Signature
from tidemill.serving.plan import Deployment, Policy, ServingPlan, SinglePolicy, WeightedPolicy

MAX_BYTES = 4 << 20
"""A larger document is no document of applications."""

MAX_APPLICATIONS = 1000

_POLICIES = {"single": SinglePolicy, "weighted": WeightedPolicy}


class VersionEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that is linked: by number, or by the alias that points at it now.

    Without a table it keeps the one that it had in this application, if any.
    """

    model: str
    version: int | None = None
    alias: str | None = None
    weight: float = 1.0
    table: str | UnsetType = UNSET


class ApplicationEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a document says of one application; what is unset stays as it is.

    ``head_keys`` is how many of its most frequent keys a table is to answer: it is built
    before the rest is declared (``control.planned``); 0 takes the tables away.
    """

    slo_ms: float | UnsetType = UNSET
    default: dict[str, Any] | Literal["none"] | UnsetType = UNSET
    key: tuple[str, ...] | UnsetType = UNSET
    represent: dict[str, str] | UnsetType = UNSET
    policy: Policy | UnsetType = UNSET
    signature: Signature | Literal["none"] | UnsetType = UNSET
    versions: tuple[VersionEntry, ...] | UnsetType = UNSET
    plan: dict[str, Any] | UnsetType = UNSET
    max_age_s: float | Literal["none"] | UnsetType = UNSET
    head_keys: int | UnsetType = UNSET


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is declared, by application."""

    applications: dict[str, ApplicationEntry]


def read_document(text: bytes, *, origin: str) -> Document:
    """Reads a document in TOML.

    Raises:
        InvalidInput: it is no TOML, has an unknown key, or a value of another type; with its path.
    """
    if len(text) > MAX_BYTES:
        raise InvalidInput(f"{origin} is over {MAX_BYTES} bytes", remedy="Apply it in parts.")
    try:
        tables = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{origin} cannot be read: {error}", remedy="Mend it.") from error
    return parse_document(tables, origin=origin)


def parse_document(tables: Mapping[str, Any], *, origin: str) -> Document:
    """Reads a document from tables; see ``read_document``."""
    _check_keys(tables, ("applications",), "", origin)
    applications = _table(tables.get("applications", {}), "applications", origin)
    if len(applications) > MAX_APPLICATIONS:
        raise InvalidInput(
            f"{origin} has {len(applications)} applications",
            remedy=f"Apply at most {MAX_APPLICATIONS} at once.",
        )
    return Document(
        applications={name: _entry(name, value, origin) for name, value in applications.items()}
    )


def show_document(deployments: Iterable[Deployment]) -> str:
    """Returns deployments as TOML; applied again, it changes nothing."""
    parts = []
    for each in deployments:
        path = f"applications.{toml_key(each.application)}"
        fields = document_of(each)
        plan = fields.pop("plan")
        lines = [f"[{path}]"]
        for name, value in fields.items():
            if name == "versions" and value:
                rows = "".join(f"  {toml_value(version)},\n" for version in value)
                lines.append(f"versions = [\n{rows}]")
            else:
                lines.append(f"{name} = {toml_value(value)}")
        lines += ["", f"[{path}.plan]"]
        lines += [f"{name} = {toml_value(value)}" for name, value in plan.items()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def document_of(deployment: Deployment) -> dict[str, Any]:
    """Returns a deployment as a document says it; what it lacks is left out.

    Example:
        >>> document_of(Deployment(application="a", revision=3, versions=()))["policy"]
        {'kind': 'weighted'}
    """
    fields: dict[str, Any] = _without_none(msgspec.to_builtins(deployment))
    del fields["application"], fields["revision"]
    versions = fields.pop("versions")
    plan = fields.pop("plan")
    return {**fields, "versions": versions, "plan": plan}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value


def _entry(name: str, value: Any, origin: str) -> ApplicationEntry:
    check_name("application", name)
    path = f"applications.{name}"
    fields = _table(value, path, origin)
    _check_keys(fields, ApplicationEntry.__struct_fields__, path, origin)
    _check_inner(fields, path, origin)
    try:
        return msgspec.convert(fields, ApplicationEntry)
    except msgspec.ValidationError as error:
        said = re.sub(r" - at `\$(.*)`$", lambda at: f" - at {path}{at[1]}", str(error))
        raise InvalidInput(f"{origin}: {said}", remedy="Correct it.") from error


def _check_inner(fields: Mapping[str, Any], path: str, origin: str) -> None:
    """Finds keys that nobody knows inside the tables of an application."""
    plan, policy, signature = (fields.get(name) for name in ("plan", "policy", "signature"))
    if isinstance(plan, dict):
        _check_keys(plan, ServingPlan.__struct_fields__, f"{path}.plan", origin)
    if isinstance(policy, dict):
        kind = policy.get("kind")
        if kind not in _POLICIES:
            raise InvalidInput(
                f"{origin}: {path}.policy.kind is {kind!r}"[:300],
                remedy=nearest(str(kind), _POLICIES),
            )
        known = ("kind", *_POLICIES[kind].__struct_fields__)
        _check_keys(policy, known, f"{path}.policy", origin)
    if isinstance(signature, dict):
        _check_keys(signature, Signature.__struct_fields__, f"{path}.signature", origin)
        for side in Signature.__struct_fields__:
            _check_rows(signature.get(side), Column, f"{path}.signature.{side}", origin)
    _check_rows(fields.get("versions"), VersionEntry, f"{path}.versions", origin)


def _check_rows(rows: Any, kind: type[msgspec.Struct], path: str, origin: str) -> None:
    for at, row in enumerate(rows if isinstance(rows, list) else ()):
        if isinstance(row, dict):
            _check_keys(row, kind.__struct_fields__, f"{path}[{at}]", origin)


def _check_keys(table: Mapping[str, Any], known: Iterable[str], path: str, origin: str) -> None:
    for key in table:
        if key not in set(known):
            raise InvalidInput(
                f"{origin}: {path + '.' if path else ''}{key[:100]} is unknown",
                remedy=nearest(key, known),
            )


def _table(value: Any, path: str, origin: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{origin}: {path} is no table", remedy=f"Write it as [{path}].")
    return value
