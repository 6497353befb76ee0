"""What one code object says, free of its layout: its instructions, and the names it reaches for.

The loaded code is read, never the source file: what is fingerprinted is what runs, also when the
file was edited meanwhile, and also for lambdas, generated methods and interactive sessions.
Comments, docstrings, formatting and line numbers leave no trace in it.
"""

from __future__ import annotations

import dis
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

_NAMES = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_HAS_DOCSTRING = 0x4000000
_CONSTANTS = ("LOAD_CONST", "RETURN_CONST", "LOAD_SMALL_INT", "LOAD_CONST_IMMORTAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """An import inside a function: what it binds to a local name."""

    module: str
    level: int
    name: str | None  # of "from module import name"; None for "import module"
    whole: bool  # "import a.b.c as d" binds c; "import a.b.c" binds a


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A code object and those nested in it.

    Args:
        digest: the sha256 of the instructions, the same in every process.
        chains: names looked up, each with the attributes taken from it: ``("np", "linalg")``; of
            local names, ``("", "np", "linalg")``.
        imports: local names bound by imports inside the function.
    """

    digest: str
    chains: tuple[tuple[str, ...], ...]
    imports: dict[str, tuple[Import, ...]]


@functools.lru_cache(maxsize=8192)
def scan(code: CodeType) -> Scan:
    """Returns what the code says; remembered for each distinct code."""
    reader = _Reader()
    said = repr(reader.read(code))
    return Scan(
        digest=hashlib.sha256(said.encode()).hexdigest(),
        chains=tuple(dict.fromkeys(reader.chains)),
        imports={name: tuple(found) for name, found in reader.imports.items()},
    )


@dataclass(slots=True)
class _Reader:
    chains: list[tuple[str, ...]] = field(default_factory=list)
    imports: dict[str, list[Import]] = field(default_factory=dict)

    def read(self, code: CodeType) -> tuple[Any, ...]:
        instructions = list(dis.get_instructions(code))
        self.chains.extend(_chains(instructions))
        for name, found in _imports(instructions):
            self.imports.setdefault(name, []).append(found)
        body = tuple(
            (one.opname, self._argument(one))
            for one in instructions
            if one.opname not in {"CACHE", "RESUME", "NOP", "EXTENDED_ARG"}
        )
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        flags = code.co_flags & ~_HAS_DOCSTRING
        return (shape, flags, code.co_varnames, code.co_exceptiontable.hex(), body)

    def _argument(self, one: dis.Instruction) -> Any:
        if isinstance(one.argval, CodeType):
            return self.read(one.argval)
        if one.opname in _CONSTANTS:
            return constant(one.argval)
        return one.argval if isinstance(one.argval, int | str) else repr(one.argval)


def constant(value: object) -> Any:
    """Returns a compile-time constant as a token: typed, and with sets in a fixed order."""
    if isinstance(value, tuple):
        return ("tuple", *(constant(one) for one in value))
    if isinstance(value, frozenset):
        return ("frozenset", *sorted((constant(one) for one in value), key=repr))
    return (type(value).__name__, repr(value))


def _chains(instructions: list[dis.Instruction]) -> Iterator[tuple[str, ...]]:
    """Yields each looked-up name with the attributes taken from it at once."""
    chain: list[str] = []
    for one in instructions:
        if one.opname in _ATTRIBUTES and chain:
            chain.append(one.argval)
            continue
        if one.opname in {"CACHE", "PUSH_NULL", "EXTENDED_ARG"}:
            continue
        if chain:
            yield tuple(chain)
        chain = _looked_up(one)
    if chain:
        yield tuple(chain)


def _looked_up(one: dis.Instruction) -> list[str]:
    if one.opname in _NAMES:
        return [one.argval]
    if one.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "STORE_FAST_LOAD_FAST")):
        return ["", one.argval[-1] if isinstance(one.argval, tuple) else one.argval]
    return []


def _imports(instructions: list[dis.Instruction]) -> Iterator[tuple[str, Import]]:
    module, level, listed = "", 0, False
    name: str | None = None
    open_ = False
    for place, one in enumerate(instructions):
        if one.opname == "IMPORT_NAME":
            constants = [x for x in instructions[max(0, place - 6) : place] if x.opname != "CACHE"]
            level, listed = int(constants[-2].argval or 0), constants[-1].argval is not None
            module, name, open_ = one.argval, None, True
            if one.argval and not listed:
                yield "", Import(module=module, level=level, name=None, whole=True)
        elif open_ and one.opname == "IMPORT_FROM":
            name = one.argval
        elif open_ and one.opname.startswith("STORE_"):
            bound = one.argval[0] if isinstance(one.argval, tuple) else one.argval
            yield (
                str(bound),
                Import(
                    module=module,
                    level=level,
                    name=name if listed else None,
                    whole=name is not None,
                ),
            )
            open_ = listed  # "from a import b, c" binds more names
        elif open_ and one.opname == "POP_TOP" and listed:
            open_ = False
