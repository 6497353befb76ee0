"""Where a model runs: in the gateway process, in workers, or in another server."""

from __future__ import annotations

from typing import Literal

from tidemill.models.format import ModelManifest
from tidemill.models.requirements import LOCK
from tidemill.serving.plan import ServingPlan
from tidemill.serving.replicas.address import RUNTIME

_COMPILED = "onnx"


def decide_placement(
    plan: ServingPlan, manifest: ModelManifest
) -> Literal["gateway", "worker", "remote"]:
    """Returns where a version runs; one that is in another server runs there.

    ``auto`` puts a model into the gateway only if it is compiled, and a batch of one was measured
    and is short: everything else on the event loop waits meanwhile. A model with requirements of
    its own runs in workers, whatever the plan says.
    """
    if LOCK in manifest.files:
        return "worker"
    if manifest.runtime == RUNTIME:
        return "remote"
    if plan.placement != "auto":
        return plan.placement
    latency = manifest.latency
    quick = latency is not None and latency.batch_1_s * 1000 <= plan.inline_below_ms
    return "gateway" if quick and manifest.runtime == _COMPILED else "worker"
