"""What people write by hand: FastAPI in front of LMDB."""

from __future__ import annotations

import os
import struct
from typing import Any

import lmdb
from fastapi import FastAPI, HTTPException

_unpack = struct.Struct("<10d").unpack
environment = lmdb.open(os.environ["LMDB_PATH"], readonly=True, lock=False, readahead=False)
app = FastAPI()


@app.get("/lookup/{key}")
async def lookup(key: int) -> Any:
    """Answers one key."""
    with environment.begin(buffers=True) as transaction:
        value = transaction.get(b"user:%d" % key)
        if value is None:
            raise HTTPException(404)
        return {"y": _unpack(value)}
