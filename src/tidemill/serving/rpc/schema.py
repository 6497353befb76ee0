"""The messages of a ``.proto`` file that lies here, made when the process starts.

Nothing is generated beforehand: the file that clients compile is the one that the server reads, and
whichever protobuf is installed makes the classes. What is understood is the part of the language
that our files use; anything else in them is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TOKEN = re.compile(r'"[^"]*"|[\w.]+|[{}=;<>,()]')
_COMMENT = re.compile(r"//[^\n]*")
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "bytes", "string")
}


def messages(name: str) -> Mapping[str, Any]:
    r"""Returns the classes of a file's outermost messages, by their names without the package.

    Args:
        name: of a file in this package, as ``inference.proto``.

    Example:
        >>> messages("health.proto")["HealthCheckRequest"](service="flights").SerializeToString()
        b'\n\x07flights'
    """
    described = read(files(__package__).joinpath(name).read_text(encoding="utf-8"), name)
    pool = descriptor_pool.DescriptorPool()  # of our own: others may know the same names
    pool.Add(described)
    return {
        each.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{described.package}.{each.name}")
        )
        for each in described.message_type
    }


def read(text: str, name: str) -> Any:
    """Returns a file's descriptor.

    Raises:
        ValueError: something in it is not understood.
    """
    found = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
    tokens = iter(_TOKEN.findall(_COMMENT.sub("", text)))
    for token in tokens:
        match token:
            case "syntax":
                _skip(tokens, ";")
            case "package":
                found.package = next(tokens)
                _expect(tokens, ";")
            case "service":
                _skip(tokens, "}")  # who serves which method is a matter of code
            case "message":
                _message(tokens, found.message_type.add())
            case "enum":
                _enum(tokens, found.enum_type.add())
            case _:
                raise ValueError(f"{name}: {token!r} is not understood")
    _resolve(found)
    return found


def _message(tokens: Iterator[str], made: Any) -> None:
    made.name = next(tokens)
    _expect(tokens, "{")
    for token in tokens:
        match token:
            case "}":
                return
            case "message":
                _message(tokens, made.nested_type.add())
            case "enum":
                _enum(tokens, made.enum_type.add())
            case "oneof":
                made.oneof_decl.add(name=next(tokens))
                _expect(tokens, "{")
                while (kind := next(tokens)) != "}":
                    _field(tokens, made, kind).oneof_index = len(made.oneof_decl) - 1
            case "repeated":
                _field(tokens, made, next(tokens)).label = _Field.LABEL_REPEATED
            case "map":
                _map(tokens, made)
            case _:
                _field(tokens, made, token)


def _field(tokens: Iterator[str], made: Any, kind: str) -> Any:
    field = made.field.add(name=next(tokens), label=_Field.LABEL_OPTIONAL)
    _type(field, kind)
    _expect(tokens, "=")
    field.number = int(next(tokens))
    _expect(tokens, ";")
    return field


def _map(tokens: Iterator[str], made: Any) -> None:
    """Reads ``map<key, value> name = number;``: entries are messages of their own."""
    _expect(tokens, "<")
    key = next(tokens)
    _expect(tokens, ",")
    value = next(tokens)
    _expect(tokens, ">")
    field = _field(tokens, made, "")
    field.label = _Field.LABEL_REPEATED
    entry = made.nested_type.add(name=_entry_name(field.name))
    entry.options.map_entry = True
    for number, (name, kind) in enumerate((("key", key), ("value", value)), start=1):
        part = entry.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
        _type(part, kind)
    _type(field, f"{made.name}.{entry.name}")


def _entry_name(field: str) -> str:
    return "".join(part.capitalize() for part in field.split("_")) + "Entry"


def _enum(tokens: Iterator[str], made: Any) -> None:
    made.name = next(tokens)
    _expect(tokens, "{")
    while (name := next(tokens)) != "}":
        _expect(tokens, "=")
        made.value.add(name=name, number=int(next(tokens)))
        _expect(tokens, ";")


def _type(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = kind  # a message or an enum: which one is known when all are read


def _resolve(found: Any) -> None:
    """Gives each named type its full name, and says whether it is a message or an enum."""
    kinds: dict[str, int] = {}

    def collect(scope: str, holder: Any, nested: Any) -> None:
        for each in holder.enum_type:
            kinds[f"{scope}.{each.name}"] = _Field.TYPE_ENUM
        for each in nested:
            kinds[f"{scope}.{each.name}"] = _Field.TYPE_MESSAGE
            collect(f"{scope}.{each.name}", each, each.nested_type)

    def settle(scope: str, message: Any) -> None:
        inside = f"{scope}.{message.name}"
        for field in message.field:
            if field.type_name:
                field.type_name, field.type = _lookup(field.type_name, inside, kinds)
        for each in message.nested_type:
            settle(inside, each)

    root = f".{found.package}"
    collect(root, found, found.message_type)
    for message in found.message_type:
        settle(root, message)


def _lookup(name: str, scope: str, kinds: Mapping[str, int]) -> tuple[str, int]:
    while scope:
        full = f"{scope}.{name}"
        if full in kinds:
            return full, kinds[full]
        scope = scope.rpartition(".")[0]
    raise ValueError(f"the type {name!r} is not known")


def _expect(tokens: Iterator[str], wanted: str) -> None:
    found = next(tokens)
    if found != wanted:
        raise ValueError(f"{found!r} where {wanted!r} should be")


def _skip(tokens: Iterator[str], until: str) -> None:
    while next(tokens) != until:
        pass
