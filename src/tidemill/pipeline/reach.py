"""The walk from a function to all the code of its project that it can reach."""

from __future__ import annotations

import enum
import functools
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.pipeline.assignments import assigned
from tidemill.pipeline.bytecode import Import, Scan, scan
from tidemill.pipeline.scope import Scope
from tidemill.pipeline.tokens import OpaqueError, digest, name_of, pickled, token

_MISSING = object()
_CODE = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
)
# What the interpreter writes into every class, and what only repeats its methods and fields.
_CLASS_NOISE = frozenset(
    {
        "__doc__",
        "__module__",
        "__qualname__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate_func__",
        "__annotate__",
        "__annotations_cache__",
        "__firstlineno__",
        "__static_attributes__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__abstractmethods__",
        "__parameters__",
        "__orig_bases__",
        "__protocol_attrs__",
        "__non_callable_proto_members__",
        "__struct_config__",
        "_abc_impl",
        "_member_map_",
        "_value2member_map_",
        "_hashable_values_",
        "_unhashable_values_",
        "_unhashable_values_map_",
    }
)


@dataclass(slots=True, kw_only=True)
class Walk:
    """Collects parts and packages, breadth first, each thing once.

    Example:
        >>> walk = Walk(scope=Scope(top="tidemill", folder=None))
        >>> walk.reach(digest)
        >>> walk.finish()
        >>> list(walk.parts)
        ['tidemill.pipeline.tokens.digest']
    """

    scope: Scope
    parts: dict[str, str] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)
    seen: dict[int, object] = field(default_factory=dict)  # keeps them alive: ids stay theirs
    classes: set[int] = field(default_factory=set)
    constants: set[tuple[str, str]] = field(default_factory=set)
    waiting: deque[Callable[[], None]] = field(default_factory=deque)

    def finish(self) -> None:
        """Follows all that was reached, until nothing new is."""
        while self.waiting:
            self.waiting.popleft()()

    def reach(self, value: object) -> None:
        """Follows a function, class or module; does nothing the second time."""
        if id(value) in self.seen:
            return
        self.seen[id(value)] = value
        match value:
            case types.MethodType():
                self.reach(value.__func__)
                self.reach(type(value.__self__))
            case functools.partial():
                self.reach(value.func)
                self.waiting.append(lambda: self._partial(value))
            case types.FunctionType():
                self._reach_function(value)
            case type():
                self._reach_class(value)
            case types.ModuleType():
                self._package(value.__name__)
            case _ if callable(value):
                self._package(getattr(value, "__module__", None))
                self._reach_class(type(value))
            case _:
                pass
        wrapped = _static(value, "__wrapped__")
        if wrapped is not _MISSING:
            self.reach(wrapped)

    def _reach_class(self, cls: type) -> None:
        if not self.scope.owns(cls.__module__):
            self._package(cls.__module__)
        elif id(cls) not in self.classes:
            self.classes.add(id(cls))
            self.waiting.append(lambda: self._class(cls))

    def _reach_function(self, function: types.FunctionType) -> None:
        # functools.wraps copies __module__: whose code it is, its globals tell.
        if self.scope.owns(function.__globals__.get("__name__")):
            self.waiting.append(lambda: self._function(function))
        else:
            self._package(function.__globals__.get("__name__"))
            self.waiting.append(lambda: self._foreign(function))

    def _function(self, function: types.FunctionType) -> None:
        said = scan(function.__code__)
        name = f"{function.__globals__.get('__name__')}.{function.__qualname__}"
        self._keep(
            name,
            [
                said.digest,
                [self._data(one) for one in function.__defaults__ or ()],
                [[key, self._data(one)] for key, one in (function.__kwdefaults__ or {}).items()],
                list(self._closure(function)),
                _annotations(function),
            ],
        )
        self._names(said, function.__globals__, _free(function))
        for hint in _hints(function):
            self.reach(hint)

    def _foreign(self, function: types.FunctionType) -> None:
        """Follows what another project's decorator holds of ours."""
        for value in _free(function).values():
            if _is_code(value):
                self.reach(value)

    def _partial(self, partial: functools.partial[Any]) -> None:
        arguments = [self._data(one) for one in (*partial.args, *partial.keywords.values())]
        self._keep(f"{name_of(partial.func)} (partial)", [arguments, sorted(partial.keywords)])

    def _closure(self, function: types.FunctionType) -> Iterator[Any]:
        for name, value in _free(function).items():
            yield [name, self._data(value)]

    def _class(self, cls: type) -> None:
        attributes: list[Any] = []
        for name, value in vars(cls).items():
            if name in _CLASS_NOISE:
                continue
            code = _callables(value)
            if code:
                attributes.append([name, type(value).__name__])
                for one in code:
                    self.reach(one)
            else:
                attributes.append([name, self._class_value(value)])
        bases = [name_of(base) for base in cls.__bases__]
        self._keep(name_of(cls), [attributes, bases, _annotations(cls), list(self._members(cls))])
        for base in (*cls.__bases__, type(cls), *_hints(cls)):
            if base not in (object, type):
                self.reach(base)

    def _members(self, cls: type) -> Iterator[Any]:
        """Yields what enums and Structs keep elsewhere than among their attributes."""
        if issubclass(cls, enum.Enum):
            for name, member in cls.__members__.items():
                yield [name, self._class_value(member.value)]
        for default in getattr(cls, "__struct_defaults__", ()):
            yield self._class_value(default)
        if config := getattr(cls, "__struct_config__", None):
            yield [repr(config.tag), config.forbid_unknown_fields, config.array_like]
            yield list(getattr(cls, "__struct_encode_fields__", ()))

    def _class_value(self, value: object) -> Any:
        try:
            return token(value, self.reach)
        except OpaqueError:
            self.reach(type(value))
            return ["opaque", name_of(type(value))]

    def _names(self, said: Scan, names: Mapping[str, Any], free: Mapping[str, Any]) -> None:
        package = names.get("__package__") or ""
        local: dict[str, list[object]] = {}
        for bound, imports in said.imports.items():
            for one in imports:
                found = self._imported(one, package)
                if found is not _MISSING:
                    local.setdefault(bound, []).append(found)
                    self.reach(found)
        for chain in said.chains:
            if chain[0]:
                self._follow(names.get(chain[0], _MISSING), chain, names)
                continue
            for value in (*local.get(chain[1], ()), free.get(chain[1], _MISSING)):
                if isinstance(value, types.ModuleType):
                    self._follow(value, chain[1:], names)

    def _follow(self, value: object, chain: tuple[str, ...], names: Mapping[str, Any]) -> None:
        """Walks down ``package.module.thing`` to the thing, and reaches or records it."""
        home, last = names.get("__name__"), chain[0]
        for attribute in chain[1:]:
            if not isinstance(value, types.ModuleType) or not self.scope.owns(value.__name__):
                break
            home, last = value.__name__, attribute
            value = getattr(value, attribute, _MISSING)
        if value is _MISSING:
            return
        if _is_code(value):
            self.reach(value)
        elif self.scope.owns(home):
            self._constant(str(home), last, value)
        else:
            self._package(home)

    def _constant(self, module: str, name: str, value: object) -> None:
        if (module, name) not in self.constants:
            self.constants.add((module, name))
            self._keep(f"{module}.{name}", self._data(value, place=(module, name)))

    def _data(self, value: object, place: tuple[str, str] | None = None) -> Any:
        """Returns a token of a value; of what is not plain, of the expression that made it."""
        if _is_code(value):
            self.reach(value)
            return ["code", name_of(value)]
        try:
            return token(value, self.reach)
        except OpaqueError:
            self.reach(type(value))
            wrapped = _static(value, "__wrapped__")
            if wrapped is not _MISSING:
                self.reach(wrapped)
        made = assigned(*place) if place else None
        if made is None:
            return pickled(value)
        names = vars(sys.modules[made.module])
        for chain in made.chains:
            if chain != (made.name,):
                self._follow(names.get(chain[0], _MISSING), chain, names)
        return ["assigned", made.text]

    def _imported(self, found: Import, package: str) -> object:
        name = found.module
        if found.level:
            try:
                name = importlib.util.resolve_name("." * found.level + found.module, package)
            except ImportError:
                return _MISSING
        if not self.scope.owns(name):
            self._package(name)
            return _MISSING
        try:
            module = sys.modules.get(name) or importlib.import_module(name)
            if found.name is not None:
                value = getattr(module, found.name, _MISSING)
                return value if value is not _MISSING else _submodule(name, found.name)
            return module if found.whole else sys.modules[name.partition(".")[0]]
        except ImportError:
            self._package(name)
            return _MISSING

    def _package(self, module: object) -> None:
        if not isinstance(module, str) or self.scope.owns(module):
            return
        root = module.partition(".")[0]
        if root not in sys.stdlib_module_names and root not in {"builtins", "__main__"}:
            self.packages.add(root)

    def _keep(self, name: str, content: Any) -> None:
        place, count = name, 1
        while place in self.parts:
            count += 1
            place = f"{name}#{count}"
        self.parts[place] = digest(content, 16)


