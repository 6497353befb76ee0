"""Keys in the store: shown once, kept as digests, audited, never named twice."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tidemill.control import keys
from tidemill.control.audit import read_audit
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.serving.key_store import StoreKeys
from tidemill.serving.keys import KeyTable, Principal


def make(home: Home, name: str = "web", **given: object) -> keys.MadeKey:
    """Makes a key for queries."""
    return keys.create_key(home, name, **{"scopes": ["query"], "by": "tests", **given})


def who(home: Home, key: str, now: float = 0.0) -> object:
    """Says whose key it is, by what a server is given."""
    return KeyTable(StoreKeys(home).keys()).principal(b"Bearer " + key.encode(), now)


@pytest.mark.parametrize("where", ["home", "postgres_home"])
def test_a_key_counts_from_being_made_to_being_revoked(
    where: str, request: pytest.FixtureRequest
) -> None:
    """In SQLite and PostgreSQL: it is known with its scopes and applications, then no more."""
    home: Home = request.getfixturevalue(where)
    source = StoreKeys(home)
    assert (source.revision(), source.keys()) == (0, ())
    made = make(home, scopes=["feedback", "query"], applications=["flights", "flights"])
    found = who(home, made.key)
    assert isinstance(found, Principal)
    assert (found.name, found.scopes) == ("web", {"query", "feedback"})
    assert found.applications == {"flights"}
    assert source.revision() == 1
    assert keys.revoke_key(home, "web", by="tests", reason="lost").state == "revoked"
    assert (source.revision(), source.keys()) == (2, ())
    assert not isinstance(who(home, made.key), Principal)


def test_the_key_itself_is_nowhere(home: Home) -> None:
    """Neither the store's files nor a listing nor the audit holds what was shown once."""
    made = make(home)
    assert made.key not in repr(keys.list_keys(home)) + repr(read_audit(home.store))
    home.close()
    for file in Path(home.path).rglob("*"):
        if file.is_file():
            assert made.key.encode() not in file.read_bytes()
            assert made.key.removeprefix("tidemill_").encode() not in file.read_bytes()


def test_every_change_is_audited(home: Home) -> None:
    """Who made or revoked a key, what it may do and why; nothing that opens anything."""
    make(home, applications=["flights"], reason="the website")
    keys.revoke_key(home, "web", by="ann", reason="lost")
    revoked, made = read_audit(home.store)
    assert (made.verb, made.subject, made.by, made.reason) == (
        "key-create",
        "key web",
        "tests",
        "the website",
    )
    assert made.detail == {"scopes": ["query"], "applications": ["flights"], "expires_at": None}
    assert (revoked.verb, revoked.by, revoked.reason) == ("key-revoke", "ann", "lost")


def test_a_name_is_given_once(home: Home) -> None:
    """Also when its key is revoked: the ledger and the audit would name two of them alike."""
    make(home)
    with pytest.raises(Conflict, match="'web'"):
        make(home)
    keys.revoke_key(home, "web", by="tests", reason="lost")
    with pytest.raises(Conflict, match="'web'"):
        make(home)
    with pytest.raises(Conflict, match="was revoked"):
        keys.revoke_key(home, "web", by="tests", reason="again")
    with pytest.raises(NotFound, match="'other'"):
        keys.revoke_key(home, "other", by="tests", reason="none")
    assert len(read_audit(home.store)) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"scopes": []},
        {"scopes": ["query", "everything"]},
        {"name": "../web"},
        {"name": ""},
        {"applications": []},
        {"applications": ["a/b"]},
        {"expires_s": 0.0},
        {"expires_s": -1.0},
        {"expires_s": float("nan")},
        {"expires_s": float("inf")},
    ],
)
def test_what_is_no_key_is_refused(home: Home, given: dict[str, object]) -> None:
    """Nothing is made of a wrong name, scope, application or time."""
    with pytest.raises(InvalidInput):
        make(home, **given)
    assert keys.list_keys(home) == ()
    assert read_audit(home.store) == []


def test_there_are_only_so_many(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gateway holds them all, so there is a bound; revoked ones do not count."""
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    make(home, "a")
    make(home, "b")
    with pytest.raises(Conflict, match="2 keys"):
        make(home, "c")
    keys.revoke_key(home, "a", by="tests", reason="room")
    make(home, "c")


def test_a_listing_says_what_became_of_each(tmp_path: Path) -> None:
    """In force, expired and revoked are told apart, with their times, the oldest first."""
    clock = FakeClock(at=1000.0)
    with open_home(Settings(home=tmp_path / "home"), clock=clock) as home:
        make(home, "short", expires_s=10.0)
        clock.advance(1.0)
        make(home, "long", expires_s=100.0)
        clock.advance(1.0)
        make(home, "gone")
        keys.revoke_key(home, "gone", by="tests", reason="lost")
        clock.advance(8.0)
        found = keys.list_keys(home)
        assert [(each.name, each.state) for each in found] == [
            ("short", "expired"),
            ("long", "in force"),
            ("gone", "revoked"),
        ]
        assert found[0].expires == "1970-01-01T00:16:50.000Z"
        assert msgspec.json.encode(found)


def test_last_use_only_moves_forward(home: Home) -> None:
    """What several gateways say late does not undo what one said before."""
    make(home)
    source = StoreKeys(home)
    source.used({"web": 100.0, "unknown": 5.0})
    source.used({"web": 50.0})
    (row,) = keys.list_keys(home)
    assert row.last_used == "1970-01-01T00:01:40.000Z"
    assert source.revision() == 1
