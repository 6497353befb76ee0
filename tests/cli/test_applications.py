"""Applications on the command line: declared with a question first, shown, linked and stopped."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import typer

DOCUMENT = """
[applications.shop]
slo_ms = 25

[applications.shop.signature]
inputs = [{ name = "x", type = "float32" }]
outputs = [{ name = "y", type = "float32" }]
"""


def test_a_document_is_applied_once(cli: Any) -> None:
    """The first time it changes what it says, the second time nothing; both end well."""
    file = str(cli.write("shop.toml", DOCUMENT))
    seen = cli("apply", file, "--dry-run")
    assert seen.code == 0
    assert "new application shop" in seen.out
    assert "slo_ms: 25" in seen.out
    assert cli("applications", "list", "--json").json() == {"applications": []}
    done = cli("apply", file, "--yes")
    assert (done.code, "shop is declared so (revision 1)" in done.out) == (0, True)
    again = cli("apply", file)
    assert (again.code, again.out.strip()) == (0, "no change")
    assert cli("apply", file, "--json").json() == {"applied": False, "changes": []}


def test_what_is_described_is_no_change(cli: Any) -> None:
    """The printed document is the one that is live."""
    cli("apply", str(cli.write("shop.toml", DOCUMENT)), "--yes")
    shown = cli("describe", "shop")
    assert shown.code == 0
    again = cli("apply", str(cli.write("again.toml", shown.out)))
    assert (again.code, again.out.strip()) == (0, "no change")
    document = cli("describe", "--json").json()
    assert document["applications"]["shop"]["slo_ms"] == 25.0


def test_without_anybody_to_ask_nothing_changes(cli: Any) -> None:
    """No terminal and no --yes: it is refused, and says what to do."""
    file = str(cli.write("shop.toml", DOCUMENT))
    refused = cli("apply", file)
    assert refused.code == 1
    assert "nothing was changed" in refused.err
    assert "--yes" in refused.err
    assert cli("apply", file, "--json").json()["kind"] == "Refused"
    assert cli("applications", "list", "--json").json() == {"applications": []}


@pytest.mark.parametrize("agrees", [True, False])
def test_a_person_is_asked(cli: Any, monkeypatch: pytest.MonkeyPatch, *, agrees: bool) -> None:
    """On a terminal the differences are shown first; only a yes changes anything."""
    file = str(cli.write("shop.toml", DOCUMENT))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: agrees)
    said = cli("apply", file)
    assert "slo_ms: 25" in said.out
    assert said.code == (0 if agrees else 1)
    listed = cli("applications", "list", "--json").json()["applications"]
    assert bool(listed) is agrees


def test_mistakes_end_with_2_and_the_nearest_word(cli: Any) -> None:
    """So that a typing error is mended without the manual."""
    wrong = cli("apply", str(cli.write("a.toml", "[applications.shop]\nslo_sm = 1\n")))
    assert wrong.code == 2
    assert "applications.shop.slo_sm is unknown" in wrong.err
    assert "Did you mean slo_ms?" in wrong.err
    assert cli("apply", "nowhere.toml").code == 1


def test_an_application_from_register_to_stop(live: Any) -> None:
    """Each verb shows what is so now, as text and as JSON."""
    made = live(
        *("applications", "register", "vectors", "--input", "x:float32[4]", "--output", "y:int64"),
        *("--default", '{"y": -1}', "--slo-ms", "40", "--json"),
    ).json()
    assert made["signature"]["inputs"] == [{"name": "x", "type": "float32", "shape": [4]}]
    assert made["default"] == {"y": -1}
    like = live("applications", "register", "twin", "--like", "trips:1")
    assert "no model" in like.out
    assert (
        "ready, without weight"
        in live("applications", "link", "twin", "trips:1", "--weight", "0").out
    )
    assert "weight 1" in live("applications", "version", "twin", "1").out
    assert "weight 0.5" in live("applications", "weights", "twin", "1=0.5").out
    assert "3 replicas" in live("applications", "replicas", "twin", "3").out
    assert "trips:1 (0.5)" in live("applications", "list").out
    assert "no model" in live("applications", "unlink", "twin", "1").out
    assert "stopped" in live("applications", "stop", "twin").out
    assert live("applications", "stop", "twin").code == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("register", "a", "--input", "x", "--output", "y:int64"), "'x' is no column"),
        (("register", "a", "--input", "x:int64[a]", "--output", "y:int64"), "is no column"),
        (("register", "a", "--input", "x:int65", "--output", "y:int64"), "unknown type"),
        (("register", "a"), "at least one input"),
        (("register", "a", "--like", "trips:1", "--default", "{"), "no JSON object"),
        (("weights", "trips", "one=1"), "is no share"),
        (("replicas", "trips", "0"), "replicas"),
    ],
)
def test_wrong_words_are_told(live: Any, words: tuple[str, ...], why: str) -> None:
    """In one sentence, with code 2."""
    said = live("applications", *words)
    assert (said.code, why in said.err) == (2, True), said.err
