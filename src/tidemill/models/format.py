"""A model as a folder: its files and a ``model.json`` that names each with its sha256.

    model.json            what it is: runtime, signature, hashes, compilation, lineage
    model.onnx            what is served
    original/model.json   the model it was compiled from, a model folder of its own
    original/model.joblib

Whatever is read from such a folder is hostile until its sha256 matches, and nothing else may lie
in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidemill.foundation.errors import Corrupted, InvalidModel
from tidemill.foundation.files import sha256_file, write_atomic
from tidemill.models.signature import Signature

FORMAT = 1
"""The layout of the folder; one written by a newer Tidemill is refused."""

MANIFEST = "model.json"
ORIGINAL = "original"
"""The folder, inside a compiled model's, of the model that it was compiled from."""

MAX_MANIFEST_BYTES = 16 << 20
MAX_FILES = 1000

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,5}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The median seconds of one call, one thread, on the machine that packaged the model."""

    batch_1_s: float
    batch_64_s: float


class CompilationReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a compiled model answers as its original does, and how that was found out.

    Args:
        equal: every answer agreed; only then is the compiled model served.
        reason: why not, if not.
        rows: rows compared.
        rows_from: where they are from: "evaluation" data, or made-up "probes", which prove less.
        shuffled_rows: rows compared on top, made by shuffling each column by itself.
        tolerance: the largest difference of probabilities (values: relative) allowed.
        max_difference: the largest one found, if answers could be compared.
        label_disagreements: rows with another label whose classes are not within the tolerance.
        near_ties: rows with another label whose classes are: allowed, and counted.
        input_types: the type in which the compiled model takes each numeric column.
        attempts: what was tried before and was not equal, with the reason.
        original_latency: what one call of the original costs.
    """

    equal: bool
    reason: str | None = None
    rows: int = 0
    rows_from: Literal["evaluation", "probes"] = "evaluation"
    shuffled_rows: int = 0
    tolerance: float = 0.0
    max_difference: float | None = None
    label_disagreements: int = 0
    near_ties: int = 0
    input_types: dict[str, str] = {}
    attempts: tuple[str, ...] = ()
    original_latency: Latency | None = None


