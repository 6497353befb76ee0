"""Data sent to the admin API goes through the gate once, whatever is cut, killed or wrong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fastavro
import httpx
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.control import keys
from tidemill.control.admin import admin_app
from tidemill.control.audit import read_audit
from tidemill.control.upload_desk import UploadDesk
from tidemill.control.uploads import MAX_DEATHS, note_death, settle
from tidemill.data.catalog import list_datasets
from tidemill.data.held_rows import show_held
from tidemill.data.ingest import ingest
from tidemill.data.snapshots import list_snapshots, read_snapshot
from tidemill.data.upload_records import UploadTerms
from tidemill.data.uploads import Uploads
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.locks import hold
from tidemill.foundation.settings import Settings, UploadsSettings

PATH = "/admin/v1/data/orders"
ROWS = [{"id": i, "price": i / 4, "kind": "ab"[i % 2]} for i in range(60)]
CSV = ("id,price,kind\n" + "".join(f"{r['id']},{r['price']},{r['kind']}\n" for r in ROWS)).encode()
NEW = {"create": "true", "wait_s": "0"}


class Client:
    """Sends requests to the admin API of a home."""

    def __init__(self, home: Home, **headers: str) -> None:
        self.app = admin_app(home, None, Instruments())  # type: ignore[arg-type]
        self._headers = headers

    def send(self, verb: str, path: str = PATH, **more: Any) -> httpx.Response:
        """Returns the answer."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            base = "http://127.0.0.1:8081"
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                return await client.request(verb, path, **more)

        more["headers"] = {**self._headers, **more.get("headers", {})}
        return asyncio.run(ask())

    def put(self, data: Any, **more: Any) -> httpx.Response:
        """Sends a piece."""
        return self.send("PUT", content=data, **more)


@pytest.fixture
def client(home: Home) -> Client:
    """A client of an empty installation."""
    return Client(home)


