"""Which segments have become which Parquet files: the commit point of compaction.

``compacted.json`` is replaced as a whole. A segment that a part names is no longer read from its
own file, whether that file is still there or not; a Parquet file that no part names does not count.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.data.ledger_records import Problem
from tidemill.foundation.durable import write_atomic
from tidemill.foundation.errors import Corrupted, InvalidSettings

MANIFEST_SCHEMA = 1
"""The layout of the manifest and of the Parquet files; a newer one is refused."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file of predictions and one of labels, made from whole segments."""

    name: str
    segments: tuple[str, ...]
    predictions: int
    labels: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Every part that counts, and the damage that was found on the way."""

    schema: int = MANIFEST_SCHEMA
    parts: tuple[Part, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def segments(self) -> frozenset[str]:
        """The names of the segments that are in a part."""
        return frozenset(name for part in self.parts for name in part.segments)


def read_manifest(path: Path) -> Manifest:
    """Returns a ledger's manifest; an empty one where nothing was compacted yet.

    Raises:
        InvalidSettings: a newer Tidemill wrote it.
        Corrupted: it cannot be read.
    """
    file = path / "compacted.json"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return Manifest()
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema <= MANIFEST_SCHEMA:
            return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise Corrupted(
            f"the ledger's manifest {file} cannot be read: {error}",
            remedy="Restore it from a backup of the home folder.",
        ) from error
    raise InvalidSettings(
        f"the ledger in {path} has schema {schema}, newer than {MANIFEST_SCHEMA} known here",
        remedy="Upgrade Tidemill on this machine.",
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replaces the manifest; when it returns, the new one is durable."""
    write_atomic(path / "compacted.json", msgspec.json.format(msgspec.json.encode(manifest)))


class _Schema(msgspec.Struct):
    schema: int
