"""What lies in a bucket is read as what lies in a folder is, each object in one version."""

from __future__ import annotations

import errno
import gzip
import http.server
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.data import bucket_source
from tidemill.data.catalog import list_datasets
from tidemill.data.held_rows import show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions
from tidemill.data.snapshots import read_snapshot
from tidemill.foundation.bucket import Bucket, BucketObject
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound, TooLarge, Unavailable
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import DataSettings, Settings


class Lake:
    """A bucket that can be written to."""

    def __init__(self, url: str, client: Any) -> None:
        self.name = url.removeprefix("s3://").partition("/")[0]
        self.options = url.partition("?")[2]
        self.client = client

    def url(self, key: str) -> str:
        """The URL of a key in it."""
        return f"s3://{self.name}/{key}?{self.options}"

    def put(self, **objects: bytes | str) -> None:
        """Writes objects; ``__`` in a name is a slash, and a last ``_csv`` an ending."""
        for name, data in objects.items():
            key = name.replace("__", "/").replace("_csv", ".csv")
            self.write(key, data if isinstance(data, bytes) else data.encode())

    def write(self, key: str, data: bytes) -> None:
        """Writes an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


@pytest.fixture
def lake(s3_url: str, s3_client: Any) -> Lake:
    """An empty bucket."""
    return Lake(s3_url, s3_client)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the objects that are brought, as they are."""
    keys: list[str] = []
    bring = Bucket.bring

    def noted(self: Bucket, found: BucketObject, take: Any) -> None:
        keys.append(found.key)
        bring(self, found, take)

    monkeypatch.setattr(Bucket, "bring", noted)
    return keys


def ids(home: Home, snapshot: str | None) -> list[int]:
    """The ids in a snapshot, in order."""
    assert snapshot is not None
    return sorted(read_snapshot(home, snapshot).column("id").to_pylist())


def test_every_form_is_read_from_a_bucket(home: Home, lake: Lake, tmp_path: Path) -> None:
    """One object, or all below a prefix; what is no data is told, what is hidden is not."""
    table = pa.table({"id": [3, 4]})
    pq.write_table(table, tmp_path / "a.parquet")
    lake.write("in/a.csv", b"id\n1\n")
    lake.write("in/b.jsonl.gz", gzip.compress(b'{"id": 2}\n'))
    lake.write("in/day=1/c.parquet", (tmp_path / "a.parquet").read_bytes())
    lake.write("in/é ö.CSV", b"id\n5\nx\n")
    for key in ("in/_SUCCESS", "in/", "in/.tmp/d.csv", "in/.e.csv", "input.csv"):
        lake.write(key, b"id\n9\n")
    found = ingest(home, "all", [lake.url("in/")])
    assert (found.received, found.accepted, found.quarantined) == (6, 5, 1)
    assert ids(home, found.snapshot) == [1, 2, 3, 4, 5]
    (note,) = (one for one in found.anomalies if one.kind == "ignored_file")
    assert "in/_SUCCESS" in note.message
    assert ingest(home, "all", [lake.url("in")]).repeated
    assert ingest(home, "one", [lake.url("in/a.csv")]).accepted == 1
    (held,) = show_held(home, "all").to_pylist()
    assert (held["source"], held["line"]) == (lake.url("in/é ö.CSV"), 3)
    with pytest.raises(NotFound, match=r"in/z\?.* does not exist"):
        ingest(home, "all", [lake.url("in/z")])
    lake.write("other/readme.txt", b"x")
    with pytest.raises(InvalidInput, match="holds no data file"):
        ingest(home, "all", [lake.url("other")])


def test_patterns_choose_the_newest_span(home: Home, lake: Lake) -> None:
    """As on a disk: files, folders, versions and days; ``*`` stands for a part of a name."""
    lake.put(s__span_9__v1__a_csv="id\n9\n", s__span_10__v1__a_csv="id\n1\n")
    lake.put(s__span_10__v2__a_csv="id\n2\n", s__span_10__v2__b_csv="id\n3\n")
    lake.put(d__2024_02_29_csv="id\n4\n", d__2024_01_31_csv="id\n5\n", d__x_csv="id\n6\n")
    cases = {
        "s/span_{SPAN}/v{VERSION}": [2, 3],
        "s/span_{SPAN}/v{VERSION}/b*": [3],
        "s/span_{SPAN}/v{VERSION}/*.csv": [2, 3],
        "s/span_{SPAN}/": [1, 2, 3],
        "d/{YYYY}_{MM}_{DD}.csv": [4],
        "d/*.csv": [4, 5, 6],
        "*/x.csv": [6],
    }
    for number, (key, expected) in enumerate(cases.items()):
        found = ingest(home, f"d{number}", [lake.url(key)])
        assert ids(home, found.snapshot) == expected, key
        assert ("{" in key) == any(one.kind == "newest_span" for one in found.anomalies)
    for key in ("s/span_{SPAN}.csv", "d/*.parquet"):
        with pytest.raises(NotFound, match="nothing matches"):
            ingest(home, "none", [lake.url(key)])