def digest(data: bytes) -> str:
    """Returns the sha256 as the headers have it."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def failed(response: httpx.Response, status: int, *words: str) -> None:
    """Checks an error."""
    assert response.status_code == status, response.text
    for word in words:
        assert word in response.json()["error"]


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def _arrow(make: Any) -> bytes:
    table = pa.Table.from_pylist(ROWS)
    sink = io.BytesIO()
    with make(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _avro() -> bytes:
    kinds = {"id": "long", "price": "double", "kind": "string"}
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    schema = {"type": "record", "name": "r", "fields": fields}
    sink = io.BytesIO()
    fastavro.writer(sink, fastavro.parse_schema(schema), ROWS)
    return sink.getvalue()


LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
FORMS = {
    "text/csv": CSV,
    "text/csv; charset=utf-8": CSV,
    "application/x-ndjson": LINES,
    "application/jsonl": LINES,
    "application/vnd.apache.parquet": _parquet(),
    "application/vnd.apache.arrow.file": _arrow(pa.ipc.new_file),
    "application/vnd.apache.arrow.stream": _arrow(pa.ipc.new_stream),
    "application/avro": _avro(),
    "application/octet-stream": CSV,
}


@pytest.mark.parametrize("media", FORMS)
def test_each_form_becomes_a_snapshot(home: Home, client: Client, media: str) -> None:
    """The same rows, whatever they were sent as."""
    sent = client.put(FORMS[media], params=NEW, headers={"content-type": media})
    assert sent.status_code == 202
    upload = sent.json()
    assert (upload["state"], upload["offset"]) == ("received", len(FORMS[media]))
    assert sent.headers["location"] == f"{PATH}?upload={upload['upload']}"
    done = settle(home, "orders", upload["upload"])
    assert done.result is not None
    assert (done.state, done.result.accepted, done.result.received) == ("done", 60, 60)
    (snapshot,) = list_snapshots(home, "orders")
    rows = read_snapshot(home, snapshot).select(["id", "price", "kind"])
    assert rows.to_pylist() == ROWS
    assert not Uploads(home).data_path(done).exists()


def test_it_is_the_gate_of_ingest(home: Home, client: Client) -> None:
    """Every row is accepted, quarantined, duplicate or late; options are those of the verb."""
    bad = CSV + b"0,0.0,a\nbad\n"
    params = {**NEW, "upload": "jan", "file": "january.csv", "key": "id"}
    client.put(bad, params=params).raise_for_status()
    settle(home, "orders", "jan")
    found = client.send("GET", params={"upload": "jan"}).json()
    counts = found["result"]
    assert (found["state"], counts["received"], counts["accepted"]) == ("done", 62, 60)
    assert (counts["quarantined"], counts["duplicate"], counts["late"]) == (1, 1, 0)
    assert counts["reasons"] == {"duplicate": 1, "wrong_fields": 1}
    (row,) = read_audit(home.store, subject="upload orders/jan")
    assert (row.verb, row.by, row.detail["file"]) == ("upload", "admin API", "january.csv")
    assert (row.detail["accepted"], row.detail["snapshot"]) == (60, counts["snapshot"])
    again = client.put(bad, params={**NEW, "upload": "again"})
    assert again.status_code == 202
    repeated = settle(home, "orders", "again").result
    assert repeated is not None
    assert (repeated.repeated, repeated.accepted) == (True, 60)
    assert len(list_snapshots(home, "orders")) == 1


def test_a_refused_batch_is_told(home: Home, client: Client) -> None:
    """All its rows are held, with the reason."""
    ingest(home, "orders", [_file(home, CSV)])
    client.put(b"id\n1\n", params={**NEW, "upload": "jan"}).raise_for_status()
    refused = settle(home, "orders", "jan")
    assert refused.result is not None
    assert (refused.state, refused.result.quarantined) == ("refused", 1)
    assert "is missing" in str(refused.result.refused)


def _file(home: Home, data: bytes) -> Path:
    path = home.path / "given.csv"
    path.write_bytes(data)
    return path


def test_pieces_go_on_where_they_ended(home: Home, client: Client) -> None:
    """HEAD says how far it is; a piece that begins elsewhere is refused and says it, too."""
    params = {**NEW, "upload": "jan"}
    first = client.put(CSV[:100], params=params, headers={"upload-complete": "?0"})
    assert (first.status_code, first.json()["state"]) == (200, "open")
    assert (first.headers["upload-offset"], first.headers["upload-complete"]) == ("100", "?0")
    head = client.send("HEAD", params={"upload": "jan"})
    assert (head.status_code, head.content) == (200, b"")
    assert (head.headers["upload-offset"], head.headers["upload-complete"]) == ("100", "?0")
    assert head.headers["upload-limit"] == f"max-size={16 << 30}"
    for offset in ("0", "99", "101"):
        wrong = client.put(CSV, params=params, headers={"upload-offset": offset})
        failed(wrong, 409, "100 bytes are here")
        assert wrong.headers["upload-offset"] == "100"
    last = client.put(CSV[100:], params=params, headers={"upload-offset": "100"})
    assert (last.status_code, last.headers["upload-complete"]) == (202, "?1")
    failed(client.put(CSV, params=params), 409, "is whole")
    done = settle(home, "orders", "jan").result
    assert done is not None
    assert done.accepted == 60
    failed(client.put(CSV, params=params), 409, "is whole")


def test_hashes_are_verified(home: Home, client: Client) -> None:
    """Of a piece at once, of the whole before its ingest; what is wrong records nothing."""
    params = {**NEW, "upload": "jan"}
    wrong = {"content-digest": digest(b"other"), "upload-complete": "?0"}
    failed(client.put(CSV[:100], params=params, headers=wrong), 400, "was said to have")
    assert client.send("HEAD", params={"upload": "jan"}).headers["upload-offset"] == "0"
    right = {"content-digest": digest(CSV[:100]), "upload-complete": "?0"}
    client.put(CSV[:100], params=params, headers=right).raise_for_status()
    rest = {"upload-offset": "100", "repr-digest": digest(CSV)}
    client.put(CSV[100:], params=params, headers=rest).raise_for_status()
    assert settle(home, "orders", "jan").state == "done"
    bad = {"repr-digest": digest(b"other")}
    client.put(CSV, params={**NEW, "upload": "feb"}, headers=bad).raise_for_status()
    refused = settle(home, "orders", "feb")
    assert (refused.state, refused.result) == ("failed", None)
    assert refused.problem is not None
    assert (refused.problem.kind, "was said to have" in refused.problem.what) == (
        "InvalidInput",
        True,
    )
    (row,) = read_audit(home.store, subject="upload orders/feb")
    assert row.verb == "upload-fail"


@pytest.mark.parametrize(
    ("data", "file", "said"),
    [
        (b"", "a.csv", "is empty"),
        (b"id,price\n", "a.csv", "has a header and no rows"),
        (b"PAR1 and nothing more", "a.parquet", "a.parquet"),
        (b"id\n1\n", "a.parquet", "is not Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_fails(
    home: Home, client: Client, data: bytes, file: str, said: str
) -> None:
    """With its reason, in which no path of the server stands; nothing is recorded."""
    client.put(data, params={**NEW, "upload": "jan", "file": file}).raise_for_status()
    bad = settle(home, "orders", "jan")
    assert (bad.state, bad.result) == ("failed", None)
    assert bad.problem is not None
    assert said in bad.problem.what
    assert str(home.path) not in bad.problem.what
    (row,) = read_audit(home.store, subject="upload orders/jan")
    assert (row.verb, row.detail["problem"]["what"]) == ("upload-fail", bad.problem.what)
    assert list_datasets(home) == []
    assert not Uploads(home).data_path(bad).exists()


@pytest.mark.parametrize(
    ("params", "headers", "expected"),
    [
        ({}, {}, (404, "'orders' does not exist", "create=true")),
        ({"create": "true", "upload": "a/b"}, {}, (400, "upload name")),
        ({"create": "true", "file": "../x.csv"}, {}, (400, "file name")),
        ({"create": "true", "files": "x.csv"}, {}, (400, "'files' is no parameter")),
        ({"create": "true", "wait_s": "61"}, {}, (400, "wait_s is '61'")),
        ({"create": "true", "lateness_s": "soon"}, {}, (400, "lateness_s is 'soon'")),
        ({"create": "true", "delimiter": "\n"}, {}, (400, r"delimiter is '\n'")),
        ({"create": "true", "delimiter": "||"}, {}, (400, "delimiter is '||'")),
        ({"create": "true", "encoding": "zlib"}, {}, (400, "encoding 'zlib'")),
        ({"create": "true", "encoding": "rot13"}, {}, (400, "encoding 'rot13'")),
        ({"create": "true", "encoding": "idna"}, {}, (400, "encoding 'idna'")),
        ({"create": "true"}, {"content-type": "image/png"}, (400, "image/png", "text/csv")),
        (
            {"create": "true", "file": "a.parquet"},
            {"content-type": "text/csv"},
            (400, "does not end as text/csv does"),
        ),
        ({"create": "true"}, {"content-encoding": "gzip"}, (400, "Content-Encoding")),
        ({"create": "true"}, {"upload-offset": "-1"}, (400, "Upload-Offset is '-1'")),
        ({"create": "true"}, {"upload-offset": "7"}, (404, "no upload")),
        ({"create": "true"}, {"upload-offset": "9" * 20}, (413, "Upload-Offset")),
        ({"create": "true"}, {"upload-complete": "?0"}, (400, "has no name", "upload=NAME")),
        ({"create": "true"}, {"upload-complete": "yes"}, (400, "Upload-Complete is 'yes'")),
        ({"create": "true"}, {"upload-length": str(1 << 40)}, (413, "uploads.max_bytes")),
        ({"create": "true"}, {"repr-digest": "md5=:AAAA:"}, (400, "Repr-Digest")),
        ({"create": "true"}, {"content-digest": "sha-256=:x:"}, (400, "Content-Digest")),
    ],
)
def test_what_cannot_be_taken_is_told(
    home: Home,
    client: Client,
    params: dict[str, str],
    headers: dict[str, str],
    expected: tuple[int, str],
) -> None:
    """With the status that fits; nothing of it is left."""
    failed(client.put(CSV, params=params, headers=headers), *expected)
    assert list(Uploads(home).scan()) == []


def test_an_upload_over_its_limit_is_refused(tmp_path: Path) -> None:
    """Whether it says its length or not, before it is whole."""
    limits = UploadsSettings(max_bytes=500, min_free_bytes=0, max_open=1)

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(CSV), 100):
            yield CSV[start : start + 100]

    with open_home(Settings(home=tmp_path / "home", uploads=limits)) as home:
        client = Client(home)
        failed(client.put(CSV, params=NEW), 413, "uploads.max_bytes, 500")
        failed(client.put(parts(), params=NEW), 413, "uploads.max_bytes, 500")
        assert list(Uploads(home).scan()) == []
        client.put(CSV[:9], params={**NEW, "upload": "a"}, headers={"upload-complete": "?0"})
        failed(client.put(CSV[:9], params={**NEW, "upload": "b"}), 503, "uploads.max_open")


def test_a_full_disk_has_a_status_of_its_own(tmp_path: Path) -> None:
    """507, with what to do; nothing of it is left."""
    limits = UploadsSettings(min_free_bytes=1 << 60)
    with open_home(Settings(home=tmp_path / "home", uploads=limits)) as home:
        failed(Client(home).put(CSV, params=NEW), 507, "uploads.min_free_bytes")
        assert list(Uploads(home).scan()) == []


def test_a_recipes_dataset_needs_no_word(tmp_path: Path) -> None:
    """What a recipe declares is known before its first row, with its options."""
    recipe: dict[str, Any] = {"dataset": "orders", "features": ["price"], "label": "kind"}
    recipe["ingest"] = {"key": ["id"]}
    with open_home(Settings(home=tmp_path / "home", recipes={"r": recipe})) as home:
        sent = Client(home).put(CSV + b"0,0,a\n", params={"upload": "jan", "wait_s": "0"})
        assert sent.status_code == 202
        result = settle(home, "orders", "jan").result
        assert result is not None
        assert (result.accepted, result.duplicate) == (60, 1)


def test_an_upload_is_removed_until_its_rows_are_in(home: Home, client: Client) -> None:
    """Also one that waits for its ingest; whoever removes one is in the audit."""
    params = {**NEW, "upload": "jan"}
    client.put(CSV[:9], params=params, headers={"upload-complete": "?0"}).raise_for_status()
    assert client.send("DELETE", params={"upload": "jan"}).json()["offset"] == 9
    failed(client.send("GET", params={"upload": "jan"}), 404, "no upload 'jan'")
    failed(client.send("DELETE", params={"upload": "jan"}), 404, "no upload 'jan'")
    failed(client.send("DELETE"), 400, "no upload was named")
    (row,) = read_audit(home.store, subject="upload orders/jan")
    assert (row.verb, row.detail["bytes"], row.detail["state"]) == ("upload-cancel", 9, "open")
    client.put(CSV, params=params).raise_for_status()
    with Uploads(home).at_work(Uploads(home).find("orders", "jan")):
        failed(client.send("DELETE", params={"upload": "jan"}), 409, "is being ingested")
        assert settle(home, "orders", "jan").state == "received"  # that, too, is left alone
    assert client.send("DELETE", params={"upload": "jan"}).json()["state"] == "received"
    assert list(Uploads(home).scan()) == []
    client.put(CSV, params=params).raise_for_status()
    settle(home, "orders", "jan")
    listed = client.send("GET").json()["uploads"]
    assert [(each["upload"], each["state"]) for each in listed] == [("jan", "done")]
    assert client.send("DELETE", params={"upload": "jan"}).status_code == 200
    assert client.send("GET").json() == {"uploads": []}


def test_a_removal_is_done_before_the_next_piece(home: Home, client: Client) -> None:
    """A piece that came while the folder is being removed would be acknowledged, and lost."""
    params = {**NEW, "upload": "jan"}
    client.put(CSV[:9], params=params, headers={"upload-complete": "?0"}).raise_for_status()

    async def both() -> list[int]:
        transport = httpx.ASGITransport(app=client.app)
        base = "http://127.0.0.1:8081"
        async with httpx.AsyncClient(transport=transport, base_url=base, timeout=60) as asking:
            with hold(home.path / "uploads" / ".lock"):
                removal = asyncio.create_task(asking.delete(PATH, params={"upload": "jan"}))
                while not read_audit(home.store, subject="upload orders/jan"):
                    await asyncio.sleep(0.01)  # then it waits for the lock
                more = {"upload-offset": "9", "upload-complete": "?0"}
                piece = asyncio.create_task(
                    asking.put(PATH, content=CSV[9:], params=params, headers=more)
                )
                await asyncio.sleep(0.2)
            return [each.status_code for each in await asyncio.gather(removal, piece)]

    assert asyncio.run(both()) == [200, 404]
    assert list(Uploads(home).scan()) == []


def test_data_takes_its_own_scope(home: Home) -> None:
    """A key for data brings data and does nothing else; no other key brings any."""
    made = {
        scope: keys.create_key(home, scope, scopes=[scope], by="tests").key
        for scope in ("data", "operate", "query")
    }
    limited = keys.create_key(home, "one", scopes=["data"], applications=["app"], by="tests").key
    of = {name: Client(home, authorization=f"Bearer {key}") for name, key in made.items()}
    params = {**NEW, "upload": "jan"}
    failed(Client(home).put(CSV, params=params), 401, "a key is needed")
    for name in ("operate", "query"):
        for verb in ("PUT", "GET", "DELETE"):
            failed(of[name].send(verb, params=params), 403, "has not the scope 'data'")
    failed(Client(home, authorization=f"Bearer {limited}").put(CSV, params=params), 403, "is not")
    assert list(Uploads(home).scan()) == []
    assert of["data"].put(CSV, params=params).status_code == 202
    failed(of["data"].send("GET", "/admin/v1/models"), 403, "has not the scope 'operate'")
    settle(home, "orders", "jan")
    (row,) = read_audit(home.store, subject="upload orders/jan")
    assert row.by == "admin API, key data"


CHILD = """
import os, signal, sys
from pathlib import Path
from tidemill.control import uploads as story
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings

