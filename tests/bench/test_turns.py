"""A comparison goes on without a peer that dies, and says why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.measure import Target
from bench.questions import Body, write_bodies
from bench.servers import BenchmarkFailed, Server, free_port
from bench.turns import take_turns

MORTAL = """
import os, uvloop
from bench.peers import floor

class Mortal(floor.Connection):
    answers = 0
    def on_message_complete(self):
        super().on_message_complete()
        Mortal.answers += {mortal}
        if Mortal.answers > 400:
            print("a bone broke", flush=True)
            os._exit(3)

floor.Connection = Mortal
uvloop.run(floor.main())
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    """Starts servers that add numbers up; a mortal one dies of its 401st answer."""
    started: list[Server] = []
    rows = [[float(number), 0.5] for number in range(100)]
    bodies = write_bodies(
        tmp_path / "bodies", [Body(json.dumps({"x": row}).encode()) for row in rows]
    )
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps([{"y": [sum(row)]} for row in rows]))

    def serve(name: str, *, mortal: bool, expendable: bool) -> Target:
        url = f"http://127.0.0.1:{free_port()}/"
        server = Server(
            command=(sys.executable, "-c", MORTAL.format(mortal=mortal), url.split(":")[2][:-1]),
            log=tmp_path / f"{name}.log",
            ready_url=url,
        )
        started.append(server)
        server.start()
        server.wait()
        return Target(
            name=name,
            server=server,
            url=url,
            format="plain",
            bodies=bodies,
            expected=expected,
            expendable=expendable,
            connections=(2,),
        )

    yield serve
    for server in started:
        server.stop()


def test_a_peer_that_dies_twice_is_left_out_and_the_rest_goes_on(served: Any) -> None:
    """It is started once more, then named with its reason; the others are measured to the end."""
    targets = [
        served("mortal", mortal=True, expendable=True),
        served("lasting", mortal=False, expendable=True),
    ]
    left_out: dict[str, str] = {}
    runs = list(take_turns(targets, repeats=2, seconds=1.0, left_out=left_out))
    assert [run["target"] for run in runs] == ["lasting", "lasting"]
    assert all(run["requests"] > 0 and run["checked"] > 0 and not run["wrong"] for run in runs)
    assert list(left_out) == ["mortal"]
    assert "a bone broke" in left_out["mortal"]


def test_what_was_found_is_there_when_one_of_ours_dies(served: Any) -> None:
    """Figures come one by one; a server that may not fail ends the comparison, after the others."""
    targets = [
        served("lasting", mortal=False, expendable=True),
        served("ours", mortal=True, expendable=False),
    ]
    turns = take_turns(targets, repeats=1, seconds=1.0)
    assert next(turns)["target"] == "lasting"
    with pytest.raises(BenchmarkFailed, match=r"ours gave .* and ended with 3"):
        next(turns)
