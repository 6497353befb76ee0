"""Applications are declared, linked, split, scaled and stopped: whole, and refused early."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidemill.control.applications import (
    apply,
    link,
    register,
    set_replicas,
    set_version,
    set_weights,
    signature_like,
    stop,
    unlink,
)
from tidemill.control.audit import read_audit
from tidemill.control.deployments import Terms, deploy, get_deployment, list_deployments, rollback
from tidemill.control.differences import Difference
from tidemill.control.documents import document_of, read_document, show_document
from tidemill.foundation.errors import Conflict, InvalidInput, NotBlessed, NotFound, TidemillError
from tidemill.foundation.home import Home
from tidemill.models.registry import Registry
from tidemill.models.signature import Column, Signature
from tidemill.serving.live import StoreSource
from tidemill.serving.plan import Live, ServingPlan, SinglePolicy, WeightedPolicy

Tables = tuple[str, str]
WHO = {"by": "ann", "reason": "because"}
WHOLE = """
[applications.app]
slo_ms = 20
default = { y = [0.5] }
key = ["x"]
policy = { kind = "weighted" }
versions = [
  { model = "m", version = 1, weight = 9 },
  { model = "m", version = 2, weight = 1 },
  { model = "m", version = 4, weight = 0 },
]
plan = { replicas = 2, cache_ttl_s = 60 }

