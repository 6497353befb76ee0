"""Runs the six cases of ``tidemill demo`` and keeps what was predicted, measured and decided.

    python -m bench.cases [--smoke | --quick | --brief] [--plots FOLDER] [CASE …]

Every level runs each case whole, as a user would; ``--smoke`` runs the first only. With ``--plots``
the curves of each case's report are written into a folder, as the docs show them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from bench.cases.tables import case_table
from bench.effort import chosen_effort, effort_parser
from bench.ours import TIDEMILL
from bench.results import Record, claim, claims_table, say
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
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            say(f"{name}: a minute or two")
            folder = Path(made) / name
            try:
                told = run([*TIDEMILL, "demo", name, "--folder", str(folder), "--json"])
            except BenchmarkFailed as error:
                sys.exit(f"bench.cases: {error}")
            found.append(msgspec.json.decode(told))
            if options.plots is not None:
                _plot(name, folder / "report.html", options.plots)
        record.write(claims=_claims(found))
        print(f"\n{case_table(found[-1])}", flush=True)
    record.write(finished=len(found) == len(CASES))
    print(f"\n{claims_table(record.values['claims'])}")
    say(f"written to {record.path}")


def _claims(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    flips = [flip for case in found for flip in case["flips"]]
    return [
        claim("cases decided as theory says", _share(found), ">=", 1.0, "of all"),
        claim("inputs moved that decide as theory says", _share(flips), ">=", 1.0, "of all"),
    ]


def _share(told: list[dict[str, Any]]) -> float:
    return sum(each["agrees"] for each in told) / len(told)


def _plot(name: str, report: Path, folder: Path) -> None:
    drawn = _SVG.findall(report.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for what, svg in zip(_PLOTS, drawn, strict=True):
        (folder / f"{name}-{what}.svg").write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
