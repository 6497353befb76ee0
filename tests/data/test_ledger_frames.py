from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.ledger_frames import (
    HEADER_BYTES,
    MAGIC,
    LabelFrame,
    PredictionFrame,
    decode,
    encode_labels,
    encode_predictions,
    frame,
    per_row,
    scan,
    segment_header,
    whole_segment,
)
from tidemill.data.ledger_records import LabelRecord, PredictionRecord
from tidemill.foundation.errors import InvalidInput, InvalidSettings, TooLarge

PAYLOADS = [encode_labels([]), b"\x93\x00", bytes(range(200)), b"x" * 3000]

SCALARS = st.sampled_from(["int64", "int32", "uint8", "float64", "float32", "bool", "str"])


@st.composite
def columns(draw: st.DrawFn, n: int) -> dict[str, np.ndarray]:
    made = {}
    for number in range(draw(st.integers(1, 4))):
        shape = (n, *draw(st.sampled_from([(), (), (3,), (50,), (4, 5)])))
        kind = draw(SCALARS)
        values = np.arange(int(np.prod(shape))).reshape(shape) % 7
        made[f"column {number}"] = (
            values.astype(str).astype(object) if kind == "str" else values.astype(kind)
        )
    return made


@dataclass(frozen=True)
class Batch:
    """A batch that several predictions were part of."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@st.composite
def records(draw: st.DrawFn) -> PredictionRecord:
    n = draw(st.sampled_from([1, 1, 1, 2, 40]))
    return PredictionRecord(
        request_id=draw(st.just("ab" * 16) | st.just(bytes(range(16)))),
        time=draw(st.floats(0, 2e9)),
        event_time=draw(st.none() | st.floats(0, 2e9)),
        application=draw(st.text(max_size=5)),
        version=draw(st.integers(0, 1000)),
        source="model",
        row_sources=draw(st.sampled_from([None, ["table"] * n])),
        n=n,
        inputs=draw(columns(n)),
        outputs=draw(columns(n)),
    )


@given(st.lists(records(), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_every_value_comes_back(batch: list[PredictionRecord]) -> None:
    """What is encoded, in any mixture of shapes and types, is decoded value for value."""
    _assert_comes_back(batch)


@given(st.lists(st.sampled_from([1, 1, 2, 40]), min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=60)
def test_a_batch_that_is_shared_is_kept_as_its_rows(sizes: list[int], data: st.DataObject) -> None:
    """What is taken out of a batch is what each prediction had of it by itself."""
    rows = sum(sizes)
    batch = Batch(data.draw(columns(rows)), data.draw(columns(rows)))
    shared, start = [], 0
    for n in sizes:
        part = data.draw(records())
        ins, outs = (
            {k: v[start : start + n] for k, v in c.items()} for c in (batch.inputs, batch.outputs)
        )
        part = msgspec.structs.replace(
            part, n=n, inputs=ins, outputs=outs, row_sources=None, answers=batch, start=start
        )
        shared.append(part)
        start += n
    alone = [msgspec.structs.replace(part, answers=None, start=0) for part in shared]
    assert encode_predictions(shared) == encode_predictions(alone)
    _assert_comes_back(shared)


def _assert_comes_back(batch: list[PredictionRecord]) -> None:
    stored = decode(encode_predictions(batch))
    assert isinstance(stored, PredictionFrame)
    for record, found in zip(batch, stored.records, strict=True):
        assert (found.request_id, found.time, found.n) == (
            record.request_id,
            record.time,
            record.n,
        )
        assert found.application == record.application
        assert found.source == (record.row_sources or record.source)
        layout = stored.layouts[found.layout]
        middle = layout.index(None)
        for names, columns_, values in (
            (layout[:middle], record.inputs, found.inputs),
            (layout[middle + 1 :], record.outputs, found.outputs),
        ):
            assert names == tuple(columns_)
            for column, value in zip(columns_.values(), values, strict=True):
                assert np.array_equal(np.array(per_row(value, record.n)), column)


def test_one_layout_serves_all_records_that_share_it() -> None:
    """The names of the columns are written once in a frame, not once in a record."""
    one = PredictionRecord(
        request_id=b"0" * 16,
        time=0.0,
        application="a",
        version=1,
        source="model",
        n=1,
        inputs={"a long name of a column": np.array([1])},
        outputs={"label": np.array([1])},
    )
    payload = encode_predictions([one] * 100)
    assert payload.count(b"a long name of a column") == 1


def test_the_kind_of_a_label_is_kept() -> None:
    """True, 1, 1.0 and "1" are four different labels."""
    given_: list[bool | float | str] = [True, 1, 1.0, "1"]
    payload = encode_labels(
        [
            LabelRecord(
                prediction_id="a", application="b", label=label, observed_at=0.0, received_at=0.0
            )
            for label in given_
        ]
    )
    stored = decode(payload)
    assert isinstance(stored, LabelFrame)
    assert [(type(r.label), r.label) for r in stored.records] == [(type(v), v) for v in given_]


def test_what_cannot_be_kept_is_refused_with_a_reason() -> None:
    """A complex number or a text with half a character is the caller's error, said as one."""
    no_array: Any = "no array"
    for bad in (np.array([1j]), np.array(["\ud800"], dtype=object), no_array):
        record = PredictionRecord(
            request_id=b"0" * 16,
            time=0.0,
            application="a",
            version=1,
            source="model",
            n=1,
            inputs={"x": bad},
            outputs={},
        )
        with pytest.raises(InvalidInput, match="cannot be kept in the ledger"):
            encode_predictions([record])
    label = LabelRecord(
        prediction_id="a", application="b", label=1 << 80, observed_at=0.0, received_at=0.0
    )
    with pytest.raises(InvalidInput):
        encode_labels([label])
    with pytest.raises(TooLarge):
        frame(bytes((1 << 28) + 1))


