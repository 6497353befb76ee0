"""One suite for all files: a folder and an S3-compatible bucket keep the same promises."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest

from tidemill.foundation.errors import (
    Corrupted,
    InvalidInput,
    InvalidSettings,
    NotFound,
    Unavailable,
)
from tidemill.foundation.files import (
    Files,
    fetch_content,
    open_files,
    put_content,
    sha256_file,
    write_atomic,
)


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Empty files of each kind in turn."""
    if request.param == "folder":
        return str(tmp_path / "files")
    found: str = request.getfixturevalue("s3_url")
    return found


@pytest.fixture
def files(url: str, tmp_path: Path) -> Files:
    """The files, with an empty cache."""
    return open_files(url, tmp_path / "cache")


@pytest.fixture
def bucket(s3_url: str, tmp_path: Path) -> Files:
    """Files in a bucket, for what only a bucket can show."""
    return open_files(s3_url, tmp_path / "cache")


class Intruder(Protocol):
    """Writes into the bucket behind the back of the files."""

    def __call__(self, key: str, data: bytes, metadata: dict[str, str]) -> None: ...


@pytest.fixture
def overwrite(s3_url: str, s3_client: Any) -> Intruder:
    """Writes into the bucket behind the back of the files."""
    parts = urlsplit(s3_url)

    def write(key: str, data: bytes, metadata: dict[str, str]) -> None:
        name = f"{parts.path.strip('/')}/{key}"
        s3_client.put_object(Bucket=parts.netloc, Key=name, Body=data, Metadata=metadata)

    return write


def source(tmp_path: Path, data: bytes) -> Path:
    """Writes a file to be put."""
    path = tmp_path / "source.bin"
    path.write_bytes(data)
    return path


def test_what_was_put_comes_back(files: Files, tmp_path: Path) -> None:
    """Files and bytes come back as they were put, at once and for every other opener."""
    data = os.urandom(3 << 20)
    files.put("models/one/model.onnx", source(tmp_path, data))
    files.put_bytes("reports/a.json", b"{}")
    assert files.get_bytes("models/one/model.onnx") == data
    assert files.fetch("models/one/model.onnx").read_bytes() == data
    assert files.fetch("reports/a.json").read_bytes() == b"{}"


def test_others_see_it(url: str, files: Files, tmp_path: Path) -> None:
    """Another opener of the same place finds what was put."""
    files.put_bytes("a/b", b"x")
    other = open_files(url, tmp_path / "another cache")
    assert other.exists("a/b")
    assert other.get_bytes("a/b") == b"x"


def test_a_copy_is_stored(files: Files, tmp_path: Path) -> None:
    """What happens to the source afterwards does not matter."""
    path = source(tmp_path, b"before")
    files.put("a", path)
    path.write_bytes(b"after!")
    assert files.get_bytes("a") == b"before"


def test_a_key_is_replaced_whole(files: Files) -> None:
    """Putting a key again replaces it, and every reader then sees the new bytes."""
    files.put_bytes("a/b.json", b"one")
    assert files.get_bytes("a/b.json") == b"one"
    files.put_bytes("a/b.json", b"two")
    assert files.get_bytes("a/b.json") == b"two"


def test_when_a_key_was_written_is_known(files: Files) -> None:
    """Within the second, and by the clock of whoever stores it."""
    before = time.time()
    files.put_bytes("a/b.json", b"one")
    assert before - 2.0 <= files.written_at("a/b.json") <= time.time() + 2.0
    for absent in ("a", "a/c.json"):
        with pytest.raises(NotFound, match=f"'{absent}' is not in"):
            files.written_at(absent)


def test_what_is_not_there_is_said_so(files: Files) -> None:
    """An absent key is not found, by name; a folder of keys is not a key."""
    files.put_bytes("a/b", b"x")
    assert files.exists("a/b")
    assert not files.exists("a")
    assert not files.exists("a/b/c")
    with pytest.raises(NotFound, match="'a/c' is not in"):
        files.fetch("a/c")
    with pytest.raises(NotFound, match="'a'"):
        files.get_bytes("a")


def test_deleting(files: Files) -> None:
    """A deleted key is gone, and deleting what is not there does nothing."""
    files.put_bytes("a/b", b"x")
    assert files.get_bytes("a/b") == b"x"
    files.delete("a/b")
    files.delete("a/b")
    assert not files.exists("a/b")
    with pytest.raises(NotFound):
        files.get_bytes("a/b")


