"""A plain command line starts a server without what reads command lines, and means the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tidemill.cli import app, serve, serving

HEAVY = ("typer", "pydantic", "rich")

PLAIN = [
    [],
    ["--json"],
    ["--port", "8080", "--admin-port=0", "--host", "0.0.0.0"],
    ["--home", "some/where", "--config=tidemill.toml", "--with-parent", "--gateways", "2"],
    ["--grpc-port", "9000", "--port", "1", "--port", "2"],
]
EXPLAINED = [
    ["--help"],
    ["-h"],
    ["--port"],
    ["--port", "many"],
    ["--port", "--json"],
    ["--port="],
    ["--json=yes"],
    ["--admin_port", "1"],
    ["--nothing"],
    ["more"],
]


@pytest.mark.parametrize("arguments", PLAIN, ids=" ".join)
def test_plain_arguments_mean_what_they_mean_to_everybody(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads them, the same server is run."""
    asked: list[serving.Asked] = []
    monkeypatch.setattr(serve, "run", asked.append)
    app.build(["serve"])(args=["serve", *arguments], standalone_mode=False)
    for each in asked:
        each.flags = {name: value for name, value in each.flags.items() if value is not None}
    assert asked == [serving.read(arguments)]


@pytest.mark.parametrize("arguments", EXPLAINED, ids=" ".join)
def test_what_needs_an_explanation_is_left_to_who_explains(arguments: list[str]) -> None:
    """Help, and whatever is wrong."""
    assert serving.read(arguments) is None


def test_a_server_keeps_nothing_that_reads_command_lines() -> None:
    """What is imported to serve, and nothing of what is imported to explain."""
    code = f"""
import json, sys
from tidemill.cli import serving
print(json.dumps([each for each in {HEAVY} if each in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_server_that_cannot_begin_says_why(more: list[str]) -> None:
    """As every verb does, and with its code."""
    arguments = ("serve", "--host", "192.0.2.1", "--admin-port", "0", *more)
    done = subprocess.run(
        [sys.executable, "-m", "tidemill", *arguments], capture_output=True, check=False, text=True
    )
    assert done.returncode in (1, 2)
    told = json.loads(done.stdout)["error"] if more else done.stderr
    assert "192.0.2.1" in told
    assert "Traceback" not in done.stderr
