"""The admin API's verbs on applications: each body is a record, each verb one function of the room.

Who asks is told apart in the audit from the command line; what is done is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidemill.control import applications
from tidemill.control.deployments import Terms, get_deployment
from tidemill.control.documents import document_of, parse_document
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home
from tidemill.models.signature import Signature
from tidemill.serving.plan import ServingPlan


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every body may say."""

    reason: str = "asked through the admin API"


class Apply(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /admin/v1/applications``: a document, as JSON."""

    applications: dict[str, Any]
    dry_run: bool = False
    expected: dict[str, int] | None = None

    def run(self, home: Home, by: str) -> Any:
        """Compares, and unless it is a dry run writes, all of it."""
        document = parse_document({"applications": self.applications}, origin="the body")
        return applications.apply(
            home,
            document,
            by=by,
            reason=self.reason,
            dry_run=self.dry_run,
            expected=self.expected,
        )


class Register(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``:register``; ``like`` names a version whose signature it takes."""

    signature: Signature | None = None
    like: str | None = None
    slo_ms: float | None = None
    default: dict[str, Any] | None = None
    key: tuple[str, ...] | None = None
    represent: dict[str, str] | None = None
    plan: ServingPlan | None = None
    max_age_s: float | None = None

    def run(self, home: Home, by: str, name: str) -> Any:
        """Makes the application."""
        signature = self.signature
        if (signature is None) == (self.like is None):
            raise InvalidInput(
                "the body has " + ("no signature" if signature is None else "two signatures"),
                remedy="Give a signature, or like with MODEL:VERSION.",
            )
        if signature is None:
            signature = applications.signature_like(home, self.like or "")
        terms = Terms(
            slo_ms=self.slo_ms,
            default=self.default,
            key=self.key,
            represent=self.represent,
            plan=self.plan,
            max_age_s=self.max_age_s,
        )
        return applications.register(
            home, name, signature=signature, terms=terms, by=by, reason=self.reason
        )


class Link(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``:link``; ``version`` is MODEL:VERSION or MODEL@ALIAS."""

    version: str
    weight: float | None = None
    table: str | None = None

    def run(self, home: Home, by: str, name: str) -> Any:
        """Links the version."""
        return applications.link(
            home,
            name,
            self.version,
            weight=self.weight,
            table=self.table,
            by=by,
            reason=self.reason,
        )


class Unlink(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``:unlink``."""

    version: int

    def run(self, home: Home, by: str, name: str) -> Any:
        """Takes the version away."""
        return applications.unlink(home, name, self.version, by=by, reason=self.reason)


class Weights(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``:weights``: shares by version."""

    weights: dict[int, float]

    def run(self, home: Home, by: str, name: str) -> Any:
        """Changes the shares."""
        return applications.set_weights(home, name, self.weights, by=by, reason=self.reason)


class Version(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``:version``."""

    version: int

    def run(self, home: Home, by: str, name: str) -> Any:
        """Gives the version all the weight."""
        return applications.set_version(home, name, self.version, by=by, reason=self.reason)


class Replicas(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``:replicas``."""

    replicas: int

    def run(self, home: Home, by: str, name: str) -> Any:
        """Changes how many workers answer."""
        return applications.set_replicas(home, name, self.replicas, by=by, reason=self.reason)


class Stop(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``:stop``."""

    def run(self, home: Home, by: str, name: str) -> Any:
        """Stops the application."""
        return applications.stop(home, name, by=by, reason=self.reason)


VERBS: Mapping[str, type[Any]] = {
    "register": Register,
    "link": Link,
    "unlink": Unlink,
    "weights": Weights,
    "version": Version,
    "replicas": Replicas,
    "stop": Stop,
}
"""The body of each ``/admin/v1/applications/NAME:VERB``; its ``run`` does it."""


def show(home: Home, name: str) -> dict[str, Any]:
    """Returns an application's live document, as ``Apply`` takes it, and its revision."""
    found = get_deployment(home, name)
    return {
        "application": name,
        "revision": found.revision,
        "document": {"applications": {name: document_of(found)}},
    }
