"""Files with names that are no UTF-8, as old disks and cameras make them."""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.data.ingest import ingest
from tidemill.foundation.home import Home


def test_a_file_whose_name_is_no_text(home: Home, tmp_path: Path) -> None:
    """Its rows are taken, and its name is kept spelled out; so are its neighbours' names."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"a\xe9.csv", b"b\xe9.csv", b"notes\xe9.txt"):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_text("a,b\n1,2\n3,4\n")
    result = ingest(home, "rows", [folder])
    assert (result.received, result.accepted) == (2, 2)
    assert [Path(source.path).name for source in result.sources] == ["a\\udce9.csv"]
    assert {one.kind for one in result.anomalies} >= {"ignored_file", "repeated_source"}
    assert ingest(home, "rows", [folder]).repeated
