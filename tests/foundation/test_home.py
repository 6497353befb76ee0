"""The home is one folder, made when opened, closed to other users where it must be."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import FilesSettings, Settings, StoreSettings


def test_opening_makes_the_folder(tmp_path: Path) -> None:
    """A home that is not there is made, with its places."""
    clock = FakeClock(at=7)
    with open_home(Settings(home=tmp_path / "a" / "b"), clock=clock) as home:
        assert home.path == tmp_path / "a" / "b"
        assert home.ledger_path.is_dir()
        assert home.cache_path.is_dir()
        assert home.run_path.stat().st_mode & 0o777 == 0o700
        assert home.clock.now() == 7
        assert home.files.url == str(home.path / "files")
        home.files.put_bytes("a", b"x")
        with home.store.write() as conn:
            conn.execute(sa.text("select 1"))
        assert (home.path / "store.db").is_file()


def test_what_was_kept_is_there_again(home: Home) -> None:
    """Closing and opening a home changes nothing in it."""
    home.files.put_bytes("a", b"x")
    home.close()
    with open_home(home.settings) as again:
        assert again.files.get_bytes("a") == b"x"


def test_state_elsewhere(tmp_path: Path) -> None:
    """The store and the files may be told to be elsewhere."""
    settings = Settings(
        home=tmp_path / "home",
        store=StoreSettings(url=f"sqlite:///{tmp_path}/other.db"),
        files=FilesSettings(url=str(tmp_path / "other")),
    )
    with open_home(settings) as home:
        home.files.put_bytes("a", b"x")
        with home.store.read():
            pass
    assert (tmp_path / "other" / "a").is_file()
    assert (tmp_path / "other.db").is_file()


def test_a_newer_home_is_refused(home: Home) -> None:
    """A folder that a newer Tidemill wrote is not touched."""
    (home.path / "format").write_text("2\n")
    with pytest.raises(InvalidSettings, match="has format '2'"):
        open_home(home.settings)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A home that cannot be made is an error that says how to choose another."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match="TIDEMILL_HOME"):
        open_home(Settings(home=tmp_path / "file" / "home"))
