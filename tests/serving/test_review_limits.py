"""What a gateway may open and keep is bounded by what it really is."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from tidemill.foundation.settings import ServeSettings
from tidemill.serving.cache import Cache
from tidemill.serving.http_front import limits_for

RAISES = """
import json, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 700))
from tidemill.serving.gateway import raise_file_limit
print(json.dumps([raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""


def test_a_gateway_may_open_what_the_machine_allows() -> None:
    """The soft limit of most machines, 1024 files, would not do for 10,000 connections."""
    said = subprocess.run([sys.executable, "-c", RAISES], capture_output=True, check=True)
    assert json.loads(said.stdout) == [700, 700, 700]


@pytest.mark.parametrize(
    ("files", "connections"), [(65_536, 10_000), (1024, 768), (256, 128), (20_000, 10_000)]
)
def test_connections_leave_files_for_the_rest(files: int, connections: int) -> None:
    """However many clients connect, the ledger can begin a segment and a version be loaded."""
    assert limits_for(ServeSettings(), files).max_connections == connections


@pytest.mark.parametrize("outputs", [1, 10, 100])
def test_a_cache_of_many_outputs_is_as_large_as_it_says(outputs: int) -> None:
    """Arrays cost more than their data; a cache's bound is on what it really takes."""
    cache = Cache(1 << 30, None)
    tracemalloc.start()
    try:
        for number in range(300):
            answer = {f"output {at}": np.full(64, 1.0)[:1] for at in range(outputs)}
            cache.put(b"%08d" % number, answer, now=0.0)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * cache.size_bytes
