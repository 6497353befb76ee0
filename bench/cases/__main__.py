"""Runs the six cases of ``tidemill demo`` and keeps what was predicted, measured and decided.

    python -m bench.cases [--smoke | --quick | --brief] [--plots FOLDER] [CASE …]

Every level runs each case whole, as a user would; ``--smoke`` runs the first only. What a case came
to is written when it ends; the report puts together each one's newest. With ``--plots`` the curves
of each case's report are written into a folder, as the docs show them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from bench.cases.claims import case_claims
from bench.cases.tables import case_table
from bench.effort import chosen_effort, effort_parser
from bench.ours import TIDEMILL
from bench.results import Record, claims_table, say
from bench.servers import BenchmarkFailed, run

CASES = ("spam", "voice", "ads", "autocomplete", "lifetime", "divisions")
_PLOTS = ("cost", "latency")
_SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


def main() -> None:
    """Runs the cases, prints tables and claims, and says where the figures are."""
    parser = effort_parser("bench.cases", __doc__)
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write the curves there")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these")
    options = parser.parse_args()
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}: {', '.join(CASES)}")
    effort = chosen_effort(options)
    names = options.cases or (CASES[:1] if effort.name == "smoke" else CASES)
    record = Record("cases", effort=effort.name, repeats=1, cases=[], claims=[], finished=False)
    found: list[dict[str, Any]] = record.values["cases"]
    failed = []
    for at, name in enumerate(names):
        say(f"{name}: case {at + 1} of {len(names)}, a minute or two")
        try:
            found.append(_told(name, options.plots))
        except BenchmarkFailed as error:  # the others say something all the same
            failed.append(name)
            say(f"bench.cases: {error}")
            continue
        record.write(claims=case_claims(found))
        print(f"\n{case_table(found[-1])}", flush=True)
        say(f"{name}: took {found[-1]['took_s']:.0f} s")
    record.write(failed=failed, finished=len(found) == len(CASES))
    print(f"\n{claims_table(record.values['claims'])}")
    say(f"written to {record.path}")
    if failed:
        sys.exit(f"bench.cases: failed: {', '.join(failed)}")


def _told(name: str, plots: Path | None) -> dict[str, Any]:
    """Runs a case; what it tells on its way is told here, too."""
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        folder = Path(made) / name
        command = [*TIDEMILL, "demo", name, "--folder", str(folder), "--json"]
        told: dict[str, Any] = msgspec.json.decode(run(command, shown=True))
        if plots is not None:
            _plot(name, folder / "report.html", plots)
    return told


def _plot(name: str, report: Path, folder: Path) -> None:
    drawn = _SVG.findall(report.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for what, svg in zip(_PLOTS, drawn, strict=True):
        (folder / f"{name}-{what}.svg").write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
