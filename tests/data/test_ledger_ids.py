"""Prediction ids vouch for themselves: made here, when, and by nobody else."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.ledger import PredictionIds, open_ids
from tidemill.data.ledger_ids import RENEW_S
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import Corrupted
from tidemill.foundation.names import NAME
from tidemill.serving.selection import draw_of

SECRET = bytes(range(32))
AT = 1_700_000_000.0


def make(n: int, at: float = AT, secret: bytes = SECRET) -> list[str]:
    """Ids of one moment."""
    ids = PredictionIds(secret, FakeClock(at=at))
    return [ids.next(0.0) for _ in range(n)]


def test_an_id_says_when_it_was_made_to_whoever_has_the_secret() -> None:
    """Each of many is known by another process with the same secret, with a row number or not."""
    other = PredictionIds(SECRET)
    made = make(1000, AT + 0.75)
    assert len(set(made)) == 1000
    for each in made:
        assert len(each) == 32
        assert each == each.lower()
        assert NAME.match(each)
        assert other.made_at(each) == other.made_at(f"{each}-17") == AT


def test_several_ids_are_as_many_single_ones() -> None:
    """Any number at once, mixed with single ones: all different, all known, none too old."""
    clock = FakeClock(at=AT)
    ids = PredictionIds(SECRET, clock)
    made: list[str] = []
    for count in (0, 1, 63, 64, 65, 200, 3):
        several = ids.several(count, 0.0)
        assert len(several) == count
        made += [*several, ids.next(0.0)]
    assert len(set(made)) == len(made)
    assert {ids.made_at(each) for each in made} == {AT}
    clock.advance(RENEW_S)
    assert {ids.made_at(each) for each in ids.several(2, RENEW_S)} == {AT + RENEW_S}


def test_an_id_of_another_installation_is_unknown() -> None:
    """Without the secret there is no way to say that it is ours."""
    other = PredictionIds(bytes(32))
    assert not any(other.made_at(each) for each in make(300))


@given(st.integers(0, 127), st.integers(0, 63))
def test_no_bit_of_an_id_may_be_changed(bit: int, which: int) -> None:
    """The moment, the nonce, the number and the tag belong together."""
    made = make(which + 1)[which]
    changed = f"{int(made, 16) ^ (1 << bit):032x}"
    assert PredictionIds(SECRET).made_at(changed) is None


@given(st.text(alphabet="0123456789abcdefABCDEFg- \u00e9", max_size=40))
def test_made_up_ids_are_unknown(text: str) -> None:
    """Whatever is sent, it is none of ours, and no error."""
    assert PredictionIds(SECRET).made_at(text) is None


def test_ids_are_given_out_for_a_while_only() -> None:
    """A quiet server does not give an old moment to a new prediction."""
    clock = FakeClock(at=AT)
    ids = PredictionIds(SECRET, clock)
    assert ids.made_at(ids.next(clock.monotonic())) == AT
    clock.advance(RENEW_S - 0.5)
    assert ids.made_at(ids.next(clock.monotonic())) == AT
    clock.advance(0.5)
    assert ids.made_at(ids.next(clock.monotonic())) == AT + RENEW_S


def test_ids_begin_with_what_looks_random() -> None:
    """Traffic is split by how an id begins, so that must be spread evenly, and anew each time."""
    draws = [draw_of(each) for each in make(20_000)]
    counts = Counter(int(draw * 20) for draw in draws)
    assert set(counts) == set(range(20))
    assert all(800 < count < 1200 for count in counts.values())
    assert make(1) != make(1)


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """Mode 0600, made with the folder, the same for whoever comes later, and tightened again."""
    ledger = tmp_path / "home" / "ledger"
    first = open_ids(ledger)
    file = ledger / "ids.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32
    assert list(ledger.iterdir()) == [file]
    file.chmod(0o644)
    assert open_ids(ledger).made_at(first.next(0.0)) is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_secret_that_was_cut_is_told(tmp_path: Path) -> None:
    """It is not replaced in silence: every id until now would be unknown."""
    open_ids(tmp_path)
    (tmp_path / "ids.key").write_bytes(b"short")
    with pytest.raises(Corrupted, match="5 bytes"):
        open_ids(tmp_path)


def test_processes_that_start_together_share_one_secret(tmp_path: Path) -> None:
    """Gateways make it if it is not there; only one of them does."""
    code = (
        "import sys, pathlib; from tidemill.data.ledger import open_ids;"
        "print(open_ids(pathlib.Path(sys.argv[1])).next(0.0))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "ledger")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    made = [process.communicate(timeout=60)[0].strip() for process in started]
    ids = open_ids(tmp_path / "ledger")
    assert len(set(made)) == 4
    assert None not in [ids.made_at(each) for each in made]
