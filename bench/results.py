"""Results: what they depend on, where they are written, and claims that they meet or miss."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from bench.servers import ROOT

from tidemill.foundation.errors import TidemillError
from tidemill.serving.native import compile_gateway

RESULTS = ROOT / "bench" / "results"
BUSY, LOOKED_S = 0.15, 2.0
"""A larger share of the CPU that was in use before a benchmark began is told with its figures."""
_NAMES = ("tidemill", "numpy", "scikit-learn", "onnxruntime", "skl2onnx")
_NAMES += ("httptools", "uvloop", "msgspec", "orjson")


def about() -> dict[str, Any]:
    """Returns what a figure depends on: the machine, the versions, the commit, what is compiled."""
    return {
        "native": _compiled(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "system": platform.platform(),
            "python": platform.python_version(),
            "busy": psutil.cpu_percent(LOOKED_S) / 100,
        },
        "versions": {name: _version(name) for name in _NAMES},
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "src", "bench")),
    }


def claim(
    what: str, found: float | None, relation: Literal[">=", "<="], aim: float, unit: str = "x"
) -> dict[str, Any]:
    """Returns whether a figure meets its aim; what was not measured meets nothing."""
    met = None if found is None else (found >= aim if relation == ">=" else found <= aim)
    rounded = None if found is None else round(found, 4)
    return {
        "claim": what,
        "relation": relation,
        "aim": aim,
        "unit": unit,
        "found": rounded,
        "met": met,
    }


def claims_table(claims: list[dict[str, Any]]) -> str:
    """Returns the claims as a Markdown table."""
    words = {True: "met", False: "**not met**", None: "not measured"}
    signs = {">=": "≥", "<=": "≤"}
    lines = ["| claim | aim | found | |", "|---|--:|--:|---|"]
    for each in claims:
        unit = each["unit"]
        found = "" if each["found"] is None else f"{each['found']:,.3g} {unit}"
        if each["found"] is not None and each["found"] >= 1000:
            found = f"{each['found']:,.0f} {unit}"
        aim = f"{signs[each['relation']]} {each['aim']:g} {unit}"
        lines.append(f"| {each['claim']} | {aim} | {found} | {words[each['met']]} |")
    return "\n".join(lines)


def _compiled() -> bool:
    """Has our gateways compiled as ``tidemill native`` does, where that is possible."""
    try:
        say("compiling the gateway, unless it is")
        compile_gateway()
    except TidemillError as error:
        say(f"the gateway runs from its sources: {error}")
        return False
    return True


class Record:
    """The results of one run, on disk from the first figure on.

    A run that is cut short leaves what it had found; ``finished`` tells that it was not.
    """

    def __init__(self, benchmark: str, **facts: Any) -> None:
        self.values: dict[str, Any] = {"benchmark": benchmark, **about(), **facts}
        busy = self.values["machine"]["busy"]
        if busy > BUSY:
            say(f"THIS MACHINE IS BUSY ({busy:.0%} of its CPU): its figures will say little")
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self.path = RESULTS / f"{benchmark}-{moment}-{os.getpid()}.json"

    def write(self, **values: Any) -> None:
        """Adds values, or replaces them, and writes all that there is."""
        self.values |= values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.path)


def all_results(benchmark: str) -> list[dict[str, Any]]:
    """Returns what runs of a benchmark on this machine found, the newest last.

    Not among them are those of the smoke level, whose figures mean nothing.
    """
    found = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob(f"{benchmark}-*.json"))]
    return [each for each in found if "finished" in each and each["effort"] != "smoke"]


def say(text: str) -> None:
    """Tells of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip() if done.returncode == 0 else None