[applications.alone.signature]
inputs = [{ name = "user", type = "string" }]
outputs = [{ name = "score", type = "float32" }]
"""


def declare(home: Home, text: str, **more: Any) -> Any:
    """Applies a document."""
    return apply(home, read_document(text.encode(), origin="a.toml"), **WHO, **more)


def shares(home: Home) -> dict[int, float]:
    """The weights of ``app`` by version."""
    return {each.version: each.weight for each in get_deployment(home, "app").versions}


def test_a_document_makes_applications_live(home: Home, tables: Tables) -> None:
    """All it says, at once: deployments, the champion, and an audit row for each."""
    done = declare(home, WHOLE)
    assert done.applied
    assert [(each.application, each.new) for each in done.changes] == [
        ("app", True),
        ("alone", True),
    ]
    app = get_deployment(home, "app")
    assert (app.slo_ms, app.default, app.key) == (20.0, {"y": [0.5]}, ("x",))
    assert app.plan == ServingPlan(replicas=2, cache_ttl_s=60.0)
    assert shares(home) == {1: 9.0, 2: 1.0, 4: 0.0}
    assert get_deployment(home, "alone").signature is not None
    assert Registry(home).aliases("m") == {"champion": 1}
    assert {(each.verb, each.subject) for each in read_audit(home.store)} == {
        ("apply", "app"),
        ("apply", "alone"),
    }


def test_what_is_shown_applied_again_is_no_change(home: Home, tables: Tables) -> None:
    """The document of what is live comes back as it was, with nothing written."""
    declare(home, WHOLE)
    link(home, "app", "m:3", weight=0.25, **WHO)
    before = StoreSource(home).revision(), len(read_audit(home.store))
    shown = show_document(list_deployments(home))
    again = declare(home, shown)
    assert (again.applied, again.changes) == (True, ())
    assert (StoreSource(home).revision(), len(read_audit(home.store))) == before
    document = {"applications": {"app": document_of(get_deployment(home, "app"))}}
    assert declare(home, show_document([get_deployment(home, "app")])).changes == ()
    assert document["applications"]["app"]["plan"]["replicas"] == 2


def test_a_document_in_part_changes_that_part(home: Home, tables: Tables) -> None:
    """What it leaves out stays; the differences name each field, with what it was."""
    declare(home, WHOLE)
    text = "[applications.app]\nslo_ms = 30\nplan = { replicas = 3, cache_ttl_s = 'none' }\n"
    expected = (
        Difference(path="slo_ms", old=20.0, new=30.0),
        Difference(path="plan.replicas", old=2, new=3),
        Difference(path="plan.cache_ttl_s", old=60.0, new=None),
    )
    seen = declare(home, text, dry_run=True)
    assert not seen.applied
    assert seen.changes[0].fields == expected
    assert get_deployment(home, "app").slo_ms == 20.0
    done = declare(home, text)
    assert done.changes[0].fields == expected
    app = get_deployment(home, "app")
    assert (app.plan, app.default) == (ServingPlan(replicas=3), {"y": [0.5]})
    assert shares(home) == {1: 9.0, 2: 1.0, 4: 0.0}
    declare(home, "[applications.app]\ndefault = 'none'\n")
    assert get_deployment(home, "app").default is None


def test_versions_in_a_document_keep_their_tables(home: Home, tables: Tables) -> None:
    """By alias or number; a table stays unless the document says otherwise."""
    deploy(home, "app", model="m", version=1, table=tables[0], **WHO)
    both = (
        '[applications.app]\nversions = [{ model = "m", alias = "champion" }, '
        f'{{ model = "m", version = 2, weight = 0.5, table = "{tables[1]}" }}]\n'
    )
    declare(home, both)
    assert get_deployment(home, "app").versions == (
        Live(model="m", version=1, table=tables[0]),
        Live(model="m", version=2, table=tables[1], weight=0.5),
    )
    declare(home, both.replace(tables[1], "none"))
    assert [each.table for each in get_deployment(home, "app").versions] == [tables[0], None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[applications.app]\nslo_sm = 3", r"applications\.app\.slo_sm is unknown.*slo_ms"),
        ("[application.app]\nslo_ms = 3", r"application is unknown.*applications"),
        ("[applications.app.plan]\nreplica = 3", r"app\.plan\.replica is unknown.*replicas"),
        ("[applications.app.plan]\nreplicas = 0", r"applications\.app\.plan\.replicas"),
        ("[applications.app.plan]\nreplicas = '2'", r"applications\.app\.plan\.replicas"),
        ("[applications.app]\npolicy = { kind = 'wieghted' }", r"Did you mean weighted"),
        ("[applications.app]\npolicy = { kind = 'weighted', stick = 'x' }", r"policy\.stick .*"),
        ("[applications.app]\npolicy = { kind = 'single' }", r"is single"),
        ("[applications.app]\npolicy = { kind = 'weighted', sticky = 'x' }", r"sticky by 'x'"),
        ("[applications.app]\nslo_ms = 'fast'", r"at applications\.app\.slo_ms"),
        ("[applications.app]\nslo_ms = -1", r"slo_ms is -1"),
        ("[applications.app]\nslo_ms = nan", r"slo_ms is nan"),
        ("[applications.app]\nkey = ['z']", r"names 'z', which is no input"),
        ("[applications.app]\nkey = ['x', 'x']", r"names 'x' twice"),
        ("[applications.app]\ndefault = { z = 1 }", r"default answer"),
        ("[applications.app]\nversions = [{ model = 'm' }]", r"has no number"),
        (
            "[applications.app]\nversions = [{ model = 'm', versoin = 1 }]",
            r"versions\[0\]\.versoin",
        ),
        ("[applications.app]\nversions = [{ model = 'm', version = 9 }]", r"no version 9"),
        ("[applications.app]\nversions = [{ model = 'm', alias = 'x' }]", r"no alias 'x'"),
        ("[applications.app]\nversions = [{ model = 'm', version = 4 }]", r"not blessed"),
        ("[applications.new]\nslo_ms = 3", r"neither a version nor a signature"),
        ("[applications.'a/b']\nslo_ms = 3", r"'a/b' is not allowed"),
        ("applications = 3", r"cannot be read"),
        ("applications = {", r"cannot be read"),
        ("[applications.app.signature]\ninputs = [{ nam = 'x' }]", r"inputs\[0\]\.nam is unknown"),
    ],
)
def test_a_document_with_a_mistake_changes_nothing(
    home: Home, tables: Tables, text: str, why: str
) -> None:
    """It is told with its path, and what else the document says is not written either."""
    declare(home, WHOLE)
    before = StoreSource(home).revision()
    with pytest.raises(TidemillError, match=why):
        declare(home, f"{text}\n[applications.alone]\nslo_ms = 70\n")
    assert StoreSource(home).revision() == before


def test_a_change_in_between_is_a_conflict(home: Home, tables: Tables) -> None:
    """What was agreed to is what was seen: somebody else's change stops it."""
    declare(home, WHOLE)
    seen = declare(home, "[applications.app]\nslo_ms = 40\n", dry_run=True)
    set_replicas(home, "app", 5, **WHO)
    with pytest.raises(Conflict, match="has changed meanwhile"):
        declare(
            home,
            "[applications.app]\nslo_ms = 40\n",
            expected={each.application: each.revision for each in seen.changes},
        )
    assert get_deployment(home, "app").slo_ms == 20.0


def test_an_application_lives_without_a_model(home: Home, tables: Tables) -> None:
    """Registered, linked without going live, weighed, unlinked and stopped; its signature holds."""
    signature = signature_like(home, "m:1")
    made = register(home, "app", signature=signature, terms=Terms(slo_ms=30.0), **WHO)
    assert (made.versions, made.slo_ms, made.main) == ((), 30.0, None)
    with pytest.raises(Conflict, match="exists"):
        register(home, "app", signature=signature, terms=Terms(), **WHO)
    linked = link(home, "app", "m:1", **WHO)
    assert linked.versions == (Live(model="m", version=1),)
    beside = link(home, "app", "m:2", **WHO)
    assert shares(home) == {1: 1.0, 2: 0.0}
    assert beside.main == Live(model="m", version=1)
    assert Registry(home).aliases("m") == {"champion": 1}
    set_weights(home, "app", {1: 0.2, 2: 0.8}, **WHO)
    assert Registry(home).aliases("m") == {"champion": 2, "previous": 1}
    set_version(home, "app", 1, **WHO)
    assert shares(home) == {1: 1.0, 2: 0.0}
    unlink(home, "app", 2, **WHO)
    last = unlink(home, "app", 1, **WHO)
    assert (last.versions, last.signature) == ((), signature)
    assert stop(home, "app", **WHO).revision == last.revision + 1
    with pytest.raises(NotFound, match="'app' does not exist"):
        get_deployment(home, "app")
    verbs = [each.verb for each in read_audit(home.store, subject="app")]
    assert verbs == [
        *("stop", "unlink", "unlink", "set_version", "set_weights", "link", "link", "register")
    ]


