"""Keys as the gateway judges them: pure, by digest, scope, application and time."""

from __future__ import annotations

import hashlib

import pytest

from tidemill.foundation.errors import NotPermitted, QuotaExceeded, Unauthenticated
from tidemill.serving.keys import (
    SCOPES,
    Denial,
    KeyRecord,
    KeyTable,
    Principal,
    digest_of,
    new_key,
)


def table_of(**given: object) -> tuple[KeyTable, bytes]:
    """A table of one key, and the header that carries it."""
    key, digest = new_key()
    record = {"name": "web", "digest": digest, "scopes": ("query",), **given}
    return KeyTable([KeyRecord(**record)]), b"Bearer " + key.encode()


def test_a_key_is_256_random_bits_and_only_its_sha256_is_kept() -> None:
    """No two keys are alike, each carries 43 characters of base64, and the digest is SHA-256."""
    made = [new_key() for _ in range(100)]
    assert len({key for key, _ in made}) == 100
    for key, digest in made:
        assert key.startswith("tidemill_")
        assert len(key) == len("tidemill_") + 43
        assert digest == hashlib.sha256(key.encode()).digest() == digest_of(key.encode())


@pytest.mark.parametrize("word", [b"Bearer ", b"bearer ", b"BEARER ", b"Bearer   "])
def test_the_scheme_is_read_as_http_says(word: bytes) -> None:
    """Schemes have no case, and spaces after them say nothing."""
    table, header = table_of()
    found = table.principal(word + header[7:] + b" ", now=0.0)
    assert isinstance(found, Principal)
    assert found.name == "web"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda header: b"", "missing"),
        (lambda header: b"Bearer", "unknown"),
        (lambda header: b"Bearer ", "unknown"),
        (lambda header: header[7:], "unknown"),
        (lambda header: b"Basic " + header[7:], "unknown"),
        (lambda header: header[:-1], "unknown"),
        (lambda header: header + b"A", "unknown"),
        (lambda header: header.upper(), "unknown"),
        (lambda header: b"Bearer " + hashlib.sha256(header[7:]).digest(), "unknown"),
        (lambda header: b"Bearer " + hashlib.sha256(header[7:]).hexdigest().encode(), "unknown"),
        (lambda header: b"Bearer " + header[7:] * 100_000, "unknown"),
        (lambda header: b"Bearer \xff\x00\xc3", "unknown"),
    ],
)
def test_anything_else_is_nobody(change: object, kind: str) -> None:
    """A key that is missing, cut, changed, of another scheme, or its own digest counts for none."""
    table, header = table_of()
    found = table.principal(change(header), now=0.0)
    assert isinstance(found, Denial)
    assert found.kind == kind
    assert isinstance(found.error(), Unauthenticated)
    assert header[7:].decode() not in str(found.error())


def test_a_key_ends_at_its_time() -> None:
    """It counts until its last moment, and is named, not shown, after that."""
    table, header = table_of(expires_at=100.0)
    assert isinstance(table.principal(header, now=99.999), Principal)
    late = table.principal(header, now=100.0)
    assert isinstance(late, Denial)
    assert (late.kind, late.key) == ("expired", "web")


def test_a_table_knows_when_it_has_to_be_renewed() -> None:
    """It names the next moment at which a key expires; a renewed one the next after that."""
    keys = [
        KeyRecord(name=str(at), digest=new_key()[1], scopes=("query",), expires_at=at)
        for at in (10.0, 20.0)
    ]
    table = KeyTable([*keys, KeyRecord(name="for ever", digest=new_key()[1], scopes=())])
    assert table.next_expiry == 10.0
    assert table.renewed(9.9).next_expiry == 10.0
    second = table.renewed(10.0)
    assert second is not table
    assert second.next_expiry == 20.0
    assert second.renewed(20.0).next_expiry == float("inf")


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_allows_itself_alone(scope: str) -> None:
    """No scope brings another with it, not even the one that runs the installation."""
    table, header = table_of(scopes=(scope,))
    who = table.principal(header, now=0.0)
    assert isinstance(who, Principal)
    assert [each for each in SCOPES if who.denial(each) is None] == [scope]
    denial = who.denial(next(each for each in SCOPES if each != scope))
    assert denial is not None
    assert (denial.kind, denial.key) == ("scope", "web")
    assert isinstance(denial.error(), NotPermitted)


def test_a_key_for_some_applications_is_for_no_other() -> None:
    """It may ask its own, ask what concerns none, and never touch the whole installation."""
    table, header = table_of(applications=("flights", "trips"))
    who = table.principal(header, now=0.0)
    assert isinstance(who, Principal)
    assert who.denial("query", "flights") is None
    assert who.denial("query") is None
    for denial in (who.denial("query", "other" * 99), who.denial("query", whole=True)):
        assert denial is not None
        assert denial.kind == "application"
        assert len(str(denial.error())) < 250


def test_a_key_without_applications_is_for_all() -> None:
    """None means that it is not limited; an empty list means that it is, to nothing."""
    everywhere, header = table_of()
    who = everywhere.principal(header, now=0.0)
    assert isinstance(who, Principal)
    assert who.denial("query", "any") is who.denial("query", whole=True) is None
    nowhere, header = table_of(applications=())
    who = nowhere.principal(header, now=0.0)
    assert isinstance(who, Principal)
    assert who.denial("query", "any") is not None


def test_a_quota_is_an_error_of_its_own() -> None:
    """Too much is neither a wrong key nor a server that is overloaded by all."""
    assert isinstance(Denial(kind="quota", key="web", said="too much").error(), QuotaExceeded)
