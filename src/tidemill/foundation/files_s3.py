"""Files in an S3-compatible bucket, through fsspec and s3fs (the extra ``s3``)."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tidemill.foundation.bucket import body, client_options, connect
from tidemill.foundation.durable import make_folder, replacing, sha256_file
from tidemill.foundation.errors import Corrupted, InvalidSettings, NotFound, Unavailable
from tidemill.foundation.files_local import LocalFiles, check_key, check_prefix, missing
from tidemill.foundation.settings import mask_url

_CONTENT_NAME = re.compile(r"([0-9a-f]{64})(\.|\Z)")


class S3Files:
    """Files in a bucket, each with its sha256 beside it, fetched once into a local cache.

    Credentials come from where every S3 client finds them: the environment, a profile, the
    machine's role. The connection is opened at the first use, and anew after a fork.

    Args:
        url: ``s3://BUCKET/PREFIX``, with ``?endpoint=URL`` for a bucket outside AWS and
            ``?region=NAME``.
        cache: a local folder for verified copies.
    """

    def __init__(self, url: str, cache: Path) -> None:
        parts = urlsplit(url)
        self._options = client_options(parts.query)
        self._root = f"{parts.netloc}{parts.path}".rstrip("/")
        self._url = mask_url(url)
        self._cache = LocalFiles(cache / hashlib.sha256(url.encode()).hexdigest()[:16])
        self._lock = threading.Lock()
        self._system: Any = None
        self._owner = 0
        if not parts.netloc:
            raise InvalidSettings(
                f"URL {self._url!r} names no bucket", remedy="Use s3://BUCKET/PREFIX."
            )

    def __repr__(self) -> str:
        return f"S3Files({self._url!r})"

    @property
    def url(self) -> str:
        """The bucket and prefix."""
        return self._url

    def put(self, key: str, source: Path, *, final: bool = False) -> None:  # noqa: ARG002 - copied
        """Uploads the file; a bucket shows it whole or not at all."""
        remote = self._remote(key)
        with self._using(key) as system:
            system.put_file(str(source), remote, Metadata={"sha256": sha256_file(source)})

    def put_bytes(self, key: str, data: bytes) -> None:
        """Uploads the bytes; a bucket shows them whole or not at all."""
        remote = self._remote(key)
        digest = hashlib.sha256(data).hexdigest()
        with self._using(key) as system:
            system.pipe_file(remote, data, Metadata={"sha256": digest})

    def get_bytes(self, key: str) -> bytes:
        """Returns the bytes."""
        return self.fetch(key).read_bytes()

    def fetch(self, key: str) -> Path:
        """Returns the verified copy in the local cache, downloading it if it is not there.

        A key named by its content is looked for in the cache first; any other is asked for in
        the bucket, and downloaded again when it changed.
        """
        named = _CONTENT_NAME.match(check_key(key).rpartition("/")[2])
        if named and self._cache.exists(key):
            return self._cache.fetch(key)
        with self._using(key) as system:
            if named:
                return self._fetch_content(system, key, named[1])
            return self._fetch_newest(system, key)

    def exists(self, key: str) -> bool:
        """Tells whether the object is in the bucket."""
        remote = self._remote(key)
        with self._using(key) as system:
            return bool(system.isfile(remote))

    def holds(self, key: str, digest: str) -> bool:
        """Tells whether the object is in the bucket and has this sha256: it is downloaded anew."""
        self._cache.delete(key)
        try:
            return sha256_file(self.fetch(key)) == digest
        except (Corrupted, NotFound):
            return False
        finally:
            self._cache.delete(key)

    def written_at(self, key: str) -> float:
        """Returns when the object was written, in seconds since the epoch."""
        remote = self._remote(key)
        with self._using(key) as system:
            found = system.info(remote)
        if found["type"] != "file":
            raise missing(self._url, key)
        return float(found["LastModified"].timestamp())

    def scan(self, prefix: str = "") -> Iterator[str]:
        """Yields, in order, the keys that start with the prefix."""
        folder, _, start = check_prefix(prefix).rpartition("/")
        with self._using(prefix) as system:
            found = system.find("/".join(filter(None, (self._root, folder))), prefix=start)
        yield from sorted(path[len(self._root) + 1 :] for path in found)

    def delete(self, key: str) -> None:
        """Removes the object, and its copy in the local cache."""
        remote = self._remote(key)
        with self._using(key) as system:
            system.rm_file(remote)
        self._cache.delete(key)

    def _remote(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _fetch_content(self, system: Any, key: str, digest: str) -> Path:
        copy = Path(self._cache.url) / key
        with replacing(copy, copy.parent) as temporary:
            system.get_file(self._remote(key), str(temporary))
            self._verify(key, temporary, digest)
        return copy

    def _fetch_newest(self, system: Any, key: str) -> Path:
        bucket, name, _ = system.split_path(self._remote(key))
        copy = self._copy(key, system.call_s3("head_object", Bucket=bucket, Key=name)["ETag"])
        if copy.is_file():
            return copy
        temporary = copy.with_name(f".{secrets.token_hex(8)}.tmp")
        make_folder(copy.parent)
        try:
            # Bytes, hash and version come in one answer: the key may be replaced meanwhile.
            answer = _read(system, bucket, name, temporary)
            self._verify(key, temporary, answer["Metadata"].get("sha256"))
            return temporary.replace(self._copy(key, answer["ETag"]))
        finally:
            temporary.unlink(missing_ok=True)

    def _copy(self, key: str, etag: str) -> Path:
        version = re.sub(r"[^A-Za-z0-9-]", "", etag)
        return Path(self._cache.url) / f"{key}@{version}"

    def _verify(self, key: str, temporary: Path, digest: str | None) -> None:
        found = sha256_file(temporary)
        if digest is not None and found != digest:
            raise Corrupted(
                f"file {key!r} in {self._url} has sha256 {found[:12]}…, not {digest[:12]}…",
                remedy="Restore it from a backup, or produce it again.",
            )
        temporary.chmod(0o444)

    @contextmanager
    def _using(self, key: str) -> Iterator[Any]:
        """Gives the file system, and says what its errors mean."""
        system = self._connected()
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            yield system
        except FileNotFoundError as error:
            raise missing(self._url, key) from error
        except (BotoCoreError, ClientError, OSError) as error:
            raise Unavailable(
                f"files at {self._url} cannot be used: {error}",
                remedy="Check the bucket, its endpoint and the credentials.",
            ) from error

    def _connected(self) -> Any:
        with self._lock:
            if self._system is None or self._owner != os.getpid():
                self._system = connect(self._options)
                self._owner = os.getpid()
            return self._system


def _read(system: Any, bucket: str, name: str, into: Path) -> dict[str, Any]:
    answer: dict[str, Any] = system.call_s3("get_object", Bucket=bucket, Key=name)
    with into.open("wb") as file:
        for piece in body(system, answer):
            file.write(piece)
    return answer