def test_scaling_moves_no_alias(home: Home, tables: Tables) -> None:
    """What another application made the champion stays it."""
    deploy(home, "app", model="m", version=1, **WHO)
    deploy(home, "other", model="m", version=2, **WHO)
    assert set_replicas(home, "app", 4, **WHO).plan.replicas == 4
    assert Registry(home).aliases("m") == {"champion": 2, "previous": 1}


def test_a_split_is_rolled_back_to_who_was_alone(home: Home, tables: Tables) -> None:
    """With the table that it had; then further, as before."""
    deploy(home, "app", model="m", version=1, table=tables[0], **WHO)
    deploy(home, "app", model="m", version=2, **WHO)
    link(home, "app", "m:3", weight=0.1, **WHO)
    back = rollback(home, "app", **WHO)
    assert (back.from_version, back.to_version) == (3, 2)
    assert get_deployment(home, "app").versions == (Live(model="m", version=2),)
    assert rollback(home, "app", **WHO).table == tables[0]
    assert get_deployment(home, "app").versions == (Live(model="m", version=1, table=tables[0]),)


@pytest.mark.parametrize(
    ("verb", "error", "why"),
    [
        (lambda home: link(home, "app", "m:1", **WHO), Conflict, "linked to 'app' already"),
        (lambda home: link(home, "app", "m:9", **WHO), NotFound, "no version 9"),
        (lambda home: link(home, "app", "m:x", **WHO), InvalidInput, "names no version"),
        (lambda home: link(home, "app", "m@challenger", **WHO), NotFound, "no alias"),
        (lambda home: link(home, "app", "n", **WHO), NotFound, "'n' does not exist"),
        (lambda home: link(home, "app", "m:4", weight=0.1, **WHO), NotBlessed, "cannot be live"),
        (lambda home: link(home, "app", "m:2", weight=-1.0, **WHO), InvalidInput, "weights"),
        (lambda home: link(home, "none", "m:2", **WHO), NotFound, "Known: app"),
        (lambda home: unlink(home, "app", 2, **WHO), NotFound, "no version 2. Linked: 1"),
        (lambda home: set_weights(home, "app", {2: 1}, **WHO), NotFound, "no version 2"),
        (lambda home: set_version(home, "app", 3, **WHO), NotFound, "no version 3"),
        (lambda home: set_replicas(home, "app", 0, **WHO), InvalidInput, "replicas"),
        (lambda home: set_replicas(home, "app", 10**9, **WHO), InvalidInput, "replicas"),
        (lambda home: stop(home, "none", **WHO), NotFound, "'none' does not exist"),
        (lambda home: rollback(home, "app", **WHO), NotFound, "no previous champion"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    home: Home, tables: Tables, verb: Any, error: type[TidemillError], why: str
) -> None:
    """Each refusal is told in one sentence, and neither store nor audit has moved."""
    deploy(home, "app", model="m", version=1, **WHO)
    before = StoreSource(home).revision(), len(read_audit(home.store)), shares(home)
    with pytest.raises(error, match=why):
        verb(home)
    assert (StoreSource(home).revision(), len(read_audit(home.store)), shares(home)) == before


def test_versions_of_another_signature_cannot_be_linked(home: Home, tables: Tables) -> None:
    """An application takes and gives one set of columns, with a model or without."""
    other = Signature((Column("x", "float64"),), (Column("y", "float32", (1,)),))
    register(home, "app", signature=other, terms=Terms(), **WHO)
    with pytest.raises(InvalidInput, match="take or give other columns"):
        link(home, "app", "m:1", **WHO)


def test_old_documents_of_the_store_are_read(home: Home) -> None:
    """A deployment that was written before there were policies is a weighted one."""
    old = b'{"application":"a","revision":1,"versions":[{"model":"m","version":1}]}'
    read = msgspec.json.decode(old, type=type(_plain()))
    assert read == _plain()
    single = msgspec.structs.replace(read, policy=SinglePolicy())
    assert msgspec.json.decode(msgspec.json.encode(single), type=type(read)) == single


def _plain() -> Any:
    from tidemill.serving.plan import Deployment

    versions = (Live(model="m", version=1),)
    return Deployment(
        application="a", revision=1, versions=versions, policy=WeightedPolicy(sticky=None)
    )


@pytest.mark.parametrize("text", ["applications = 3", "[applications]\napp = 3"])
def test_what_is_no_table_is_told(text: str) -> None:
    """With its path."""
    with pytest.raises(InvalidInput, match=r"applications(\.app)? is no table"):
        read_document(text.encode(), origin="a.toml")
