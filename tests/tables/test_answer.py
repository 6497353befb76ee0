from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.foundation.errors import Corrupted, InvalidInput
from tidemill.tables.answer import decode_answer, encode_answer, encode_answers

SCALARS = st.one_of(
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@given(st.dictionaries(st.text(max_size=5), st.one_of(SCALARS, st.lists(SCALARS))))
def test_an_answer_comes_back_as_it_was(row: dict[str, object]) -> None:
    """Decoding undoes encoding."""
    assert decode_answer(encode_answer(row)) == row


def test_a_batch_becomes_one_answer_per_row() -> None:
    """NumPy columns are split into rows, vectors into lists, float32 exactly."""
    probabilities = np.array([[0.1, 0.9], [0.5, 0.5]], np.float32)
    labels = np.array(["late", "on time"], dtype=object)
    rows = encode_answers({"label": labels, "probabilities": probabilities})
    assert decode_answer(rows[0]) == {"label": "late", "probabilities": probabilities[0].tolist()}
    assert rows[1] == encode_answer({"label": "on time", "probabilities": probabilities[1]})


@pytest.mark.parametrize("value", [object(), {1}.__iter__(), "\ud800", 1 << 70])
def test_what_is_no_answer_is_refused(value: object) -> None:
    """Anything but plain values is refused in words."""
    with pytest.raises(InvalidInput, match="cannot be kept"):
        encode_answer({"label": value})


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x81\xa1a"])
def test_broken_bytes_are_corrupted(data: bytes) -> None:
    """Bytes that are no answer say so."""
    with pytest.raises(Corrupted, match="cannot be read"):
        decode_answer(data)
