"""Makes the peers' virtual environments, once: in ``bench/.peers`` or where ``BENCH_PEERS`` says.

    python -m bench.peers.install [NAME …]

One that cannot be made is named with the reason, and left out of the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.results import say
from bench.servers import ROOT

REQUIREMENTS = ROOT / "bench" / "peers" / "requirements"
OTHERS = ROOT / "bench" / "data" / "requirements"
"""Of those that serve nothing: they are installed by the benchmark that asks them."""
NAMES = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
COMPLETE = frozenset({"tfdv"})
"""Whose packages state requirements that contradict each other: all that they need is listed."""
INSTALL_S = 900
_MARK = "installed.sha256"


def folder() -> Path:
    """Returns where the environments are."""
    return Path(os.environ.get("BENCH_PEERS") or ROOT / "bench" / ".peers").resolve()


def binary(name: str, program: str = "python") -> Path:
    """Returns a program in a peer's environment."""
    return folder() / name / "bin" / program


def installed(name: str) -> bool:
    """Tells whether the environment holds what is required of it now."""
    mark = folder() / name / _MARK
    return mark.is_file() and mark.read_text(encoding="utf-8") == _wanted(name)


def install(name: str) -> str | None:
    """Makes the environment unless it is there; returns why it could not be made."""
    if installed(name):
        return None
    say(f"installing {name} into {folder() / name} …")
    start = time.monotonic()
    shutil.rmtree(folder() / name, ignore_errors=True)
    folder().mkdir(parents=True, exist_ok=True)
    for command in _commands(name):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALL_S
            )
        except subprocess.TimeoutExpired:
            return f"it took longer than {INSTALL_S} seconds to install"
        if done.returncode != 0:
            return f"{' '.join(command[:4])} … failed: {done.stderr.strip()[-600:]}"
    (folder() / name / _MARK).write_text(_wanted(name), encoding="utf-8")
    say(f"installed {name} in {time.monotonic() - start:.0f} s")
    return None


def versions(name: str) -> dict[str, str]:
    """Returns the versions that a peer is required in."""
    lines = _listed(name).read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines if "==" in line)


def main() -> None:
    """Makes those that are named, or all; exits with 1 if one could not be made."""
    parser = argparse.ArgumentParser(description="Installs the peers of the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"there is no peer {unknown[0]!r}; there are {', '.join(NAMES)}")
    reasons = {name: install(name) for name in names}
    for name, reason in reasons.items():
        say(f"{name}: {reason or 'ready'}")
    sys.exit(any(reasons.values()))


def _commands(name: str) -> list[list[str]]:
    target, listed = folder() / name, ["-r", str(_listed(name))]
    if name in COMPLETE:
        listed.append("--no-deps")
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    python = str(binary(name))
    if uv is None:
        pip = [python, "-m", "pip", "install", "--quiet", "--compile", *listed]
        return [[sys.executable, "-m", "venv", str(target)], pip]
    install_with_uv = [uv, "pip", "install", "--quiet", "--python", python]
    return [
        [uv, "venv", "--quiet", "--python", sys.executable, str(target)],
        [*install_with_uv, "--compile-bytecode", *listed],
    ]


def _wanted(name: str) -> str:
    return hashlib.sha256(_listed(name).read_bytes()).hexdigest()


def _listed(name: str) -> Path:
    own = REQUIREMENTS / f"{name}.txt"
    return own if own.is_file() else OTHERS / f"{name}.txt"


if __name__ == "__main__":
    main()
