"""What was acknowledged of an upload is there, and nothing else is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tidemill.data.upload_pieces import KEEP_EVERY_BYTES, Piece, with_terms
from tidemill.data.upload_records import Problem, Upload, UploadTerms
from tidemill.data.uploads import Uploads
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import (
    Conflict,
    Corrupted,
    DiskFull,
    InvalidInput,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings, UploadsSettings

TERMS = UploadTerms(file="rows.csv", by="tests")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Home, FakeClock]]:
    """A home that takes two uploads of 100 bytes at a time, and keeps them ten seconds."""
    limits = UploadsSettings(max_bytes=100, max_open=2, keep_s=10.0, min_free_bytes=0)
    clock = FakeClock(at=1000.0)
    with open_home(Settings(home=tmp_path / "home", uploads=limits), clock=clock) as home:
        yield home, clock


def send(home: Home, upload: Upload, data: bytes, *, last: bool = False, **more: str) -> Upload:
    """Sends one piece."""
    with Piece(Uploads(home), upload, **more) as piece:
        piece.write(data)
        return piece.finish(last=last)


def content(home: Home, upload: Upload) -> bytes:
    """Returns what is on the disk."""
    return Uploads(home).data_path(upload).read_bytes()


def test_pieces_make_a_whole(home: Home) -> None:
    """Each goes on where the one before ended, and another process finds it so."""
    upload = Uploads(home).begin("orders", "jan", TERMS)
    assert (upload.state, upload.offset) == ("open", 0)
    send(home, upload, b"id\n1\n")
    found = Uploads(home).find("orders", "jan")
    assert (found.state, found.offset) == ("open", 5)
    whole = send(home, found, b"2\n", last=True)
    assert Uploads(home).find("orders", "jan") == whole
    assert (whole.state, whole.offset) == ("received", 7)
    assert content(home, whole) == b"id\n1\n2\n"


def test_what_was_not_acknowledged_is_cut_off(home: Home) -> None:
    """Bytes that a crash left behind the acknowledged ones are not in the file."""
    upload = send(home, Uploads(home).begin("orders", "jan", TERMS), b"id\n1\n")
    with Uploads(home).data_path(upload).open("ab") as file:
        file.write(b"half a li")
    assert Uploads(home).find("orders", "jan").offset == 5
    assert content(home, send(home, upload, b"2\n")) == b"id\n1\n2\n"


def test_bytes_that_are_gone_are_told(home: Home) -> None:
    """A file that is shorter than what was acknowledged is no upload to go on with."""
    upload = send(home, Uploads(home).begin("orders", "jan", TERMS), b"id\n1\n")
    Uploads(home).data_path(upload).write_bytes(b"id\n")
    with pytest.raises(Corrupted, match="3 bytes, and 5 were kept"):
        send(home, upload, b"2\n")
    Uploads(home).data_path(upload).unlink()
    with pytest.raises(Unavailable, match="cannot be written"):
        send(home, upload, b"2\n")


def test_a_long_piece_is_kept_now_and_then(home: Home) -> None:
    """A crash in the middle takes no more than one stretch of it."""
    upload = Uploads(home).begin("orders", "jan", TERMS)
    block = b"x" * (1 << 20)
    with Piece(Uploads(home), upload) as piece:
        for _ in range(KEEP_EVERY_BYTES // len(block) + 3):
            piece.write(block)
        assert Uploads(home).find("orders", "jan").offset >= KEEP_EVERY_BYTES


def test_a_piece_that_was_cut_is_kept_as_far_as_it_came(home: Home) -> None:
    """Unless its hash says that it counts whole; a write that comes late changes nothing."""
    upload = Uploads(home).begin("orders", "jan", TERMS)
    with Piece(Uploads(home), upload) as piece:
        piece.write(b"id\n1")
        cut = piece.keep()
    piece.write(b"too late")
    assert (cut.offset, content(home, cut)) == (4, b"id\n1")
    with Piece(Uploads(home), cut, sha256="0" * 64) as piece:
        piece.write(b"\n2\n")
        assert piece.keep().offset == 4
    assert Uploads(home).find("orders", "jan").offset == 4


def test_what_is_removed_meanwhile_is_not_acknowledged(home: Home) -> None:
    """Its bytes are gone: neither they nor what is known of it come back."""
    upload = Uploads(home).begin("orders", "jan", TERMS)
    with Piece(Uploads(home), upload) as piece:
        piece.write(b"id\n1\n")
        Uploads(home).forget(upload)
        with pytest.raises(NotFound, match="was removed while"):
            piece.finish(last=True)
    assert list(Uploads(home).scan()) == []


def test_what_is_whole_stays_whole(home: Home) -> None:
    """Whoever gave up waiting for the last piece keeps what came, and opens nothing again."""
    upload = Uploads(home).begin("orders", "jan", TERMS)
    with Piece(Uploads(home), upload) as piece:
        piece.write(b"id\n1\n")
        whole = piece.finish(last=True)
        assert piece.keep() == whole
    assert Uploads(home).find("orders", "jan").state == "received"


def test_a_piece_that_is_not_what_its_hash_says_is_not_kept(home: Home) -> None:
    """The next one begins where it began; the right one is kept."""
    upload = Uploads(home).begin("orders", "jan", TERMS)
    digest = hashlib.sha256(b"id\n1\n").hexdigest()
    with pytest.raises(InvalidInput, match="was said to have"):
        send(home, upload, b"id\n2\n", sha256=digest)
    assert (Uploads(home).find("orders", "jan").offset, content(home, upload)) == (0, b"")
    assert send(home, upload, b"id\n1\n", sha256=digest).offset == 5


def test_the_length_is_kept_to(home: Home) -> None:
    """More bytes than were said are refused; fewer do not make it whole, and are kept."""
    terms = msgspec.structs.replace(TERMS, length=5)
    upload = Uploads(home).begin("orders", "jan", terms)
    with pytest.raises(InvalidInput, match="longer than the 5 bytes"):
        send(home, upload, b"id\n1\n2\n")
    with pytest.raises(InvalidInput, match="ends after 3 bytes"):
        send(home, upload, b"id\n", last=True)
    upload = Uploads(home).find("orders", "jan")
    assert (upload.state, upload.offset) == ("open", 3)
    assert send(home, upload, b"1\n", last=True).state == "received"


def test_later_pieces_say_the_same(home: Home) -> None:
    """Length and hash may come with any piece, and do not change."""
    upload = with_terms(Uploads(home).begin("orders", "jan", TERMS), length=5, sha256=None)
    send(home, upload, b"id\n")
    upload = Uploads(home).find("orders", "jan")
    assert upload.terms.length == 5
    assert with_terms(upload, length=None, sha256="0" * 64).terms.length == 5
    with pytest.raises(Conflict, match="length 5, and this piece says 6"):
        with_terms(upload, length=6, sha256=None)


def test_two_do_not_write_at_once(home: Home) -> None:
    """In this process or another: the second is told."""
    upload = Uploads(home).begin("orders", "jan", TERMS)
    with (
        Piece(Uploads(home), upload) as first,
        pytest.raises(Conflict, match="is being written to"),
        Piece(Uploads(home), upload),
    ):
        pass
    assert first is not None
    assert send(home, upload, b"id\n").offset == 3


def test_sizes_and_numbers_are_bounded(small: tuple[Home, FakeClock]) -> None:
    """An upload over its bytes, or one too many, is refused; what came before is kept."""
    home, _ = small
    uploads = Uploads(home)
    with pytest.raises(TooLarge, match=r"uploads\.max_bytes, 100 bytes"):
        uploads.begin("orders", "large", msgspec.structs.replace(TERMS, length=101))
    upload = uploads.begin("orders", "jan", TERMS)
    with pytest.raises(Conflict, match="there is an upload 'jan'"):
        uploads.begin("orders", "jan", TERMS)
    upload = send(home, upload, b"x" * 90)
    with pytest.raises(TooLarge, match=r"uploads\.max_bytes"):
        send(home, upload, b"x" * 11)
    assert uploads.find("orders", "jan").offset == 90
    other = uploads.begin("trips", "jan", TERMS)
    with pytest.raises(Overloaded, match=r"2 uploads are under way.*uploads\.max_open"):
        uploads.begin("orders", "feb", TERMS)
    uploads.changed(other, state="done")
    uploads.begin("orders", "feb", TERMS)
    assert [each.upload for each in uploads.scan("orders")] == ["feb", "jan"]


def test_what_nobody_goes_on_with_is_forgotten(small: tuple[Home, FakeClock]) -> None:
    """After a time, with its bytes; what is whole is never forgotten before it is ingested."""
    home, clock = small
    uploads = Uploads(home)
    idle = send(home, uploads.begin("orders", "idle", TERMS), b"id\n")
    whole = send(home, uploads.begin("trips", "whole", TERMS), b"id\n1\n", last=True)
    clock.advance(9.0)
    assert uploads.sweep() == 0
    clock.advance(2.0)
    assert uploads.sweep() == 1
    with pytest.raises(NotFound, match="no upload 'idle'"):
        uploads.find("orders", "idle")
    assert not uploads.folder(idle).parent.exists()
    assert uploads.find("trips", "whole") == whole
    assert content(home, whole) == b"id\n1\n"


def test_an_ingest_says_how_far_it_is(home: Home) -> None:
    """While it goes on, and no more once it is over."""
    uploads = Uploads(home)
    whole = send(home, uploads.begin("orders", "jan", TERMS), b"id\n1\n", last=True)
    assert uploads.find("orders", "jan").ingested_bytes == 0
    uploads.note_progress(whole, 4)
    assert uploads.find("orders", "jan").ingested_bytes == 4
    uploads.changed(whole, state="done")
    uploads.remove_data(whole)
    assert uploads.find("orders", "jan").ingested_bytes == 0
    assert not uploads.data_path(whole).exists()


def test_what_has_no_name_is_forgotten_with_its_server(small: tuple[Home, FakeClock]) -> None:
    """Nobody can go on with it; what is whole, or was begun later, stays."""
    home, clock = small
    uploads = Uploads(home)
    nameless = msgspec.structs.replace(TERMS, named=False)
    whole = send(home, uploads.begin("orders", "a", nameless), b"id\n", last=True)
    uploads.begin("orders", "b", nameless)
    clock.advance(1.0)
    assert uploads.forget_nameless(before=clock.now()) == 1
    later = uploads.begin("orders", "c", nameless)
    assert uploads.forget_nameless(before=clock.now()) == 0
    assert list(uploads.scan()) == [whole, later]


def test_a_full_disk_is_told(home: Home, tmp_path: Path) -> None:
    """Before it is full, and where it is; what was acknowledged stays, and the upload goes on."""
    limits = UploadsSettings(min_free_bytes=1 << 60)
    settings = Settings(home=home.path, uploads=limits)
    upload = Uploads(home).begin("orders", "jan", TERMS)
    with open_home(settings) as full:
        with pytest.raises(DiskFull, match=r"uploads\.min_free_bytes"):
            Uploads(full).begin("orders", "feb", TERMS)
        with pytest.raises(DiskFull, match=r"uploads\.min_free_bytes"):
            send(full, upload, b"id\n")
    path = Uploads(home).data_path(upload)
    path.unlink()
    path.symlink_to("/dev/full")  # a device that has no room, ever
    with pytest.raises(DiskFull, match="No space left on device"):
        send(home, upload, b"id\n")
    assert Uploads(home).find("orders", "jan").offset == 0
    path.unlink()
    path.touch()
    assert send(home, upload, b"id\n").offset == 3


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 101, "*"])
def test_names_are_names(home: Home, name: str) -> None:
    """Of datasets, uploads and files: nothing else touches a path."""
    uploads = Uploads(home)
    with pytest.raises(InvalidInput, match="dataset name"):
        uploads.begin(name, "jan", TERMS)
    with pytest.raises(InvalidInput, match="upload name"):
        uploads.begin("orders", name, TERMS)
    with pytest.raises(InvalidInput, match="file name"):
        uploads.begin("orders", "jan", msgspec.structs.replace(TERMS, file=name))
    with pytest.raises(InvalidInput, match="name"):
        uploads.find("orders", name)
    with pytest.raises(InvalidInput, match="dataset name"):
        list(uploads.scan(name))


def test_a_record_that_cannot_be_read_is_told(home: Home) -> None:
    """It takes no other upload down."""
    uploads = Uploads(home)
    upload = uploads.begin("orders", "jan", TERMS)
    uploads.begin("orders", "feb", TERMS)
    (uploads.folder(upload) / ".upload.json").write_bytes(b"{")
    with pytest.raises(Corrupted, match=r"cannot be read.* Remove HOME/uploads/orders/jan"):
        uploads.find("orders", "jan")
    assert [each.upload for each in uploads.scan()] == ["feb"]


def test_an_error_is_kept_as_what_it_was() -> None:
    """With its type, what happened and what to do."""
    error = Problem.of(Conflict("it changed", remedy="Look again.")).error()
    assert isinstance(error, Conflict)
    assert str(error) == "it changed. Look again."
