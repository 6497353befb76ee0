"""Runs a server as a command line asked for it, with nothing loaded but what serves.

A server runs for weeks. What reads a command line for people, with its help, colours and tables,
would be kept all the time; a plain one needs none of it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.cli.opening import open_named
from tidemill.cli.parent import stop_with_parent
from tidemill.cli.printing import print_json
from tidemill.control.server import Serving
from tidemill.control.server import serve as serve_home
from tidemill.foundation.settings import FlagValue

_SETTINGS: dict[str, type[str | int]] = {
    "host": str,
    "port": int,
    "admin_port": int,
    "grpc_port": int,
    "gateways": int,
}


@dataclass(slots=True, kw_only=True)
class Asked:
    """What ``tidemill serve`` was asked for; ``flags`` are settings by their names."""

    flags: dict[str, FlagValue] = field(default_factory=dict)
    home: Path | None = None
    config: Path | None = None
    json: bool = False
    with_parent: bool = False


def read(arguments: Sequence[str]) -> Asked | None:
    """Returns what plain arguments ask for; None where somebody has to look who explains.

    Example:
        >>> read(["--port", "8080", "--home=/srv/tidemill"]).flags
        {'serve.port': 8080}
        >>> read(["--help"]), read(["--port", "many"])
        (None, None)
    """
    asked, left = Asked(), list(arguments)
    while left:
        option, equals, value = left.pop(0).partition("=")
        name = option[2:].replace("-", "_")
        if not option.startswith("--") or "_" in option:
            return None
        if name in {"json", "with_parent"} and not equals:
            setattr(asked, name, True)
            continue
        if not equals and left:
            value = left.pop(0)
        if not value or value.startswith("-"):
            return None
        if name in {"home", "config"}:
            setattr(asked, name, Path(value))
        elif name in _SETTINGS and (_SETTINGS[name] is str or value.isdecimal()):
            asked.flags[f"serve.{name}"] = _SETTINGS[name](value)
        else:
            return None
    return asked


def run(asked: Asked) -> None:
    """Serves until SIGTERM or Ctrl-C; says where once queries are answered."""
    if asked.with_parent:
        stop_with_parent()

    def ready(serving: Serving) -> None:
        if asked.json:
            print_json(serving)
        else:
            sys.stdout.write(f"{_told(serving)}\n")
            sys.stdout.flush()

    with open_named(home=asked.home, config=asked.config, flags=asked.flags) as home:
        asyncio.run(serve_home(home, ready=ready))


def _told(serving: Serving) -> str:
    names = ", ".join(serving.applications) or "no application yet"
    scheme = "https" if serving.tls else "http"
    lines = [f"serving {names} on {scheme}://{serving.host}:{serving.port}"]
    if serving.grpc_port is not None:
        lines.append(f"gRPC on {serving.host}:{serving.grpc_port}")
    lines.append(f"admin API on {scheme}://127.0.0.1:{serving.admin_port}/admin/v1/health")
    return "\n".join(lines)
