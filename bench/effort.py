"""How long is measured."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Effort:
    """One of four efforts; ``smoke`` only shows that everything runs."""

    name: str
    repeats: int
    seconds: float
    soak_s: float
    every_configuration: bool = False
    """Each peer in each of its configurations; else in its best for each workload."""
    peers: tuple[str, ...] | None = None
    """Only these; None: all."""


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort(name="smoke", repeats=1, seconds=1.0, soak_s=6.0),
        Effort(name="quick", repeats=2, seconds=2.0, soak_s=20.0, peers=("fastapi",)),
        Effort(name="brief", repeats=3, seconds=2.0, soak_s=60.0),
        Effort(name="full", repeats=5, seconds=2.0, soak_s=300.0, every_configuration=True),
    )
}


def parse_effort(name: str, description: str | None) -> tuple[Effort, argparse.Namespace]:
    """Reads the command line of one benchmark that has no options of its own."""
    options = effort_parser(name, description).parse_args()
    return chosen_effort(options), options


def effort_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of one benchmark's command line, to which it may add its own options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    levels = parser.add_mutually_exclusive_group()
    levels.add_argument("--smoke", action="store_true", help="seconds: shows that it runs")
    levels.add_argument("--quick", action="store_true", help="at most five minutes in all")
    levels.add_argument("--brief", action="store_true", help="every claim, in about ten minutes")
    parser.add_argument("--repeats", type=int, metavar="N", help="how often each is measured")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="how long the soak lasts")
    return parser


def chosen_effort(options: argparse.Namespace) -> Effort:
    """Returns the effort that the options ask for."""
    name = next((each for each in ("smoke", "quick", "brief") if getattr(options, each)), "full")
    given = {"repeats": options.repeats, "soak_s": options.soak}
    return replace(EFFORTS[name], **{k: v for k, v in given.items() if v is not None})
