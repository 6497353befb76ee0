"""Modules of ours that mypyc has compiled to machine code, for processes that are asked a lot.

What was compiled is kept in the environment, as safe as the libraries in it, under the digest of
every source of the package and of this Python. After any change of either there is none of that
name, and the sources run as they stand: what is old never runs.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

from tidemill.foundation.environment import child_environment
from tidemill.foundation.errors import InvalidInput, Unavailable

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
_SHOWN_LINES = 12
_COMPILE = """
import sys
from mypyc.build import mypycify
from setuptools import setup

modules = mypycify(["--config-file", "mypy.ini", *sys.argv[1:]], opt_level="2", debug_level="0")
setup(
    name="tidemill-native",
    packages=[],
    ext_modules=modules,
    script_args=["build_ext", "--build-lib", "built", "--build-temp", "objects"],
)
"""
_FLAGS = "-fno-semantic-interposition -fno-plt"
"""For gcc and clang: nobody puts functions of its own in the place of ours."""

_CONFIG = """
[mypy]
follow_imports = silent
ignore_missing_imports = True
disable_error_code = import-untyped
allow_untyped_calls = True

[mypy-{others}]
follow_imports = skip
follow_imports_for_stubs = True
"""
_OTHERS = (
    "altair botocore duckdb fastavro fsspec google grpc httptools joblib lightgbm lmdb mlflow onnx "
    "onnxruntime opentelemetry orjson pandas polars prometheus_client psycopg pyarrow ray redis "
    "rich river scipy skl2onnx sklearn sqlalchemy starlette torch typer uvicorn uvloop vl_convert "
    "xgboost"
)
"""Libraries whose types take longer to read than all of ours, and say nothing to the compiler."""


class _Finder(MetaPathFinder):
    """Finds the modules that were compiled, before the sources are looked for."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002 - part of the protocol
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns where a module is; None where it was not compiled."""
        file = self._files.get(fullname)
        if file is None:
            return None
        loader = importlib.machinery.ExtensionFileLoader(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


def native_folder(package: Path, environment: Path | None = None) -> Path:
    """Returns where what is compiled of a package, as it is now, for this Python, is kept.

    Args:
        package: the folder of its sources.
        environment: where libraries are installed; by default those of this Python.
    """
    digest = hashlib.sha256(
        f"{sys.implementation.cache_tag} {sys.version} {platform.machine()}".encode()
    )
    for source in sorted(package.rglob("*.py")):
        content = source.read_bytes()
        digest.update(f"\n{source.relative_to(package)} {len(content)}\n".encode())
        digest.update(content)
    kept = environment or Path(sysconfig.get_path("platlib"))
    return kept / f"{package.name}_native" / digest.hexdigest()[:32]


def prefer_native(package: Path, environment: Path | None = None) -> bool:
    """Has this process import what was compiled, if it was; call it before anything of it is.

    Returns:
        Whether there is something compiled of the sources as they are.
    """
    folder = native_folder(package, environment)
    files = {
        ".".join(file.relative_to(folder).parts).removesuffix(SUFFIX): file
        for file in folder.rglob(f"*{SUFFIX}")
    }
    if not files or any(name in sys.modules for name in files):
        return False
    sys.meta_path.insert(0, _Finder(files))
    return True


def compile_native(
    package: Path, modules: Sequence[str], environment: Path | None = None
) -> tuple[Path, bool]:
    """Compiles modules of a package, all as one, unless that was done.

    Args:
        package: the folder of its sources.
        modules: their full names.
        environment: where libraries are installed; by default those of this Python.

    Returns:
        Their folder, and whether they were compiled now.

    Raises:
        InvalidInput: mypy, setuptools or a C compiler is missing, or the environment cannot be
            written to.
        Unavailable: a module could not be compiled.
    """
    folder = native_folder(package, environment)
    if folder.exists():
        return folder, False
    _check_tools()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as name:
            place = Path(name)
            built = _compile(package, modules, place)
            if native_folder(package, environment) != folder:
                raise Unavailable("the sources changed meanwhile", remedy="Compile them again.")
            built.rename(folder)
    except OSError as error:
        if folder.exists():  # somebody else was quicker
            return folder, False
        raise InvalidInput(
            f"{folder.parent} cannot be written: {error}",
            remedy="Compile as whoever may install libraries into this environment.",
        ) from error
    for old in folder.parent.iterdir():
        if old != folder and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)
    return folder, True


def _check_tools() -> None:
    missing = [name for name in ("mypyc", "setuptools") if importlib.util.find_spec(name) is None]
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if missing:
        raise InvalidInput(
            f"{' and '.join(missing)} cannot be imported",
            remedy="Install what compiles: pip install 'tidemill[native]'.",
        )
    if shutil.which(compiler) is None:
        raise InvalidInput(
            f"there is no C compiler: {compiler!r} is not found",
            remedy="Install one (on Debian: apt-get install gcc libc6-dev), with Python's headers.",
        )


def _compile(package: Path, modules: Sequence[str], place: Path) -> Path:
    """Compiles a copy of the sources, in a process of its own; returns where it has put it."""
    shutil.copytree(package, place / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    others = ",".join(f"{name}.*" for name in _OTHERS.split())
    (place / "mypy.ini").write_text(_CONFIG.format(others=others))
    files = [f"{name.replace('.', '/')}.py" for name in modules]
    done = subprocess.run(  # noqa: S603 - our own program, no shell
        [sys.executable, "-c", _COMPILE, *files],
        cwd=place,
        env=child_environment({"MYPYPATH": ".", "CFLAGS": _FLAGS}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "error: " in line]
        raise Unavailable(
            "the modules could not be compiled:\n" + "\n".join(said[:_SHOWN_LINES]),
            remedy="Without it the sources run as they stand; please report what is above.",
        )
    return place / "built"
