"""What people write by hand: FastAPI in front of Redis, with a connection for each request."""

from __future__ import annotations

import os
import struct
from typing import Any

import redis.asyncio
from fastapi import FastAPI, HTTPException

_unpack = struct.Struct("<10d").unpack
client = redis.asyncio.Redis(
    connection_pool=redis.asyncio.BlockingConnectionPool(
        port=int(os.environ["REDIS_PORT"]), max_connections=64, timeout=10
    )
)
app = FastAPI()


@app.get("/lookup/{key}")
async def lookup(key: int) -> Any:
    """Answers one key."""
    value = await client.get(b"user:%d" % key)
    if value is None:
        raise HTTPException(404)
    return {"y": _unpack(value)}