def test_what_was_read_before_is_not_brought_again(
    home: Home, lake: Lake, asked: list[str]
) -> None:
    """By its ETag: only what is new comes, and an object that was replaced."""
    lake.put(in__a_csv="id\n1\n", in__b_csv="id\n2\n")
    first = ingest(home, "d", [lake.url("in/")])
    assert sorted(asked) == ["in/a.csv", "in/b.csv"]
    versions = [record.version or "" for record in first.sources]
    assert all(version.startswith("etag:") for version in versions)
    asked.clear()
    assert ingest(home, "d", [lake.url("in/")]).repeated
    assert asked == []
    lake.put(in__c_csv="id\n3\n", in__b_csv="id\n4\n")
    assert ids(home, ingest(home, "d", [lake.url("in/")]).snapshot) == [3, 4]
    assert asked == ["in/b.csv", "in/c.csv"]
    asked.clear()
    other = ingest(home, "other", [lake.url("in/")])
    assert ids(home, other.snapshot) == [1, 3, 4]
    assert len(asked) == 3


def test_an_object_that_changes_while_it_is_read_is_an_error(home: Home, lake: Lake) -> None:
    """Between listing and bringing, while its rows are judged, and when it goes away."""
    rows = "id\n" + "".join(f"{i}\n" for i in range(100))
    lake.put(in__a_csv=rows, in__b_csv=rows + "x\n")

    def meddle(at: int, change: Any) -> Any:
        calls = [0]

        def told(_done: int, _total: int) -> None:
            calls[0] += 1
            if calls[0] == at:
                change()

        return told

    def replace() -> None:
        lake.put(in__b_csv="id\n7\n")

    def remove() -> None:
        lake.client.delete_object(Bucket=lake.name, Key="in/b.csv")

    for at, change in ((1, replace), (3, replace), (1, remove), (4, remove)):
        lake.put(in__b_csv=rows + f"{at}\n{at}\n")
        with pytest.raises(Conflict, match=r"in/b\.csv.* was written to while it was read"):
            ingest(home, "d", [lake.url("in/")], progress=meddle(at, change))
    assert not list_datasets(home)


def test_copies_take_no_more_than_the_spool_may(
    tmp_path: Path, lake: Lake, asked: list[str]
) -> None:
    """What does not fit beside the others is brought again to be read; what never fits is told."""
    rows = [f"id\n{1000 + i}\n" + "\n" * 900 for i in range(4)]
    lake.put(in__a_csv=rows[0], in__b_csv=rows[1], in__c_csv=rows[2], in__d_csv=rows[3])
    data = DataSettings(spool_bytes=2_000)
    with open_home(Settings(home=tmp_path / "home", data=data)) as home:
        found = ingest(home, "d", [lake.url("in/")])
        assert ids(home, found.snapshot) == [1000, 1001, 1002, 1003]
        assert sorted(asked) == [
            *("in/a.csv", "in/b.csv", "in/c.csv", "in/c.csv", "in/d.csv", "in/d.csv")
        ]
        lake.write("big.csv", b"id\n1\n" + b"\n" * 3000)
        with pytest.raises(TooLarge, match=r"more than 2,000 bytes.*data\.spool_bytes"):
            ingest(home, "d", [lake.url("big.csv")])
        assert not list((home.cache_path / "scratch").iterdir())


