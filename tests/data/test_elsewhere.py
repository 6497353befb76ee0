"""The same promises where the store is PostgreSQL and the files are in a bucket."""

from __future__ import annotations

from pathlib import Path

from tidemill.data.held_rows import list_held, show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions
from tidemill.data.snapshots import list_snapshots, read_snapshot
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import FilesSettings, Settings, StoreSettings


def test_postgresql_and_a_bucket_do_what_sqlite_and_a_folder_do(
    tmp_path: Path, postgres_url: str, s3_url: str
) -> None:
    """Counts, duplicates against earlier snapshots, held rows and reading are the same."""
    (tmp_path / "1.csv").write_text("id,x\n1,1\n2,2\n2,2\n3,y\n")
    (tmp_path / "2.csv").write_text("id,x\n3,3\n1,1\n")
    settings = Settings(
        home=tmp_path / "home",
        store=StoreSettings(url=postgres_url),
        files=FilesSettings(url=s3_url),
    )
    options = DatasetOptions(key=("id",))
    with open_home(settings) as home:
        first = ingest(home, "x", [tmp_path / "1.csv"], options=options)
        assert (first.accepted, first.duplicate, first.quarantined) == (3, 1, 0)
        assert ingest(home, "x", [tmp_path / "1.csv"]).repeated
        second = ingest(home, "x", [tmp_path / "2.csv"])
        assert (second.accepted, second.duplicate) == (0, 2)
        (snapshot,) = list_snapshots(home, "x")
        assert read_snapshot(home, snapshot).num_rows == 3
        assert [group.rows for group in list_held(home, "x")] == [1, 2]
        assert show_held(home, "x").num_rows == 3