def test_every_prefix_of_a_segment_gives_its_whole_frames() -> None:
    """Cut anywhere, an open segment gives the frames before the cut, and no problem."""
    data = whole_segment(PAYLOADS)
    ends = [HEADER_BYTES]
    for payload in PAYLOADS:
        ends.append(ends[-1] + 8 + len(payload))
    for cut in range(len(data) + 1):
        found = scan(data[:cut], "s", sealed=False)
        whole = sum(end <= cut for end in ends[1:])
        assert [bytes(payload) for _, payload in found.frames] == PAYLOADS[:whole]
        assert not found.problems
        end = ends[whole] if cut >= HEADER_BYTES else 0
        assert (found.end, found.torn_bytes) == (end, cut - end)


@pytest.mark.parametrize("tail", [bytes(500), b"\xff" * 9, frame(b"y" * 50)[:-1] + b"z"])
def test_a_torn_tail_of_any_kind_is_no_frame(tail: bytes) -> None:
    """Zeros, as a file system may leave after a loss of power, are not taken for empty frames."""
    found = scan(whole_segment(PAYLOADS) + tail, "s", sealed=False)
    assert len(found.frames) == len(PAYLOADS)
    assert (found.problems, found.torn_bytes) == ([], len(tail))
    assert scan(whole_segment(PAYLOADS) + tail, "s", sealed=True).problems


def test_a_damaged_frame_is_named_and_the_others_are_read() -> None:
    """One flipped bit costs one frame, and is said with segment and offset."""
    data = bytearray(whole_segment(PAYLOADS))
    offset = HEADER_BYTES + sum(8 + len(payload) for payload in PAYLOADS[:2])
    data[offset + 20] ^= 1
    for sealed in (True, False):
        found = scan(bytes(data), "gw-1-a", sealed=sealed)
        assert [bytes(p) for _, p in found.frames] == [*PAYLOADS[:2], PAYLOADS[3]]
        problem = found.problems[0]
        assert (problem.segment, problem.offset) == ("gw-1-a", offset)
        assert f"gw-1-a is damaged at offset {offset}" in str(problem.error())


def test_a_damaged_length_ends_the_reading_and_is_a_problem_where_nothing_can_be_torn() -> None:
    """Bytes behind a damaged length are not searched for frames: a client could have sent one."""
    inner = frame(b"forged")
    data = bytearray(whole_segment([b"first", inner]))
    at = HEADER_BYTES + 8 + len(b"first")
    data[at : at + 4] = struct.pack("<I", 1 << 27)
    found = scan(bytes(data), "s", sealed=True)
    assert [bytes(payload) for _, payload in found.frames] == [b"first"]
    assert [problem.offset for problem in found.problems] == [at]


def test_a_newer_segment_is_refused() -> None:
    """A layout that we do not know is not guessed at."""
    with pytest.raises(InvalidSettings, match="schema 2, newer than 1"):
        scan(MAGIC + struct.pack("<I", 2) + frame(b"?"), "s", sealed=True)


def test_what_is_no_segment_is_a_problem() -> None:
    """A strange file among the segments is told, not read."""
    found = scan(b"PAR1" * 20, "s", sealed=False)
    assert found.problems[0].offset == 0
    assert not found.frames
    assert scan(b"", "s", sealed=False).problems == []
    assert scan(b"", "s", sealed=True).problems
    assert len(segment_header()) == HEADER_BYTES
