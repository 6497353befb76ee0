"""What is live beside a plan, and the plan made live: as ``tidemill apply`` would, and audited."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from tidemill.control.documents import ApplicationEntry, Document
from tidemill.control.planned import apply_planned
from tidemill.control.rollout import answering
from tidemill.foundation.home import Home
from tidemill.planning.alternatives import Alternative, Study
from tidemill.planning.choose import Plan, settings_of
from tidemill.planning.reexamine import alike
from tidemill.serving.plan import Deployment
from tidemill.tables.catalog import get_table


def present_alternative(home: Home, deployment: Deployment, plan: Plan) -> Alternative:
    """Returns what is live as an alternative of a plan, under the plan's traffic and prices.

    Its table is taken to hold the most frequent keys, as many as it has; ``tidemill table show``
    tells what it really answers. A cache is counted as large as it can become.

    Raises:
        InvalidInput: no version answers.
        NotFound: its table is gone.
    """
    version = answering(deployment)
    keys = 0 if version.table is None else get_table(home.store, version.table).rows
    cardinality = plan.traffic.cardinality
    room = int(deployment.plan.cache_bytes / plan.costs.entry_bytes)
    study = Study(plan.traffic, plan.costs, plan.prices, plan.promise)
    return study.alternative(
        min(keys, cardinality),
        min(room, max(0, cardinality - keys)),
        replicas=deployment.plan.replicas,
        batch_limit=deployment.plan.max_batch,
    )


def make_live(
    home: Home, plan: Plan, present: Alternative, deployment: Deployment, *, by: str, reason: str
) -> int:
    """Makes a plan live; returns the revision.

    Its table is built of what the ledger saw, and live, before the rest is applied: whoever is
    killed in between leaves a table too many, and no query without an answer.

    Args:
        home: the installation.
        plan: what was chosen.
        present: what is live, beside it.
        deployment: the record that the plan was compared with.
        by: who changes it.
        reason: why, for the audit.

    Raises:
        Conflict: somebody changed the application since it was compared.
        InvalidInput: the application has no key to build a table by.
    """
    chosen, name, revision = plan.chosen, deployment.application, deployment.revision
    same = chosen.head_keys and alike(
        msgspec.structs.replace(present, cache_entries=0, replicas=1),
        msgspec.structs.replace(chosen, cache_entries=0, replicas=1),
    )
    age_s = plan.promise.max_age_s
    settings: dict[str, Any] = {**settings_of(plan)}
    entry = ApplicationEntry(
        plan=settings,
        max_age_s=UNSET if age_s is None else age_s,
        head_keys=UNSET if same else chosen.head_keys,
    )
    done = apply_planned(
        home,
        Document(applications={name: entry}),
        by=by,
        reason=reason[:300],
        expected={name: revision},
    )
    return done.changes[0].revision if done.changes else revision
