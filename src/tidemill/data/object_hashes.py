"""The store's rows about objects of buckets: what their bytes hashed to when they were read last.

An object with the ETag and size of then is not brought again to be hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from tidemill.foundation.home import Home

TABLES = sa.MetaData()

_objects = sa.Table(
    "bucket_object",
    TABLES,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)
_SOME = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownObject:
    """One version of an object: where it is, what it is called there, its size."""

    url: str
    etag: str
    bytes: int


def find_known(home: Home, urls: Sequence[str]) -> dict[KnownObject, str]:
    """Returns the sha256 of the versions that were read last, of those of these URLs."""
    ids = [_id(url) for url in urls]
    found: dict[KnownObject, str] = {}
    with home.store.read(TABLES) as conn:
        for start in range(0, len(ids), _SOME):
            some = _objects.c.id.in_(ids[start : start + _SOME])
            for row in conn.execute(sa.select(_objects).where(some)):
                known = KnownObject(url=row.url, etag=row.etag, bytes=row.bytes)
                found[known] = row.sha256
    return found


def keep_known(home: Home, known: KnownObject, sha256: str) -> None:
    """Writes what an object hashed to, over what it did before."""
    mine = _objects.c.id == _id(known.url)
    with home.store.write(TABLES) as conn:
        conn.execute(_objects.delete().where(mine))
        conn.execute(
            _objects.insert().values(
                id=_id(known.url),
                url=known.url,
                etag=known.etag,
                bytes=known.bytes,
                sha256=sha256,
            )
        )


def _id(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
