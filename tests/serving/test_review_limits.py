"""What a gateway may open and keep is bounded by what it really is."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from tidemill.foundation.settings import ServeSettings
from tidemill.models.signature import Column
from tidemill.serving.cache import Cache
from tidemill.serving.http_front import limits_for
from tidemill.serving.keeping import Keeping, Kept
from tidemill.serving.query import Answers, Query

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


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("outputs", [1, 10, 100])
def test_a_cache_of_many_outputs_is_as_large_as_it_says(outputs: int, *, shared: bool) -> None:
    """Arrays cost more than their data; a cache's bound is on what it really takes."""
    cache: Cache[Kept] = Cache(1 << 30, None)
    columns = tuple(Column(f"output {at}", "float64") for at in range(outputs))
    keeping = Keeping(columns)
    tracemalloc.start()
    try:
        for number in range(300):
            query = Query(inputs={}, n=1, arrived=0.0, deadline=1.0, done=lambda _: None)
            answer = {each.name: np.full(64, 1.0)[: 64 if shared else 1] for each in columns}
            if shared:
                query.answers = Answers({}, answer)
            else:
                query.outputs = answer
            kept, nbytes = keeping.take(query)
            cache.put(b"%08d" % number, kept, nbytes=nbytes, now=0.0)
        del query, answer, kept
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * cache.size_bytes
