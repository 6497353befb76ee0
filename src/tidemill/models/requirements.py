"""A model's Python requirements, locked: every distribution with its version and its hashes.

The lock is a file of the model folder, hashed with the others. It names no package index: where
wheels come from is the business of the machine that installs them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tidemill.foundation.environment import installer_environment
from tidemill.foundation.errors import InvalidInput, InvalidModel, NotFound, TooLarge, Unavailable
from tidemill.models.format import ModelManifest, read_verified

FORMAT = 1
LOCK = "requirements.lock.json"
"""The lock's name in a model folder; a model that has one runs in an environment of its own."""

OF_WORKER = ("msgspec>=0.19", "numpy>=1.26")
"""What ``tidemill_worker`` needs, within what the model allows."""

_MAX_BYTES = 256 << 10
_LOCK_WITHIN_S = 300.0
_NAMED = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(\[[A-Za-z0-9._, -]{0,200}\])?\s*(?=[<>=!~;(]|\Z)"
)
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([A-Za-z0-9.!+_-]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
_Version = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,99}$")]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Distribution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One distribution at one version; a wheel with one of the hashes is that version."""

    name: _Name
    version: _Version
    sha256: Annotated[tuple[_Sha256, ...], msgspec.Meta(min_length=1)]


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an environment holds, for one Python on one platform."""

    format: int = FORMAT
    python: str
    platform: str
    distributions: tuple[Distribution, ...]

    def to_json(self) -> bytes:
        """Returns the lock as the file of a model folder."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic")) + b"\n"

    def to_requirements(self) -> str:
        """Returns the lock as installers read it."""
        return "".join(
            " \\\n    ".join(
                [f"{each.name}=={each.version}", *(f"--hash=sha256:{h}" for h in each.sha256)]
            )
            + "\n"
            for each in self.distributions
        )


_decoder = msgspec.json.Decoder(Lock)


def this_python() -> tuple[str, str]:
    """Returns the version and the platform of this Python, as locks name them."""
    system = f"{sysconfig.get_platform()}-{platform.python_implementation().lower()}"
    return f"{sys.version_info.major}.{sys.version_info.minor}", system


def read_lock(folder: Path, manifest: ModelManifest) -> Lock | None:
    """Returns the lock of a model folder; None if the model has no requirements of its own.

    Raises:
        Corrupted: it is not what was written.
        InvalidModel: it is no lock, or one of a newer format.
    """
    if LOCK not in manifest.files:
        return None
    data = read_verified(folder, manifest, LOCK)
    try:
        found = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise InvalidModel(f"{LOCK} of model {manifest.name!r} cannot be read: {error}") from error
    if found.format > FORMAT:
        raise InvalidModel(
            f"{LOCK} has format {found.format}, newer than {FORMAT} known here",
            remedy="Upgrade Tidemill on this machine.",
        )
    return found


