"""No file in the inbox, whatever it is called, ends the keeper."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tidemill.control.keeper import Keeper, Outcome
from tidemill.control.launches import list_launches
from tidemill.foundation.home import Home


def test_file_names_that_are_no_text(trained: Home, tmp_path: Path) -> None:
    """A file whose name is no UTF-8 is taken like others; so is the one that comes after it."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    Path(os.fsdecode(bytes(inbox) + b"/a\xe9.csv")).write_text("")
    (inbox / "b.csv").write_text("id,carrier\n")
    outcomes: list[Outcome] = []
    keeper = Keeper(trained, "trips", inbox, poll_s=0.05)
    keeper.run(outcomes.append, threading.Event(), until_idle=True)
    assert [outcome.launch.status for outcome in outcomes] == ["refused", "refused"]
    names = sorted(Path(launch.path).name for launch in list_launches(trained.store))
    assert names == ["a\\udce9.csv", "b.csv"]
