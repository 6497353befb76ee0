"""What a step is given: first as hashes, which decide whether it runs; then as arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.pipeline.artifact import Artifact, Shelf, mark_of, source_sha256
from tidemill.pipeline.contract import Contract, element, wants_path
from tidemill.pipeline.lineage import InputRecord, Inputs
from tidemill.pipeline.step import Handle, Output, SourceFile, Step, is_many
from tidemill.pipeline.tokens import digest
from tidemill.pipeline.values import encode_value, preview

_FORMAT = 1  # of the key; another one makes every step run again


@dataclass(frozen=True, slots=True)
class Encoded:
    """An argument as bytes, decoded by the parameter's annotation where the step runs."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Located:
    """An argument that is a path."""

    path: Path


@dataclass(frozen=True, slots=True)
class Live:
    """An argument that is handed over as it is."""

    value: Any


@dataclass(frozen=True, slots=True)
class Many:
    """An argument that is a list of such."""

    parts: tuple[Encoded | Located | Live, ...]


Argument = Encoded | Located | Live | Many


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Finds what a step's inputs stand for.

    Args:
        step: whose inputs.
        contract: its types.
        artifacts: of the steps that it needs.
        shelf: where their files are.
    """

    step: Step
    contract: Contract
    artifacts: Mapping[str, Artifact]
    shelf: Shelf

    def records(self) -> Inputs:
        """Returns what each parameter is given, by hash; reads sources from outside.

        Raises:
            NotFound: a source file or an output's item is not there.
        """
        return {
            name: tuple(self._record(one, name, wanted) for one, wanted in self._each(name))
            for name in sorted(self.step.inputs)
        }

    def arguments(self, folder: Path) -> dict[str, Argument]:
        """Returns what the function is called with.

        Args:
            folder: an empty one, in which the files of other steps are laid out.
        """
        return {name: self._argument(name, folder / name) for name in self.step.inputs}

    def marks(self) -> dict[Path, Any]:
        """Returns the modification marks of the sources from outside."""
        found: dict[Path, Any] = {}
        for name in self.step.inputs:
            for one, _ in self._each(name):
                if isinstance(one, SourceFile):
                    inside = one.path.rglob("*") if one.path.is_dir() else (one.path,)
                    found[one.path] = [mark_of(path) for path in sorted(inside) if path.is_file()]
        return found

    def _each(self, name: str) -> list[tuple[Any, Any]]:
        value, wanted = self.step.inputs[name], self.contract.parameters[name]
        if is_many(value):
            return [(one, element(wanted)) for one in value]
        return [(value, wanted)]

    def _record(self, value: Any, name: str, wanted: Any) -> InputRecord:
        match value:
            case Handle():
                return InputRecord(kind="handle", hash="", shown=type(value.value).__name__)
            case SourceFile(path):
                named = digest([path.name, source_sha256(path)], 64)
                return InputRecord(kind="file", hash=named, shown=str(path))
            case Output(other, item):
                artifact = self.artifacts[other]
                return InputRecord(
                    kind="output",
                    hash=self._content(artifact, item, wanted),
                    shown=f"{other}.{item}" if item else other,
                    artifact=artifact.id,
                )
            case _:
                data = encode_value(value, wanted, f"input {name!r} of step {self.step.name!r}")
                return InputRecord(kind="value", hash=digest([data], 64), shown=preview(data))

    def _content(self, artifact: Artifact, item: str | None, wanted: Any) -> str:
        if wants_path(wanted):
            found = artifact.part(item)
            return digest([[name, one.sha256] for name, one in sorted(found.items())], 64)
        return digest([self._value(artifact, item)], 64)

    def _value(self, artifact: Artifact, item: str | None) -> bytes:
        data = self.shelf.value(artifact)
        if item is None:
            return data
        fields = msgspec.msgpack.decode(data)
        if not isinstance(fields, dict) or item not in fields:
            raise NotFound(
                f"the value of step {artifact.step!r} has no field {item!r}",
                remedy="Name a field of the returned dict or Struct.",
            )
        return msgspec.msgpack.encode(fields[item], order="sorted")

    def _argument(self, name: str, folder: Path) -> Argument:
        parts = tuple(
            self._part(one, name, wanted, folder / str(place))
            for place, (one, wanted) in enumerate(self._each(name))
        )
        return Many(parts) if is_many(self.step.inputs[name]) else parts[0]

    def _part(self, value: Any, name: str, wanted: Any, folder: Path) -> Encoded | Located | Live:
        match value:
            case Handle():
                return Live(value.value)
            case SourceFile(path):
                return Located(path)
            case Output(other, item):
                artifact = self.artifacts[other]
                if wants_path(wanted):
                    return Located(self.shelf.open(artifact, folder, item))
                return Encoded(self._value(artifact, item))
            case _:
                subject = f"input {name!r} of step {self.step.name!r}"
                return Encoded(encode_value(value, wanted, subject))


def key_of(step: Step, code: str, inputs: Inputs) -> str:
    """Returns what names this work: the step with its code, its parameters and its inputs."""
    given = [[name, [[one.kind, one.hash] for one in records]] for name, records in inputs.items()]
    return digest([_FORMAT, step.name, code, given], 64)


def check_unchanged(resolver: Resolver, before: Mapping[Path, Any]) -> None:
    """Checks that no source from outside was written while the step read it.

    Raises:
        InvalidInput: one was.
    """
    after = resolver.marks()
    for path, mark in before.items():
        if after[path] != mark:
            raise InvalidInput(
                f"source file {str(path)!r} changed while step {resolver.step.name!r} read it",
                remedy="Run again when it is complete; write a new file and rename it.",
            )