def test_progress_and_limits(home: Home, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told grows to all there is; too many objects are refused before any is brought."""
    lake.put(in__a_csv="id\n1\n", in__b_csv="id\n2\n", in__c_csv="id\n3\n")
    told: list[tuple[int, int]] = []
    ingest(home, "d", [lake.url("in/")], progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (30, 30)
    assert {total for _, total in told} == {30}
    monkeypatch.setattr(bucket_source, "MAX_OBJECTS", 2)
    with pytest.raises(TooLarge, match="means 3 objects"):
        ingest(home, "d", [lake.url("in/")])
    monkeypatch.setattr(bucket_source, "MAX_LISTED", 2)
    with pytest.raises(TooLarge, match="more than 2 objects"):
        ingest(home, "d", [lake.url("in/*.csv")])


def test_urls_that_name_no_bucket_are_refused(home: Home, lake: Lake) -> None:
    """Or hold a secret, which is not shown; a bucket that is not there is told."""
    for url, words in (
        ("s3:///x.csv", "names no bucket"),
        ("s3://key:secret@lake/x.csv", "holds a user or a password"),
        ("s3://key:a/secret@lake/x.csv", "holds a user or a password"),
        ("s3://lake/x.csv?endpoint=http://key:secret@127.0.0.1:9", "holds a user or a password"),
        ("s3://lake/x.csv?acl=public", "'acl' of an s3:// URL is unknown"),
    ):
        with pytest.raises(InvalidInput, match=words) as caught:
            ingest(home, "d", [url])
        assert "secret" not in str(caught.value)
    with pytest.raises(NotFound, match="does not exist"):
        ingest(home, "d", [f"s3://no-such-bucket-of-mine/in/?{lake.options}"])
    with pytest.raises(Unavailable, match="cannot be read"):
        ingest(home, "d", ["s3://lake/x.csv?endpoint=http://127.0.0.1:9"])


def test_the_command_takes_a_bucket(lake: Lake, tmp_path: Path) -> None:
    """By the same argument as a file."""
    lake.put(in__a_csv="id\n" + "1\n" * 30 + "x\n")
    command = (sys.executable, "-m", "tidemill", "ingest", "d", lake.url("in/"), "--json")
    done = subprocess.run(
        (*command, "--home", str(tmp_path / "home")), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert (found["accepted"], found["quarantined"]) == (30, 1)
    assert found["sources"][0]["path"] == lake.url("in/a.csv")


class Breaking(http.server.BaseHTTPRequestHandler):
    """An object of a bucket whose transfers break off, twice or always."""

    data = b"id\n" + b"1234567\n" * 1_000_000
    asked: list[str | None]
    always = False

    def do_HEAD(self) -> None:
        self._begin(200, len(self.data))

    def do_GET(self) -> None:
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.asked.append(self.headers["Range"])
        self._begin(206 if start else 200, len(self.data) - start)
        broken = self.always or len(self.asked) < 3
        self.wfile.write(self.data[start : start + 2_500_000] if broken else self.data[start:])
        self.close_connection = True

    def _begin(self, status: int, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", '"abc"')
        self.end_headers()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def breaking(s3_endpoint: str) -> Iterator[http.server.ThreadingHTTPServer]:
    """Its server; the credentials are those of the test run."""
    Breaking.asked, Breaking.always = [], False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_transfer_that_breaks_off_goes_on(
    home: Home, breaking: http.server.ThreadingHTTPServer
) -> None:
    """From the byte where it was, of the same version; where it never ends, that is told."""
    url = f"s3://lake/a.csv?endpoint=http://127.0.0.1:{breaking.server_port}"
    assert ingest(home, "d", [url]).accepted == 1_000_000
    assert Breaking.asked[0] is None
    starts = [int((each or "")[6:-1]) for each in Breaking.asked[1:]]
    assert 0 < starts[0] <= 2_500_000
    assert starts[0] < starts[1] <= starts[0] + 2_500_000
    Breaking.always = True
    Breaking.asked = []
    with pytest.raises(Unavailable, match=r"broke off after [1-7],\d+,\d+ of 8,000,003 bytes"):
        ingest(home, "e", [url.replace("a.csv", "b.csv")])
    assert not [one for one in list_datasets(home) if one.name == "e"]


def test_bytes_that_cannot_be_taken_are_not_handed_over_again(
    breaking: http.server.ThreadingHTTPServer,
) -> None:
    """A full disk is the taker's error: a copy of it would have some bytes twice."""
    bucket = Bucket(f"s3://lake/a.csv?endpoint=http://127.0.0.1:{breaking.server_port}")
    found = bucket.look("a.csv")
    assert found is not None
    taken: list[int] = []

    def take(piece: bytes) -> None:
        taken.append(len(piece))
        if len(taken) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        bucket.bring(found, take)
    assert (len(taken), Breaking.asked) == (2, [None])


def test_late_and_repeated_rows_count_as_elsewhere(home: Home, lake: Lake) -> None:
    """Received is accepted, quarantined, duplicate and late, over objects and files together."""
    options = DatasetOptions(key=("id",), time="at", lateness_s=60)
    lake.put(in__a_csv="id,at\n1,1000\n2,2000\n")
    ingest(home, "d", [lake.url("in/a.csv")], options=options)
    lake.put(in__b_csv="id,at\n1,2000\n3,1000\n4,x\n5,2000\n")
    found = ingest(home, "d", [lake.url("in/")])
    assert (found.accepted, found.quarantined, found.duplicate, found.late) == (1, 1, 1, 1)


KILLED = """
import os, signal, sys
from pathlib import Path
from tidemill.data.ingest import ingest
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings

calls = [int(sys.argv[3])]
def told(done, total):
    calls[0] -= 1
    if not calls[0]:
        os.kill(os.getpid(), signal.SIGKILL)

with open_home(Settings(home=Path(sys.argv[1]))) as home:
    ingest(home, "d", [sys.argv[2]], progress=told)
"""


@pytest.mark.parametrize("at", [1, 3, 4])
def test_killed_while_it_is_read_nothing_happened(
    tmp_path: Path, lake: Lake, asked: list[str], at: int
) -> None:
    """The same call does it then, once, and brings again only what was not hashed."""
    lake.put(in__a_csv="id\n1\n2\n", in__b_csv="id\n3\n", in__c_csv="id\n4\n5\n")
    command = (sys.executable, "-c", KILLED, str(tmp_path / "home"), lake.url("in/"), str(at))
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with open_home(Settings(home=tmp_path / "home")) as home:
        assert not list_datasets(home)
        assert len(list((home.cache_path / "scratch").iterdir())) == 1
        found = ingest(home, "d", [lake.url("in/")])
        assert ids(home, found.snapshot) == [1, 2, 3, 4, 5]
        assert sorted(asked) == ["in/a.csv", "in/b.csv", "in/c.csv"]
        assert not list((home.cache_path / "scratch").iterdir())
        assert ingest(home, "d", [lake.url("in/")]).repeated
