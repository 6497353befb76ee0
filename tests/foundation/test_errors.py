"""Errors say what happened and what to do, in every process."""

from __future__ import annotations

import pickle

from tidemill.foundation import errors
from tidemill.foundation.clock import SYSTEM_CLOCK, iso
from tidemill.foundation.names import check_name, new_id


def test_an_error_survives_a_process_boundary() -> None:
    """An error that was pickled is the same error, sentence and remedy."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TidemillError):
            error = pickle.loads(pickle.dumps(kind("it broke", remedy="Mend it.")))
            assert type(error) is kind
            assert str(error) == "it broke. Mend it."


def test_every_error_stands_in_the_tree() -> None:
    """The drawing at the top of the module names every family."""
    assert errors.__doc__
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.TidemillError):
            assert name in errors.__doc__


def test_names_and_ids() -> None:
    """An identifier is a name, and no two are the same."""
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(check_name("id", value) == value and len(value) == 32 for value in ids)


def test_clocks_move_forward() -> None:
    """The machine's clock measures and tells the time in UTC."""
    start = SYSTEM_CLOCK.monotonic()
    assert SYSTEM_CLOCK.monotonic() >= start
    assert iso(SYSTEM_CLOCK.now()).endswith("Z")
