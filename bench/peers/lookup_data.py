"""Fills what the peers look up in: ten numbers of 64 bits under the name of each key.

python -m bench.peers.lookup_data VALUES (lmdb FOLDER | redis PORT)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

_AT_ONCE = 10_000


def fill_lmdb(values: np.ndarray, folder: str) -> None:
    """Writes an LMDB environment, sorted."""
    import lmdb  # noqa: PLC0415 - each peer has its own libraries

    items = sorted((b"user:%d" % at, row.tobytes()) for at, row in enumerate(values))
    with lmdb.open(folder, map_size=1 << 34) as environment:
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(items, append=True)
        environment.sync(True)


def fill_redis(values: np.ndarray, port: str) -> None:
    """Sets one string for each key."""
    import redis  # noqa: PLC0415

    client = redis.Redis(port=int(port))
    for start in range(0, len(values), _AT_ONCE):
        block = values[start : start + _AT_ONCE]
        client.mset({b"user:%d" % (start + at): row.tobytes() for at, row in enumerate(block)})


if __name__ == "__main__":
    {"lmdb": fill_lmdb, "redis": fill_redis}[sys.argv[2]](np.load(Path(sys.argv[1])), sys.argv[3])
