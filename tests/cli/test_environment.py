"""Environments by the command line: what cannot be built is told in one sentence."""

from __future__ import annotations

from typing import Any


def test_only_versions_with_requirements_have_an_environment(live: Any) -> None:
    """A version that runs where Tidemill runs has none to build."""
    said = live("environment", "trips", "1", "--json")
    assert said.code == 2
    assert "no requirements of its own" in said.json()["error"]
    assert live("environment", "trips", "9").code == 1


def test_requirements_are_read_before_anything_is_built(cli: Any) -> None:
    """An option among them is refused with its line, and nothing is registered."""
    cli.write("fare.py", "def predict(x: float) -> float:\n    return x\n")
    cli.write("requirements.txt", "# ours\n--no-index\n")
    push = ("push", "fare.py", "--name", "fare", "--requirements", "requirements.txt", "--json")
    untrusted = cli(*push).json()
    assert untrusted["kind"] == "NotTrusted"
    refused = cli(*push, "--trust-code")
    assert refused.code == 2
    assert "line 2 of requirements.txt" in refused.json()["error"]
    assert cli("models", "--json").json()["versions"] == []
