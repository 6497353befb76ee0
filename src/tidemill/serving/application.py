"""An application as its queries find it: what is live behind a name, and what may be promised."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.models.signature import Signature
from tidemill.serving.batching import SLICE_S
from tidemill.serving.measures import Measures
from tidemill.serving.plan import Deployment
from tidemill.serving.selection import SelectionPolicy, sole, split_of
from tidemill.serving.version import LiveVersion


@dataclass(slots=True, kw_only=True)
class Application:
    """What clients query: the live versions behind a name, looked up once per query.

    ``name`` is the one that clients use; ``only`` is the one version that has a weight, if it is
    one: the usual case, and no choice.
    """

    deployment: Deployment
    versions: tuple[LiveVersion, ...]
    signature: Signature
    measures: Measures
    name: str = field(init=False)
    only: LiveVersion | None = field(init=False)
    policy: SelectionPolicy | None = field(init=False)
    slo_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.deployment.application
        at = sole(self.deployment)
        self.only = None if at is None else self.versions[at]
        self.policy = split_of(self.deployment)
        self.slo_s = self.deployment.slo_ms / 1000.0

    @property
    def answering(self) -> list[LiveVersion]:
        """The versions that have a weight."""
        weighted = zip(self.versions, self.deployment.versions, strict=True)
        return [version for version, live in weighted if live.weight > 0.0]

    def allowed_s(self, timeout_s: float | None) -> float:
        """Returns how long an answer may take: the promise, or the client's time if that is less.

        Raises:
            InvalidInput: the client gives no time at all.
        """
        if timeout_s is None:
            return self.slo_s
        if timeout_s <= 0.0:
            raise InvalidInput("the timeout is not positive", remedy="Leave it out or raise it.")
        return min(self.slo_s, timeout_s)

    def classes_of(self, number: int) -> tuple[str, ...]:
        """Returns what a version calls its classes; nothing if that is not known."""
        return next((each.classes for each in self.versions if each.version == number), ())

    def closed_to(self, arrived: float) -> bool:
        """Says whether a query that arrived then may be hopeless, and it is worth a closer look."""
        only = self.only
        return only is not None and arrived < only.batcher.closed_until

    def hopeless(self, arrived: float, now: float, *, soonest_s: float, patience_s: float) -> bool:
        """Says whether no answer can come in time, whatever the query asks, nor a default.

        Args:
            arrived: when it arrived.
            now: when it is read.
            soonest_s: in what time this process could come to answer what is read now.
            patience_s: by when after its arrival it must come to that.
        """
        if self.deployment.default is not None:
            return False
        if now + soonest_s > arrived + patience_s:
            return True
        least_s, only = SLICE_S, self.only
        if only is not None and only.table is None and not only.keyed:
            batcher = only.batcher
            if not batcher.doubtful(now):
                if arrived < batcher.closed_until and self.slo_s <= batcher.closed_for_s:
                    return True
                least_s += batcher.law.predict(1)
        return now + least_s > arrived + self.slo_s

    def live_version(self, number: int) -> LiveVersion:
        """Returns the version that a client insists on.

        Raises:
            NotFound: it is not live.
        """
        for each in self.versions:
            if each.version == number:
                return each
        live = ", ".join(str(each.version) for each in self.versions) or "none"
        raise NotFound(
            f"Request for unknown model: {self.name!r} version {number} is not live",
            remedy=f"Live versions: {live}.",
        )
