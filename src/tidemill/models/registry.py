"""The registry: model folders stored as immutable, numbered versions, and fetched again, verified.

register     a folder becomes the next version, file by file under its sha256
fetch        a version becomes a local folder
set_alias    champion, challenger, previous; champion only if blessed
rollback     the champion before this one
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from tidemill.foundation.errors import Corrupted
from tidemill.foundation.files import put_content, write_atomic
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name, new_id
from tidemill.models.format import MANIFEST, ModelManifest, read_manifest, verify_model
from tidemill.models.runtime import check_model
from tidemill.models.versions import (
    ALIASES,
    TABLES,
    AliasChange,
    ModelVersion,
    add_version,
    aliases,
    bless,
    check_blessed,
    clear_alias,
    find_content,
    get_version,
    history,
    list_versions,
    lock_model,
    rollback,
    set_alias,
)

__all__ = [
    "ALIASES",
    "TABLES",
    "AliasChange",
    "ModelVersion",
    "Registry",
    "aliases",
    "bless",
    "check_blessed",
    "clear_alias",
    "get_version",
    "history",
    "list_versions",
    "rollback",
    "set_alias",
]


class Registry:
    """The models of one installation; each method is one transaction.

    Example:
        >>> import tempfile
        >>> from tidemill.foundation.home import open_home
        >>> from tidemill.foundation.settings import Settings
        >>> with open_home(Settings(home=Path(tempfile.mkdtemp()))) as home:
        ...     Registry(home).list()
        ()
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def register(
        self,
        folder: Path,
        name: str,
        *,
        blessed: bool = False,
        blessing: Mapping[str, Any] | None = None,
        run: str | None = None,
    ) -> ModelVersion:
        """Stores a model folder as the next version of the model, durably.

        The same content registered again is the same version; it is blessed if it comes blessed
        now, never the other way.

        Raises:
            InvalidModel: it is no model folder, or one that must not be opened.
            Corrupted: a file is not what its manifest says.
        """
        check_name("model", name)
        manifest = read_manifest(folder)
        verify_model(folder, manifest)
        check_model(folder, manifest)
        files = {
            path: put_content(self._home.files, folder / path, folder="models", suffix="")
            for path in manifest.files
        }
        for path, digest in manifest.files.items():
            if not files[path].endswith(digest):
                raise Corrupted(f"model file {path!r} changed while it was registered")
        clock = self._home.clock
        with self._home.store.write(TABLES) as conn:
            lock_model(conn, name)
            found = find_content(conn, name, manifest.content_sha256)
            if found is None:
                found = add_version(
                    conn, name, manifest=manifest, files=files, run=run, clock=clock
                )
            if blessed or (blessing is not None and found.blessing is None):
                bless(conn, name, found.version, {**(blessing or {}), "blessed": blessed})
            return get_version(conn, name, found.version)

    def get(self, name: str, version: int | None = None) -> ModelVersion:
        """Returns a version, the latest if none is given.

        Raises:
            NotFound: there is none such; the message lists what there is.
        """
        with self._home.store.read(TABLES) as conn:
            return get_version(conn, name, version)

    def list(self, name: str | None = None) -> tuple[ModelVersion, ...]:
        """Returns the versions of one model, or of all, by name and version."""
        with self._home.store.read(TABLES) as conn:
            return list_versions(conn, name)

    def fetch(self, name: str, version: int) -> Path:
        """Returns a local folder with the version, every file verified, that must only be read.

        Raises:
            NotFound: there is no such version.
            Corrupted: a stored file is not what was registered; the message names it.
        """
        found = self.get(name, version)
        target = self._home.cache_path / "models" / found.name / str(found.version)
        if not _intact(target, found.manifest):
            self._rebuild(target, found)
        return target

    def bless(self, name: str, version: int, verdict: Mapping[str, Any]) -> None:
        """Records the gate's verdict; see the function ``bless``."""
        with self._writing(name) as conn:
            bless(conn, name, version, verdict)

    def set_alias(self, name: str, alias: str, version: int, *, by: str, reason: str) -> None:
        """Points an alias at a version; see the function ``set_alias``."""
        with self._writing(name) as conn:
            set_alias(conn, name, alias, version, by=by, reason=reason, clock=self._home.clock)

    def clear_alias(self, name: str, alias: str, *, by: str, reason: str) -> None:
        """Makes the challenger point nowhere; see the function ``clear_alias``."""
        with self._writing(name) as conn:
            clear_alias(conn, name, alias, by=by, reason=reason, clock=self._home.clock)

    def rollback(self, name: str, *, by: str, reason: str) -> tuple[int, int]:
        """Makes the previous champion the champion; see the function ``rollback``."""
        with self._writing(name) as conn:
            return rollback(conn, name, by=by, reason=reason, clock=self._home.clock)

    def aliases(self, name: str) -> dict[str, int]:
        """Returns the version of each alias that is set."""
        with self._home.store.read(TABLES) as conn:
            return aliases(conn, name)

    def history(self, name: str) -> tuple[AliasChange, ...]:
        """Returns every change of the model's aliases, oldest first."""
        with self._home.store.read(TABLES) as conn:
            return history(conn, name)

    @contextmanager
    def _writing(self, name: str) -> Iterator[Connection]:
        with self._home.store.write(TABLES) as conn:
            lock_model(conn, name)
            yield conn

    def _rebuild(self, target: Path, found: ModelVersion) -> None:
        building = target.parent / f".{target.name}.{new_id()}"
        try:
            for path, key in found.files.items():
                place = building / path
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._home.files.fetch(key), place)
            write_atomic(building / MANIFEST, _manifest_json(found.manifest))
            verify_model(building, found.manifest)
            _replace_folder(building, target, found.manifest)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        if not _intact(target, found.manifest):
            raise Corrupted(
                f"the copy of {found.name!r} version {found.version} in {str(target)!r} changed "
                "while it was made",
                remedy="Try again; see that nothing else writes there.",
            )


def _manifest_json(manifest: ModelManifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def _intact(folder: Path, manifest: ModelManifest) -> bool:
    if not folder.is_dir():
        return False
    try:
        if read_manifest(folder) != manifest:
            return False
        verify_model(folder, manifest)
    except Exception:  # noqa: BLE001 - whatever is wrong with a cached copy, it is made again
        return False
    return True


def _replace_folder(building: Path, target: Path, manifest: ModelManifest) -> None:
    """Renames the new folder to the target; a damaged one in its place is moved away first."""
    try:
        building.rename(target)
    except OSError:
        if _intact(target, manifest):
            return  # Another process was faster, and its copy is as good.
        damaged = target.parent / f".{target.name}.{new_id()}"
        target.rename(damaged)
        building.rename(target)
        shutil.rmtree(damaged, ignore_errors=True)
