"""Where a model runs: in the gateway process, in workers, or in another server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tidemill.foundation.errors import InvalidInput
from tidemill.models.format import ModelManifest
from tidemill.models.requirements import LOCK
from tidemill.serving.plan import CPU, ServingPlan
from tidemill.serving.replicas.address import RUNTIME

_COMPILED = "onnx"
_IN_WORKERS = frozenset({"mlflow", "python", "torch"})
_ON_GPUS = frozenset({"onnx", "torch", "python"})


def decide_placement(
    plan: ServingPlan, manifest: ModelManifest
) -> Literal["gateway", "worker", "remote"]:
    """Returns where a version runs; one that is in another server runs there.

    ``auto`` puts a model into the gateway only if it is compiled, and a batch of one was measured
    and is short: everything else on the event loop waits meanwhile. A model with requirements of
    its own, one on a GPU, one of PyTorch's, whose threads are those of a whole process, one of
    MLflow's, whose import alone takes seconds, and a function, which may do anything, run in
    workers, whatever the plan says.

    Raises:
        InvalidInput: the plan wants a GPU for a model that cannot use one.
    """
    if plan.device != CPU and manifest.runtime not in _ON_GPUS:
        raise InvalidInput(
            f"model {manifest.name!r} ({manifest.runtime}) cannot be placed on {plan.device!r}",
            remedy=f'Set device = "{CPU}" in the plan; models of {", ".join(sorted(_ON_GPUS))} '
            "can be on GPUs.",
        )
    if manifest.runtime == RUNTIME:
        return "remote"
    if LOCK in manifest.files or manifest.runtime in _IN_WORKERS or plan.device != CPU:
        return "worker"
    if plan.placement != "auto":
        return plan.placement
    latency = manifest.latency
    quick = latency is not None and latency.batch_1_s * 1000 <= plan.inline_below_ms
    return "gateway" if quick and manifest.runtime == _COMPILED else "worker"


def spread(devices: tuple[str, ...], taken: Sequence[str], count: int) -> list[str]:
    """Returns the devices of the next workers: each time the one that has the fewest.

    Args:
        devices: those to choose from.
        taken: the devices of the workers that run already.
        count: how many more there are to be.

    Example:
        >>> spread(("cuda:0", "cuda:1"), ["cuda:0"], 2)
        ['cuda:1', 'cuda:0']
    """
    chosen: list[str] = []
    for _ in range(count):
        chosen.append(min(devices, key=[*taken, *chosen].count))
    return chosen