def test_scanning_by_prefix(files: Files) -> None:
    """Keys come in order, and a prefix may end inside a name."""
    assert list(files.scan()) == []
    for key in ("b/2", "a/x/1", "a/y", "b/10", "c"):
        files.put_bytes(key, b"")
    assert list(files.scan()) == ["a/x/1", "a/y", "b/10", "b/2", "c"]
    assert list(files.scan("a/")) == ["a/x/1", "a/y"]
    assert list(files.scan("b/1")) == ["b/10"]
    assert list(files.scan("b")) == ["b/10", "b/2"]
    assert list(files.scan("nothing/here")) == []


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "a//b", "../a", "a/../b", "a/.", ".tmp/a", "a/", "a\n", "a\\b", "ä"]
)
def test_keys_that_are_none(files: Files, key: str) -> None:
    """No key leaves its place: such a name is refused by every verb."""
    with pytest.raises(InvalidInput, match="file key"):
        files.put_bytes(key, b"x")
    with pytest.raises(InvalidInput, match="file key"):
        files.fetch(key)
    with pytest.raises(InvalidInput, match="file key"):
        files.exists(key)


def test_a_prefix_stays_inside(files: Files) -> None:
    """A scan cannot look beside its place."""
    with pytest.raises(InvalidInput, match="file key"):
        list(files.scan("../"))


