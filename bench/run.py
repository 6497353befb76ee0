"""Runs the benchmarks one after the other: all of them, or with --quick those that matter most.

python bench/run.py [--quick] [NAME …]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = {"forest": "one row to a random forest over HTTP, beside FastAPI"}


def main() -> None:
    """Runs each benchmark in a process of its own; stops at the first that fails."""
    listed = "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(description="Runs the benchmarks.", epilog=listed)
    parser.add_argument("--quick", action="store_true", help="at most five minutes in all")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; {listed}")
    flags = ["--quick"] if options.quick else []
    for name in options.names or BENCHMARKS:
        print(f"# {name}: {BENCHMARKS[name]}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{name}", *flags], cwd=ROOT, check=False
        )
        if done.returncode != 0:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
