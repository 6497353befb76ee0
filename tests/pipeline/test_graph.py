from __future__ import annotations

import random

import pytest

from tidemill.foundation.errors import InvalidInput
from tidemill.pipeline.graph import downstream, order, ready


def test_order_puts_each_node_after_what_it_needs() -> None:
    """Whatever the graph and the order of declaration, nothing comes before what it needs."""
    for seed in range(30):
        dice = random.Random(seed)
        names = [f"n{i}" for i in range(12)]
        graph = {
            name: set(dice.sample(names[:place], dice.randint(0, min(3, place))))
            for place, name in enumerate(names)
        }
        shuffled = dict(dice.sample(list(graph.items()), len(graph)))
        found = order(shuffled)
        assert sorted(found) == sorted(names)
        assert all(found.index(need) < found.index(name) for name in names for need in graph[name])


def test_a_circle_is_named() -> None:
    """Steps that need each other are refused, and the circle is shown."""
    with pytest.raises(InvalidInput, match=r"b -> c -> b|c -> b -> c"):
        order({"a": set(), "b": {"c", "a"}, "c": {"b"}, "d": {"b"}})


def test_ready_leaves_out_what_waits_and_what_is_taken() -> None:
    """Only nodes whose needs are done, and that nobody has taken, are ready."""
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": set()}
    assert ready(graph, done=[]) == ("a", "d")
    assert ready(graph, done=["a"], taken=["d"]) == ("b",)
    assert ready(graph, done=["a", "b", "c", "d"]) == ()


def test_downstream_is_transitive() -> None:
    """What needs a node through others is downstream of it."""
    graph = {"c": {"b"}, "b": {"a"}, "a": set(), "d": set()}
    assert downstream(graph, "a") == ("c", "b")
    assert downstream(graph, "c") == ()
