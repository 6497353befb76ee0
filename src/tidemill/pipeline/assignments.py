"""The expressions that module-level names were assigned: for values that are not plain data."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from tidemill.pipeline.bytecode import scan

_MAX_HOPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """How a module-level name came to its value.

    Args:
        module: where it was assigned.
        name: the name there.
        text: the normalised expressions, in order.
        chains: the names in them, each with the attributes taken from it.
    """

    module: str
    name: str
    text: str
    chains: tuple[tuple[str, ...], ...]


def assigned(module: str, name: str) -> Assigned | None:
    """Returns how the name got its value, or None where no source tells; follows re-exports."""
    for _ in range(_MAX_HOPS):
        loaded = sys.modules.get(module)
        found = _assignments(loaded).get(name) if loaded else None
        if found is None:
            return None
        if isinstance(found[-1], tuple):
            module, name = found[-1]
            continue
        nodes = [node for node in found if isinstance(node, ast.expr)]
        chains = (chain for node in nodes for chain in _chains(node))
        return Assigned(
            module=module,
            name=name,
            text="; ".join(ast.unparse(node) for node in nodes),
            chains=tuple(dict.fromkeys(chains)),
        )
    return None


def _chains(node: ast.expr) -> Iterator[tuple[str, ...]]:
    code = compile(ast.Expression(node), "<assigned>", "eval")
    return (chain for chain in scan(code).chains if chain[0])


@functools.lru_cache(maxsize=512)
def _assignments(module: ModuleType) -> dict[str, list[ast.expr | tuple[str, str]]]:
    found: dict[str, list[ast.expr | tuple[str, str]]] = {}
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return found
    for node in _statements(tree.body):
        for name, value in _targets(node, module.__name__, str(module.__package__ or "")):
            found.setdefault(name, []).append(value)
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _targets(
    node: ast.stmt, module: str, package: str
) -> Iterator[tuple[str, ast.expr | tuple[str, str]]]:
    if isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            if source in sys.modules and source != module:
                yield alias.asname or alias.name, (source, alias.name)
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    yield part.id, node.value
