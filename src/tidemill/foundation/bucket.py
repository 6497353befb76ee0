"""Objects of an S3-compatible bucket as they are read: listed page by page, brought in one version.

Credentials come from where every S3 client finds them: the environment, a profile, the machine's
role; never from a URL. The extra ``s3`` is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from tidemill.foundation.errors import (
    Conflict,
    InvalidInput,
    InvalidSettings,
    NotFound,
    Unavailable,
)

_OPTIONS = {"endpoint": "endpoint_url", "region": "region_name"}
_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 3
"""A transfer that broke off goes on where it was, so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketObject:
    """An object as it was when it was found: its key, its size, and what its version is called."""

    key: str
    bytes: int
    etag: str


class Bucket:
    """Reads what is in a bucket; nothing is opened before the first use.

    Args:
        url: ``s3://BUCKET/KEY``, with ``?endpoint=URL`` for a bucket outside AWS and
            ``?region=NAME``. The key is taken as it stands, up to the first ``?``.

    Raises:
        InvalidInput: the URL names no bucket, or holds a user or a password.

    Example:
        >>> bucket = Bucket("s3://lake/in/a.csv?region=eu-west-1")
        >>> bucket.key, bucket.url_of("in/b.csv")
        ('in/a.csv', 's3://lake/in/b.csv?region=eu-west-1')
    """

    def __init__(self, url: str) -> None:
        place, separator, query = url.removeprefix("s3://").partition("?")
        self.name, _, self.key = place.partition("/")
        self._query = separator + query
        self._options = client_options(query)
        self._system: Any = None
        endpoint = self._options["client_kwargs"].get("endpoint_url", "")
        if "@" in self.name or ":" in self.name or "@" in endpoint:
            raise InvalidInput(
                "an s3:// URL holds a user or a password",
                remedy="Leave it away, and give credentials by the environment.",
            )
        if not self.name:
            raise InvalidInput("an s3:// URL names no bucket", remedy="Use s3://BUCKET/PREFIX.")

    def url_of(self, key: str) -> str:
        """Returns where an object is; there is no secret in it."""
        return f"s3://{self.name}/{key}{self._query}"

    def look(self, key: str) -> BucketObject | None:
        """Returns an object as it is now; None if it is not there.

        Raises:
            Unavailable: the bucket cannot be asked.
        """
        try:
            with self._using(key) as system:
                head = system.call_s3("head_object", Bucket=self.name, Key=key)
        except NotFound:
            return None
        return BucketObject(key=key, bytes=head["ContentLength"], etag=_plain(head["ETag"]))

    def scan(self, prefix: str) -> Iterator[BucketObject]:
        """Yields the objects whose keys begin so, in order, a page at a time.

        Raises:
            NotFound: there is no such bucket.
            Unavailable: it cannot be asked.
        """
        more: dict[str, str] = {}
        while True:
            with self._using(prefix) as system:
                page = system.call_s3("list_objects_v2", Bucket=self.name, Prefix=prefix, **more)
            for each in page.get("Contents", ()):
                yield BucketObject(key=each["Key"], bytes=each["Size"], etag=_plain(each["ETag"]))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def bring(self, found: BucketObject, take: Callable[[bytes], object]) -> None:
        """Hands over the bytes of an object, in pieces, all of the version that was found.

        Raises:
            Conflict: the object is another one by now, or gone.
            Unavailable: the bucket cannot be read.
        """
        done = 0
        for attempt in range(_ATTEMPTS):
            for piece in self._attempt(found, done, last=attempt + 1 == _ATTEMPTS):
                take(piece)  # what it raises is its own: no piece is handed over twice
                done += len(piece)
            if done >= found.bytes:
                break
        if done != found.bytes:
            raise Unavailable(
                f"{self.url_of(found.key)} gave {done:,} of {found.bytes:,} bytes",
                remedy="Try again.",
            )

    def changed(self, key: str) -> Conflict:
        """Returns the error for an object that is not what it was when it was found."""
        return Conflict(
            f"{self.url_of(key)} was written to while it was read",
            remedy="Try again when its writer is done; write under another name.",
        )

    def _attempt(self, found: BucketObject, start: int, *, last: bool) -> Iterator[bytes]:
        """Yields pieces until the transfer ends or breaks off; the last one must not break off."""
        done = start
        try:
            for piece in self._pieces(found, start):
                done += len(piece)
                yield piece
        except OSError as error:
            if last:
                raise Unavailable(
                    f"{self.url_of(found.key)} broke off after {done:,} of {found.bytes:,} "
                    f"bytes: {error}",
                    remedy="Try again.",
                ) from error

    def _pieces(self, found: BucketObject, start: int) -> Iterator[bytes]:
        more = {"Range": f"bytes={start}-"} if start else {}
        with self._using(found.key, etag=found.etag) as system:
            answer = system.call_s3(
                "get_object", Bucket=self.name, Key=found.key, IfMatch=f'"{found.etag}"', **more
            )
        yield from body(system, answer)

    @contextmanager
    def _using(self, key: str, *, etag: str | None = None) -> Iterator[Any]:
        """Gives the file system, and says what its errors mean."""
        if self._system is None:
            self._system = connect(self._options)
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            yield self._system
        except FileNotFoundError as error:
            if etag is not None:
                raise self.changed(key) from error
            raise NotFound(
                f"{self.url_of(key)} does not exist", remedy="Check bucket and key."
            ) from error
        except (BotoCoreError, ClientError, OSError) as error:
            if etag is not None and _was_another(error):
                raise self.changed(key) from error
            raise Unavailable(
                f"{self.url_of(key)} cannot be read: {str(error) or type(error).__name__}",
                remedy="Check the bucket, its endpoint and the credentials in the environment.",
            ) from error


def connect(options: dict[str, Any]) -> Any:
    """Returns a file system over buckets, with these options of its client.

    Raises:
        Unavailable: the extra ``s3`` is not installed.
    """
    import fsspec  # noqa: PLC0415

    try:
        return fsspec.filesystem(
            "s3", skip_instance_cache=True, use_listings_cache=False, **options
        )
    except ImportError as error:
        raise Unavailable("s3:// needs s3fs", remedy="pip install 'tidemill[s3]'.") from error


def client_options(query: str) -> dict[str, Any]:
    """Returns the options that the query string of an ``s3://`` URL says.

    Raises:
        InvalidSettings: it says another.
    """
    given = dict(parse_qsl(query))
    unknown = sorted(given.keys() - _OPTIONS.keys())
    if unknown:
        raise InvalidSettings(
            f"option {unknown[0]!r} of an s3:// URL is unknown", remedy="Use endpoint and region."
        )
    return {"client_kwargs": {_OPTIONS[name]: value for name, value in given.items()}}


def body(system: Any, answer: dict[str, Any]) -> Iterator[bytes]:
    """Yields what an object's answer carries, in pieces; memory holds one of them.

    Raises:
        OSError: it broke off before its end.
    """
    import aiohttp  # noqa: PLC0415 - comes with s3fs
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    from fsspec.asyn import sync  # noqa: PLC0415

    try:
        while piece := sync(system.loop, answer["Body"].read, _CHUNK_BYTES):
            yield piece
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        raise OSError(str(error) or type(error).__name__) from error
    finally:  # a connection that has not given all is of no more use
        system.loop.call_soon_threadsafe(answer["Body"].close)


def _was_another(error: Exception) -> bool:
    said: Any = getattr(error.__cause__ or error, "response", None) or {}
    return said.get("Error", {}).get("Code") in ("PreconditionFailed", "InvalidRange", "412")


def _plain(etag: str) -> str:
    return etag.strip('"')
