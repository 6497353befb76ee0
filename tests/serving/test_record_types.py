"""Record types are known before any thread needs them: two that are first at once crash msgspec."""

from __future__ import annotations

import subprocess
import sys

RACE = """
import sys, threading
import msgspec
from tidemill.models.format import ModelManifest, parse_manifest
from tidemill.models.signature import Column, Signature
from tidemill.serving.live import _read
from tidemill.serving.plan import Deployment, Live

signature = Signature((Column("x", "int64"),), (Column("y", "int64"),))
deployment = Deployment(application="a", revision=1, versions=(Live(model="m", version=1),))
document = msgspec.json.encode(deployment).decode()
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)

def read():
    barrier.wait()
    assert Signature.from_json(signature.to_json()) == signature
    assert _read(document) == deployment

threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_many_threads_may_be_the_first_to_read_a_deployment() -> None:
    """A supervisor that prepares many applications at once reads them all."""
    for _ in range(6):
        ended = subprocess.run([sys.executable, "-c", RACE], capture_output=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, b"")
