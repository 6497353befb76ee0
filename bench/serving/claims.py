"""What is claimed of serving one row a request, and whether this run shows it."""

from __future__ import annotations

from typing import Any

from bench.results import claim
from bench.serving.names import AT, BINARY, GATEWAY, ORIGINAL, WORKER

TRITON, FASTAPI, FLOOR = "Triton", "FastAPI", "the floor"
OTHERS = ("MLServer", "LitServe", "BentoML", "Ray Serve")


def claims(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judges the medians; a peer in several configurations counts with its best one."""
    look = _Look(summary)
    found = [
        claim("sum in the gateway / Triton", look.ratio("sum", GATEWAY, TRITON), ">=", 3),
        claim("sum with a worker / Triton", look.ratio("sum", WORKER, TRITON), ">=", 2),
        claim("sum in the gateway / FastAPI", look.ratio("sum", GATEWAY, FASTAPI), ">=", 7),
        *(
            claim(f"sum in the gateway / {other}", look.ratio("sum", GATEWAY, other), ">=", 20)
            for other in OTHERS
        ),
        claim("lr / Triton", look.ratio("lr", GATEWAY, TRITON), ">=", 2.5),
        claim("rf compiled / Triton", look.ratio("rf", GATEWAY, TRITON), ">=", 5),
        claim("rf not compiled / Triton", look.ratio("rf", ORIGINAL, TRITON), ">=", 1.2),
        claim("mlp JSON / Triton JSON", look.ratio("mlp", GATEWAY, TRITON), ">=", 1.4),
        claim("mlp binary / Triton JSON", look.ratio("mlp", BINARY, TRITON), ">=", 2.5),
        claim(
            "mlp binary / Triton binary", look.ratio("mlp", BINARY, f"{TRITON}, binary"), ">=", 2.5
        ),
    ]
    floor_cpu = look.figure("sum", FLOOR, "cpu_us_per_request")
    for name, place, aim in ((GATEWAY, "in the gateway", 2.5), (WORKER, "with a worker", 4)):
        cpu = look.figure("sum", name, "cpu_us_per_request")
        what = f"sum {place}: CPU per request / the floor's"
        found.append(claim(what, _divided(cpu, floor_cpu), "<=", aim))
    for name, place in ((GATEWAY, "in the gateway"), (WORKER, "with a worker")):
        p50 = look.figure("sum", name, "p50_ms", connections=1)
        found.append(claim(f"sum {place}: p50 at 1 connection", p50, "<=", 0.25, "ms"))
        tail = look.figure("sum", name, "tail", connections=256)
        floor_tail = look.figure("sum", FLOOR, "tail", connections=256)
        what = f"sum {place}: p99/p50 at 256 connections / the floor's"
        found.append(claim(what, _divided(tail, floor_tail), "<=", 1.3))
    return found


class _Look:
    """Looks figures up in a summary."""

    def __init__(self, summary: list[dict[str, Any]]) -> None:
        self._rows = {(s["workload"], s["target"], s["connections"]): s for s in summary}

    def figure(
        self, workload: str, target: str, name: str, *, connections: int = AT
    ) -> float | None:
        """Returns a median."""
        row = self._rows.get((workload, target, connections))
        return None if row is None or row[name] is None else row[name]["median"]

    def ratio(self, workload: str, ours: str, peer: str) -> float | None:
        """Returns our throughput over the best of the peer's configurations."""
        theirs = [
            row["rps"]["median"]
            for (work, target, connections), row in self._rows.items()
            if work == workload and connections == AT and _is_of(target, peer)
        ]
        mine = self.figure(workload, ours, "rps")
        return _divided(mine, max(theirs, default=None))


def _is_of(target: str, peer: str) -> bool:
    if target.endswith("binary") and not peer.endswith("binary"):
        return False
    if target.endswith("2 workers"):
        return False  # two processes: shown beside, and compared with nothing of one
    return target == peer or target.startswith((f"{peer},", f"{peer} "))


def _divided(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