where = sys.argv[2]

def dying(function):
    def wrapper(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapper

if where == "_ingest":
    story._ingest = dying(story._ingest)
elif where == "_write_audit":
    story._write_audit = dying(story._write_audit)
elif where == "changed":
    story.Uploads.changed = dying(story.Uploads.changed)
else:
    story.Uploads.remove_data = dying(story.Uploads.remove_data)
with open_home(Settings(home=Path(sys.argv[1]))) as home:
    story.settle(home, "orders", "jan")
"""


@pytest.mark.parametrize("where", ["_ingest", "_write_audit", "changed", "remove_data"])
def test_killed_anywhere_it_is_ingested_once(home: Home, client: Client, where: str) -> None:
    """Before the ingest, before the audit, before the record, and behind all: one of each."""
    params = {**NEW, "upload": "jan", "key": "id"}
    client.put(CSV + b"0,0.0,a\n", params=params).raise_for_status()
    command = [sys.executable, "-c", CHILD, str(home.path), where]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    done = settle(home, "orders", "jan")
    assert done.result is not None
    assert (done.state, done.result.accepted, done.result.duplicate) == ("done", 60, 1)
    assert done.result.repeated == (where in ("_write_audit", "changed"))
    (snapshot,) = list_snapshots(home, "orders")
    assert read_snapshot(home, snapshot).num_rows == 60
    assert len(read_audit(home.store, subject="upload orders/jan")) == 1


def test_what_a_killed_ingest_brought_in_is_not_removed(home: Home, client: Client) -> None:
    """Its rows are there, though nobody was told so yet: the audit would never have them."""
    params = {**NEW, "upload": "jan"}
    client.put(CSV, params=params).raise_for_status()
    command = [sys.executable, "-c", CHILD, str(home.path), "_write_audit"]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    failed(client.send("DELETE", params={"upload": "jan"}), 409, "are in dataset 'orders'")
    assert settle(home, "orders", "jan").state == "done"
    assert client.send("DELETE", params={"upload": "jan"}).status_code == 200
    (row,) = read_audit(home.store, subject="upload orders/jan")
    assert row.verb == "upload"


def test_what_never_passes_is_given_up(tmp_path: Path) -> None:
    """After uploads.max_tries, with the reason, its bytes in place; the audit has it once."""
    settings = Settings(home=tmp_path / "home", uploads=UploadsSettings(max_tries=3))
    with open_home(settings) as home:
        client = Client(home)
        client.put(CSV, params={**NEW, "upload": "jan"}).raise_for_status()
        (home.cache_path / "ingest").write_bytes(b"")  # no folder can be made there
        for tries in (1, 2):
            waiting = settle(home, "orders", "jan")
            assert (waiting.state, waiting.tries) == ("received", tries)
        settle(home, "orders", "jan")
        found = client.send("GET", params={"upload": "jan"}).json()
        assert (found["state"], found["tries"]) == ("failed", 3)
        assert "tried 3 times" in found["problem"]["what"]
        assert settle(home, "orders", "jan").tries == 3
        (row,) = read_audit(home.store, subject="upload orders/jan")
        assert (row.verb, row.by, row.detail["tries"]) == ("upload-fail", "admin API", 3)
        kept = Uploads(home).find("orders", "jan")
        assert Uploads(home).data_path(kept).read_bytes() == CSV
        assert client.send("DELETE", params={"upload": "jan"}).status_code == 200
        assert list(Uploads(home).scan()) == []


def test_nothing_names_a_place_of_the_server(home: Home, client: Client) -> None:
    """Records, held rows and notes have the dataset, the upload and the file."""
    params = {**NEW, "upload": "jan", "file": "january.csv"}
    client.put(CSV + b"bad\n", params=params).raise_for_status()
    settle(home, "orders", "jan")
    again = {**NEW, "upload": "feb", "file": "january.csv"}
    client.put(CSV + b"bad\n", params=again).raise_for_status()
    settle(home, "orders", "feb")
    told = client.send("GET").text
    assert str(home.path) not in told
    (first, second) = json.loads(told)["uploads"]
    name = "upload:orders/jan/january.csv"
    assert [each["path"] for each in first["result"]["sources"]] == [name]
    assert second["result"]["repeated"]
    assert show_held(home, "orders").column("source").to_pylist() == [name]


def test_what_may_pass_is_tried_again(home: Home, client: Client) -> None:
    """A disk that takes no more keeps an upload waiting, with the reason; nothing is lost."""
    client.put(CSV, params={**NEW, "upload": "jan"}).raise_for_status()
    blocked = home.cache_path / "ingest"
    blocked.write_bytes(b"")  # no folder can be made there
    waiting = settle(home, "orders", "jan")
    assert waiting.problem is not None
    assert (waiting.state, waiting.problem.kind) == ("received", "Unavailable")
    assert Uploads(home).data_path(waiting).read_bytes() == CSV
    blocked.unlink()
    done = settle(home, "orders", "jan")
    assert (done.state, done.problem) == ("done", None)
    assert len(list_snapshots(home, "orders")) == 1


def test_a_file_that_ends_its_process_is_given_up(home: Home, client: Client) -> None:
    """After some times, told, and left for whoever looks."""
    client.put(CSV, params={**NEW, "upload": "jan"}).raise_for_status()
    for deaths in range(1, MAX_DEATHS):
        upload = note_death(home, "orders", "jan")
        assert (upload.state, upload.deaths) == ("received", deaths)
    upload = note_death(home, "orders", "jan")
    assert upload.problem is not None
    assert (upload.state, upload.problem.kind) == ("failed", "WorkerLost")
    assert Uploads(home).data_path(upload).read_bytes() == CSV
    assert note_death(home, "orders", "jan") == upload
    assert settle(home, "orders", "jan") == upload
    with pytest.raises(NotFound):
        settle(home, "orders", "feb")


def test_work_begun_again_leaves_what_is_being_received(tmp_path: Path) -> None:
    """What has no name is forgotten with the server that took it, not with a failure beside it."""
    clock, named = FakeClock(at=1000.0), UploadTerms(file="rows.csv", by="tests")
    nameless = msgspec.structs.replace(named, named=False)
    limits = UploadsSettings(keep_s=10.0)

    async def one_round(desk: UploadDesk) -> None:
        """Has the desk work until it has swept, which is after it forgot, and ends it."""
        idle = desk.uploads.begin("orders", "idle", named)
        clock.advance(11.0)
        for each in desk.uploads.scan():
            if each != idle:
                desk.uploads.changed(each)
        work = asyncio.create_task(desk.run())
        async with asyncio.timeout(60):
            while desk.uploads.folder(idle).exists():
                assert not work.done()
                await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait([work])
        assert [each.upload for each in desk.uploads.scan()] == ["during"]

    async def two_rounds(desk: UploadDesk) -> None:
        await one_round(desk)
        await one_round(desk)

    with open_home(Settings(home=tmp_path / "home", uploads=limits), clock=clock) as home:
        Uploads(home).begin("orders", "before", nameless)
        clock.advance(1.0)
        desk = UploadDesk(home, Instruments())
        clock.advance(1.0)
        desk.uploads.begin("orders", "during", nameless)
        asyncio.run(two_rounds(desk))