def test_content_is_named_by_its_hash(files: Files, tmp_path: Path) -> None:
    """The same content has one key, written once, whatever the file's own name."""
    path = source(tmp_path, b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    key = put_content(files, path, folder="data", suffix="parquet")
    assert key == f"data/{digest[:2]}/{digest}.parquet"
    assert put_content(files, path, folder="data", suffix=".parquet") == key
    assert put_content(files, path, folder="data", suffix="") == f"data/{digest[:2]}/{digest}"
    assert sha256_file(files.fetch(key)) == digest


def test_damaged_content_is_replaced_if_it_is_looked_at(
    url: str, files: Files, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """In place, its size as before: whoever fetches it next has what its name says."""
    path = source(tmp_path, b"content")
    key = put_content(files, path, folder="data", suffix="bin")
    if url.startswith("s3:"):
        request.getfixturevalue("overwrite")(key, b"conTent", {})
    else:
        stored = files.fetch(key)
        stored.chmod(0o644)
        stored.write_bytes(b"conTent")
    assert put_content(files, path, folder="data", suffix="bin", verify=True) == key
    other = open_files(url, tmp_path / "another cache")
    assert other.get_bytes(key) == files.get_bytes(key) == b"content"
    assert files.holds(key, hashlib.sha256(b"content").hexdigest())
    assert not files.holds(key, hashlib.sha256(b"other").hexdigest())
    assert not files.holds("data/none", hashlib.sha256(b"content").hexdigest())


def test_content_is_fetched_as_it_was_stored(files: Files, url: str, tmp_path: Path) -> None:
    """A copy that is damaged is made anew from a bucket; what is damaged there is refused."""
    key = put_content(files, source(tmp_path, b"content"), folder="data", suffix="bin")
    copy = fetch_content(files, key)
    assert copy.read_bytes() == b"content"
    copy.chmod(0o644)
    copy.write_bytes(b"damaged")
    if urlsplit(url).scheme == "s3":
        assert fetch_content(files, key).read_bytes() == b"content"
        files.put_bytes(key, b"damaged")
        files.fetch(key).unlink()
    with pytest.raises(Corrupted, match=r"data/.*bin"):
        fetch_content(files, key)


def test_a_final_file_is_stored_without_its_first_name(files: Files, tmp_path: Path) -> None:
    """Whether it is stored itself or copied: it stays, read-only, when the source's name goes."""
    path = source(tmp_path, b"final")
    key = put_content(files, path, folder="data", suffix="bin", final=True)
    path.unlink()
    fetched = files.fetch(key)
    assert fetched.read_bytes() == b"final"
    assert fetched.stat().st_mode & 0o222 == 0
    assert put_content(files, fetched, folder="data", suffix="bin", final=True) == key


def test_writers_of_one_key_do_not_mix(files: Files) -> None:
    """With several writers of one key, every reader sees the whole bytes of one of them."""
    choices = [bytes([65 + n]) * 200_000 for n in range(4)]
    files.put_bytes("k", choices[0])

    def write(data: bytes) -> None:
        for _ in range(5):
            files.put_bytes("k", data)

    threads = [threading.Thread(target=write, args=(data,)) for data in choices]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert files.get_bytes("k") in choices
        time.sleep(0.002)
    for thread in threads:
        thread.join()


def test_it_says_where_it_is(files: Files, url: str) -> None:
    """The URL is there for people to see."""
    assert files.url == url


PUT_FOREVER = """
import sys
from pathlib import Path
from tidemill.foundation.files import open_files

files = open_files(sys.argv[1], Path("unused"))
print("ready", flush=True)
for number in range(10**9):
    files.put_bytes(f"k/{number % 7}", bytes([65 + number % 26]) * 300_000)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    """After kill -9 every key holds the whole of something that was put."""
    folder = tmp_path / "files"
    for pause in (0.01, 0.02, 0.03, 0.05):
        command = (sys.executable, "-c", PUT_FOREVER, str(folder))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
    files = open_files(f"file://{folder}", tmp_path)
    keys = list(files.scan())
    assert keys
    for key in keys:
        data = files.get_bytes(key)
        assert len(data) == 300_000
        assert len(set(data)) == 1


def test_a_file_in_a_folder_is_not_copied_and_not_writable(tmp_path: Path) -> None:
    """Fetching from a folder gives the file itself, which nobody may write."""
    files = open_files(str(tmp_path / "files"), tmp_path / "cache")
    files.put_bytes("a", b"x")
    assert files.fetch("a") == tmp_path / "files" / "a"
    assert files.fetch("a").stat().st_mode & 0o777 == 0o444
    assert not (tmp_path / "cache").exists()


def test_bytes_changed_in_the_bucket_are_noticed(bucket: Files, overwrite: Intruder) -> None:
    """What arrives from a bucket with another hash than was put is refused, by name."""
    bucket.put_bytes("models/a.bin", b"good")
    overwrite("models/a.bin", b"evil", {"sha256": hashlib.sha256(b"good").hexdigest()})
    with pytest.raises(Corrupted, match="models/a\\.bin"):
        bucket.fetch("models/a.bin")


def test_content_that_is_not_what_its_name_says_is_noticed(
    bucket: Files, overwrite: Intruder
) -> None:
    """A key named by a hash is checked against it, whatever else the bucket says."""
    key = f"data/{'ab' * 32}.parquet"
    overwrite(key, b"other", {})
    with pytest.raises(Corrupted, match="not abab"):
        bucket.fetch(key)


def test_content_is_downloaded_once(bucket: Files, overwrite: Intruder, tmp_path: Path) -> None:
    """A key named by its content is served from the cache, without asking the bucket."""
    key = put_content(bucket, source(tmp_path, b"content"), folder="data", suffix="bin")
    first = bucket.fetch(key)
    overwrite(key, b"changed", {})
    assert bucket.fetch(key) == first
    assert first.read_bytes() == b"content"
    assert first.stat().st_mode & 0o777 == 0o444


def test_an_object_that_others_wrote_can_be_read(bucket: Files, overwrite: Intruder) -> None:
    """An object without a hash beside it is fetched, and again when it changed."""
    overwrite("inbox/a.csv", b"one", {})
    assert bucket.get_bytes("inbox/a.csv") == b"one"
    overwrite("inbox/a.csv", b"two", {})
    assert bucket.get_bytes("inbox/a.csv") == b"two"


def test_a_bucket_that_is_not_there(s3_endpoint: str, tmp_path: Path) -> None:
    """Writing to a bucket that does not exist is an error that names it."""
    files = open_files(f"s3://no-such-bucket?endpoint={s3_endpoint}", tmp_path)
    with pytest.raises((NotFound, Unavailable), match="no-such-bucket"):
        files.put_bytes("a", b"x")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/folder", "'ftp' URL"),
        ("s3://bucket?colour=red", "option 'colour'"),
        ("s3:///folder", "names no bucket"),
    ],
)
def test_urls_of_no_files(url: str, message: str, tmp_path: Path) -> None:
    """A URL that names no files is refused, with what is wrong."""
    with pytest.raises(InvalidSettings, match=message):
        open_files(url, tmp_path)


def test_secrets_in_a_bucket_url_are_masked(tmp_path: Path) -> None:
    """A password in a URL is never shown."""
    files = open_files("s3://user:hunter2@bucket/folder", tmp_path)
    assert "hunter2" not in files.url + repr(files)


def test_write_atomic_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves the old file, and nothing beside it."""
    path = tmp_path / "deep" / "state.json"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["state.json"]
