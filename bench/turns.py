"""Measures servers in turns, and does without a peer that fails twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.measure import Target, check, measure
from bench.results import say
from bench.servers import BenchmarkFailed


def take_turns(
    targets: Sequence[Target],
    *,
    repeats: int,
    seconds: float,
    left_out: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measures every target in turn, so often, and yields each run's figures as they come.

    Who rests is paused; another begins each time. An expendable target that fails is started once
    more and asked again; when it fails again it is asked no more, and ``left_out`` has the reason.

    Raises:
        BenchmarkFailed: a target failed that is not expendable.
    """
    patience = _Patience(left_out=left_out if left_out is not None else {})
    for repeat in range(repeats):
        for connections in sorted({each for target in targets for each in target.connections}):
            asked = [
                target
                for target in targets
                if connections in target.connections and target.name not in patience.left_out
            ]
            turn = repeat % max(1, len(asked))
            for target in (*asked[turn:], *asked[:turn]):
                found = patience.measure(target, connections=connections, seconds=seconds)
                if found is None:
                    continue
                say(
                    f"  {repeat + 1}/{repeats} {connections:>4} connections "
                    f"{found['rps']:>9,.0f}/s  p50 {found['p50_ms'] or 0:.2f} ms "
                    f"{found['cpu_us_per_request']:>7,.0f} µs  {target.name}"
                )
                yield {"repeat": repeat, **target.facts, **found}


@dataclass(kw_only=True)
class _Patience:
    """Gives every expendable target a second chance, and no third."""

    left_out: dict[str, str]
    restarted: set[str] = field(default_factory=set)

    def measure(self, target: Target, *, connections: int, seconds: float) -> dict[str, Any] | None:
        """Returns a run's figures; None if the target is left out from now on."""
        while True:
            try:
                return _awake(target, connections=connections, seconds=seconds)
            except BenchmarkFailed as error:
                if not target.expendable:
                    raise
                if not self._start_again(target, error):
                    return None

    def _start_again(self, target: Target, error: BenchmarkFailed) -> bool:
        if target.name not in self.restarted:
            self.restarted.add(target.name)
            say(f"  {target.name} failed and is started again: {first_line(error)}")
            try:
                target.server.restart()
                check(target)
            except BenchmarkFailed as again:
                error = again
            else:
                return True
        self.left_out[target.name] = str(error)
        say(f"LEFT OUT: {target.name}: {first_line(error)}")
        target.server.stop()
        return False


def first_line(error: BenchmarkFailed) -> str:
    """Returns what went wrong without the server's log."""
    return str(error).partition("\n")[0]


def _awake(target: Target, *, connections: int, seconds: float) -> dict[str, Any]:
    if target.pausable:
        target.server.resume()
    found = measure(target, connections=connections, seconds=seconds)
    if target.pausable:
        target.server.pause()
    return found