def read_requirements(path: Path) -> tuple[str, ...]:
    """Returns the requirements that a file lists: names with versions, nothing else.

    Raises:
        NotFound: there is no such file.
        TooLarge: it is no list that a person wrote.
        InvalidInput: a line is an option, an address, a path, or no requirement.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", remedy="Check the path.") from (
            error
        )
    if len(data) > _MAX_BYTES:
        raise TooLarge(f"{path} has more than {_MAX_BYTES >> 10} KiB of requirements")
    lines = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        wanted = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not wanted:
            continue
        if not _NAMED.match(wanted) or "://" in wanted or "--" in wanted or wanted.endswith("\\"):
            raise InvalidInput(
                f"line {number} of {path} is {wanted[:100]!r}, which is no name with versions",
                remedy="Write lines like 'six==1.15.0': options, addresses and paths are refused.",
            )
        lines.append(wanted)
    return tuple(lines)


def requirement_name(requirement: str) -> str:
    """Returns the name of what is required, as package indexes compare names.

    Example:
        >>> requirement_name("Scikit_Learn[alldeps] >=1.5 ; python_version < '4'")
        'scikit-learn'
    """
    named = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", named.group().lower()) if named is not None else ""


def unmet_requirements(wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the requirements that the libraries beside Tidemill do not meet.

    Args:
        wanted: as ``read_requirements`` returns them.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415
    except ModuleNotFoundError:
        return tuple(wanted)
    unmet = []
    for line in wanted:
        try:
            needed = Requirement(line)
        except InvalidRequirement:
            unmet.append(line)
            continue
        if needed.marker is not None and not needed.marker.evaluate():
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            unmet.append(line)
            continue
        if not needed.specifier.contains(found, prereleases=True):
            unmet.append(line)
    return tuple(unmet)


def lock_requirements(wanted: Sequence[str], work: Path) -> Lock:
    """Finds wheels for the requirements and everything that they require. Asks the package index.

    Args:
        wanted: as ``read_requirements`` returns them.
        work: an existing folder for files of the installer's.

    Raises:
        InvalidInput: there are no such wheels; the installer's words name what is missing.
        Unavailable: there is neither uv nor pip, or the index does not answer in time.
    """
    listed = work / "requirements.txt"
    listed.write_text("\n".join([*wanted, *OF_WORKER]) + "\n", encoding="utf-8")
    uv = installer()
    found = _by_uv(uv, listed) if uv is not None else _by_pip(listed, work / "report.json")
    if not found:
        raise InvalidInput(f"the requirements {', '.join(wanted)[:200]} come to nothing")
    python, system = this_python()
    distributions = sorted(found, key=lambda each: each.name)
    return Lock(python=python, platform=system, distributions=tuple(distributions))


def _by_uv(uv: str, listed: Path) -> list[Distribution]:
    command = [uv, "pip", "compile", "--quiet", "--generate-hashes", "--only-binary", ":all:"]
    command += ["--no-header", "--no-annotate", "--python", sys.executable, str(listed)]
    text = run_installer(command, "lock", _LOCK_WITHIN_S).decode().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        pinned, hashes = _PINNED.match(line), _HASH.findall(line)
        if pinned is not None and hashes:
            name, version = pinned.groups()
            found.append(Distribution(name=name, version=version, sha256=tuple(sorted(hashes))))
        elif line.strip() and not line.startswith(("#", "-")):
            raise InvalidInput(f"requirement {line.strip()[:200]!r} cannot be locked with a hash")
    return found


def _by_pip(listed: Path, report: Path) -> list[Distribution]:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-input"]
    command += ["--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
    run_installer([*command, "-r", str(listed)], "lock", _LOCK_WITHIN_S)
    return [
        Distribution(
            name=each["metadata"]["name"],
            version=each["metadata"]["version"],
            sha256=(_digest(each),),
        )
        for each in msgspec.json.decode(report.read_bytes())["install"]
    ]


def _digest(installed: dict[str, Any]) -> str:
    hashes: dict[str, str] = installed["download_info"]["archive_info"].get("hashes", {})
    if "sha256" not in hashes:
        raise InvalidInput(f"{installed['metadata']['name']} comes without a sha256")
    return hashes["sha256"]


def installer() -> str | None:
    """Returns the path of uv; None if there is only pip.

    Raises:
        Unavailable: there is neither.
    """
    beside = Path(sys.executable).parent / "uv"
    if beside.is_file():
        return str(beside)
    for place in installer_environment().get("PATH", "").split(":"):
        if place and (Path(place) / "uv").is_file():
            return str(Path(place) / "uv")
    if importlib.util.find_spec("pip") is None:
        raise Unavailable(
            "models with requirements need uv or pip, to build their environment",
            remedy="pip install uv.",
        )
    return None


def run_installer(command: Sequence[str], verb: str, within_s: float) -> bytes:
    """Runs the installer and returns what it prints.

    Raises:
        InvalidInput: it failed; its last words are told.
        Unavailable: it took too long.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=installer_environment(),
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"it took more than {within_s:.0f} s to {verb} the requirements",
            remedy="See that the package index answers.",
        ) from error
    if done.returncode:
        words = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise InvalidInput(
            f"the requirements cannot be {verb}ed: {words[-1500:]}",
            remedy="Name versions that have a wheel for this Python and platform.",
        )
    return done.stdout


def sha256_of(*parts: bytes) -> str:
    """Returns one sha256 of several parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
