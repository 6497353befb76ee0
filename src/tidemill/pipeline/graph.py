"""The order of a graph's nodes: pure functions over what depends on what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from tidemill.foundation.errors import InvalidInput

Dependencies = Mapping[str, AbstractSet[str]]
"""For each node, the nodes that it needs; in the order in which they were declared."""


def order(dependencies: Dependencies) -> tuple[str, ...]:
    """Returns the nodes so that each comes after what it needs, else as they were declared.

    Raises:
        InvalidInput: some nodes need each other in a circle, which is named.

    Example:
        >>> order({"train": {"load"}, "load": set(), "report": {"train"}})
        ('load', 'train', 'report')
    """
    done: dict[str, None] = {}
    while len(done) < len(dependencies):
        free = ready(dependencies, done)
        if not free:
            circle = " -> ".join(_circle(dependencies, done))
            raise InvalidInput(
                f"the steps need each other in a circle: {circle}",
                remedy="Let one of them do without the other's output.",
            )
        done[free[0]] = None
    return tuple(done)


def ready(
    dependencies: Dependencies, done: Collection[str], taken: Collection[str] = ()
) -> tuple[str, ...]:
    """Returns the nodes that have all they need, and are neither done nor taken.

    Example:
        >>> ready({"a": set(), "b": set(), "c": {"a"}}, done={"a"}, taken={"b"})
        ('c',)
    """
    return tuple(
        node
        for node, needs in dependencies.items()
        if node not in done and node not in taken and all(need in done for need in needs)
    )


def downstream(dependencies: Dependencies, node: str) -> tuple[str, ...]:
    """Returns the nodes that need the node, directly or through others.

    Example:
        >>> downstream({"a": set(), "b": {"a"}, "c": {"b"}, "d": set()}, "a")
        ('b', 'c')
    """
    found = {node}
    for one in order(dependencies):
        if found & set(dependencies[one]):
            found.add(one)
    return tuple(one for one in dependencies if one in found and one != node)


def _circle(dependencies: Dependencies, done: Collection[str]) -> list[str]:
    path = [next(node for node in dependencies if node not in done)]
    while path[-1] not in path[:-1]:
        path.append(next(need for need in sorted(dependencies[path[-1]]) if need not in done))
    return path[path.index(path[-1]) :]