def _is_code(value: object) -> bool:
    return isinstance(value, _CODE) or (
        callable(value) and _static(value, "__wrapped__") is not _MISSING
    )


def _callables(value: object) -> list[object]:
    """Returns the functions inside of a class attribute: a method, a property, a descriptor."""
    if isinstance(value, types.FunctionType | type):
        return [value]
    inside = (
        _static(value, name) for name in ("__func__", "__wrapped__", "fget", "fset", "fdel", "func")
    )
    return [one for one in inside if callable(one)]


def _static(value: object, name: str) -> object:
    try:
        found = inspect.getattr_static(value, name, _MISSING)
    except Exception:  # noqa: BLE001 - foreign objects may lie about their own type
        return _MISSING
    if isinstance(found, types.MemberDescriptorType | types.GetSetDescriptorType):
        return getattr(value, name, _MISSING)  # fget of a property, func of a slotted descriptor
    return found


def _free(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet: a recursive inner function
            continue
    return found


def _annotations(value: object) -> list[list[str]]:
    try:
        written = inspect.get_annotations(value)  # type: ignore[arg-type]
    except NameError:  # Python 3.14 evaluates them late
        return []
    return [
        [name, hint if isinstance(hint, str) else inspect.formatannotation(hint)]
        for name, hint in written.items()
    ]


def _hints(value: object) -> Iterator[type]:
    """Yields the classes named in annotations, as far as they can be looked up."""
    try:
        hints = typing.get_type_hints(value)
    except Exception:  # noqa: BLE001 - names that only the type checker knows
        return
    waiting = list(hints.values())
    while waiting:
        hint = waiting.pop()
        if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
            yield hint
        waiting.extend(one for one in typing.get_args(hint) if one is not Ellipsis)
        if isinstance(origin := typing.get_origin(hint), type):
            waiting.append(origin)


def _submodule(package: str, name: str) -> object:
    try:
        return importlib.import_module(f"{package}.{name}")
    except ImportError:
        return _MISSING