NOT_COMPILED = CompilationReport(equal=False, reason="it was to be served as it is")
"""Of a model that somebody wanted served as it is."""


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``model.json`` says.

    Args:
        name: the model.
        runtime: what can load it ("onnx", "sklearn").
        signature: what it takes and gives.
        entry: the file that the runtime loads, relative to the folder.
        trust: "code" if loading it runs code of its maker, else "data".
        files: the sha256 of every file but ``model.json``, by relative path.
        runtime_options: what the runtime needs to know.
        compiled_from: how it was compiled from ``original/``, or why it could not be.
        latency: what one call costs; serving places the model by it.
        lineage: the run, snapshots and sources that it comes from.
        metrics: how good it was found to be.
        requirements: the distributions, with versions, that it was made with.
        classes: what a classifier's classes are called, in the order of its probabilities.
        created_at: when, in ISO 8601.
    """

    format: int = FORMAT
    name: str
    runtime: str
    signature: Signature
    entry: str
    trust: Literal["data", "code"]
    files: dict[str, str] = {}
    runtime_options: dict[str, Any] = {}
    compiled_from: CompilationReport | None = None
    latency: Latency | None = None
    lineage: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    requirements: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    created_at: str = ""

    @property
    def content_sha256(self) -> str:
        """What answers, as one hash: not its name, nor when it was packaged or how fast it ran."""
        told = {"runtime", "signature", "entry", "trust", "runtime_options"}
        content: dict[str, Any] = {name: getattr(self, name) for name in sorted(told)}
        content["files"] = {
            path: digest
            for path, digest in self.files.items()
            if path.rpartition("/")[2] != MANIFEST
        }
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


class _Format(msgspec.Struct):
    format: int


# Made on the thread that imports: where two threads are the first to need a record type, msgspec
# may crash.
_format_decoder = msgspec.json.Decoder(_Format)
_manifest_decoder = msgspec.json.Decoder(ModelManifest)


def write_model(folder: Path, manifest: ModelManifest) -> ModelManifest:
    """Completes a folder that holds a model's files with its ``model.json``, and returns that.

    Args:
        folder: holds everything that belongs to the model and nothing else.
        manifest: what to write; its hashes are replaced by those of the files found.

    Raises:
        InvalidModel: a file's name is not allowed, or the entry is not there.
        Corrupted: the folder holds a link or a device.
    """
    files = {path: sha256_file(folder / path) for path in sorted(_scan(folder)) if path != MANIFEST}
    manifest = msgspec.structs.replace(manifest, files=files, format=FORMAT)
    _check_manifest(folder, manifest)
    write_atomic(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest


def read_manifest(folder: Path) -> ModelManifest:
    """Returns what the folder's ``model.json`` says; no other file is read.

    Raises:
        InvalidModel: there is none, it cannot be read, a newer Tidemill wrote it, or it names a
            file that does not lie in the folder.
    """
    path = folder / MANIFEST
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidModel(f"{str(path)!r} is not a plain file")
        if facts.st_size > MAX_MANIFEST_BYTES:
            raise InvalidModel(f"{str(path)!r} has {facts.st_size} bytes, too many for a manifest")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidModel(
            f"{str(folder)!r} is no model folder: it has no {MANIFEST}",
            remedy="Package the model with 'tidemill push'.",
        ) from error
    manifest = parse_manifest(data, str(path))
    _check_manifest(folder, manifest)
    return manifest


def parse_manifest(data: bytes | str, where: str = MANIFEST) -> ModelManifest:
    """Returns the manifest that the JSON describes; ``where`` names it in errors.

    Raises:
        InvalidModel: it describes none, or one of a newer format.
    """
    try:
        found = _format_decoder.decode(data).format
        if found > FORMAT:
            raise InvalidModel(
                f"{where!r} has format {found}, newer than {FORMAT} known here",
                remedy="Upgrade Tidemill on this machine.",
            )
        return _manifest_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidModel(f"{where!r} cannot be read: {error}") from error


def verify_model(folder: Path, manifest: ModelManifest) -> None:
    """Makes sure that the folder holds exactly the files of the manifest, unchanged.

    Raises:
        Corrupted: a file is missing, changed, a link, or not named; the message names it.
    """
    found = set(_scan(folder)) - {MANIFEST}
    for path in sorted(found - set(manifest.files)):
        raise _corrupted(folder, path, f"is not named in {MANIFEST}")
    for path in sorted(set(manifest.files) - found):
        raise _corrupted(folder, path, "is missing")
    for path, digest in manifest.files.items():
        if sha256_file(folder / path) != digest:
            raise _corrupted(folder, path, "is not what was written (its sha256 differs)")


def read_verified(folder: Path, manifest: ModelManifest, path: str) -> bytes:
    """Returns the bytes of one file, which are the ones that were hashed.

    Raises:
        Corrupted: they are not what the manifest says.
    """
    try:
        data = (folder / path).read_bytes()
    except OSError as error:
        raise _corrupted(folder, path, f"cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != manifest.files.get(path):
        raise _corrupted(folder, path, "is not what was written (its sha256 differs)")
    return data


def _check_manifest(folder: Path, manifest: ModelManifest) -> None:
    where = str(folder / MANIFEST)
    if len(manifest.files) > MAX_FILES:
        raise InvalidModel(f"{where!r} names {len(manifest.files)} files, over {MAX_FILES}")
    for path, digest in manifest.files.items():
        if not _PATH.match(path) or path == MANIFEST:
            raise InvalidModel(
                f"{where!r} names the file {path[:200]!r}, which is not allowed",
                remedy="Use relative paths of letters, digits, '_', '-' and '.'.",
            )
        if not _SHA256.match(digest):
            raise InvalidModel(f"{where!r} has no sha256 for the file {path!r}")
    if manifest.entry not in manifest.files:
        raise InvalidModel(f"{where!r} names the entry {manifest.entry[:200]!r}, which is no file")


def _scan(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yields the relative paths of plain files; refuses whatever is neither file nor folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _scan(folder / entry.name, path + "/")
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise _corrupted(folder, entry.name, "is a link or no plain file")


def _corrupted(folder: Path, path: str, what: str) -> Corrupted:
    return Corrupted(
        f"model file {path[:200]!r} in {str(folder)!r} {what}",
        remedy="Fetch or package the model again.",
    )
