"""Rows of plain values: what they become is what arrays become, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.ledger import PlainRows
from tidemill.data.ledger_frames import encode_predictions
from tidemill.data.ledger_rows import encode_rows
from tidemill.models.signature import DTYPES, Array, Column, Signature
from tidemill.serving import row_writer, wire
from tidemill.serving.by_key import KeyReader
from tidemill.serving.query import Query
from tidemill.serving.row import Row, RowForm
from tidemill.tables.answer import decode_answer, encode_answer, reader_of

Y = (Column("y", "float64"),)


def values_of(kind: str) -> st.SearchStrategy[Any]:
    """What a column of that type may hold, as an array tells it."""
    dtype = DTYPES[kind]
    if dtype.kind == "O":
        return st.text(st.characters(codec="utf-8"), max_size=5)
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "f":
        return st.floats(width=8 * dtype.itemsize)  # NaN and infinity, too
    return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Column], dict[str, Any]]:
    """Columns, and one answer of them."""
    kinds = draw(st.lists(st.sampled_from(list(DTYPES)), min_size=1, max_size=4))
    columns, answer = [], {}
    for at, kind in enumerate(kinds):
        size = draw(st.sampled_from([None, 1, 3]))
        columns.append(Column(f"c {at}", kind, () if size is None else (size,)))
        one = values_of(kind)
        answer[f"c {at}"] = draw(
            one if size is None else st.lists(one, min_size=size, max_size=size)
        )
    return columns, answer


def arrays_of(columns: list[Column], answer: dict[str, Any]) -> dict[str, Array]:
    """The answer as arrays of one row."""
    return {
        column.name: np.array([answer[column.name]], column.dtype).reshape((1, *column.shape))
        for column in columns
    }


def asked_and_answered(key: Row, said: Row, *, plainly: bool) -> Query:
    """A query of one row that was answered, with arrays or without."""
    query = Query(key, 1, 0.0, 1.0, lambda _: None)
    query.application, query.request_id, query.version, query.source = "a", "0" * 32, 3, "table"
    if plainly:
        query.answer_plainly(said)
    else:
        query.outputs = said.arrays()
    return query


@given(answers())
def test_an_answer_is_written_and_recorded_as_its_arrays_are(
    given_: tuple[list[Column], dict[str, Any]],
) -> None:
    """Read from a table's bytes: the client's body and the ledger's frame, byte for byte."""
    columns, answer = given_
    reader = reader_of(columns)
    assert reader is not None
    values = reader.read(encode_answer(answer))
    assert values is not None
    row, arrays = Row(RowForm(columns), values), arrays_of(columns, answer)
    assert repr({name: array.tolist() for name, array in row.arrays().items()}) == repr(
        {name: array.tolist() for name, array in arrays.items()}
    )
    assert row_writer.write_row(row, "0" * 32, version=3, source="table") == wire.write_predict(
        arrays, 1, prediction_ids=["0" * 32], version=3, sources=["table"]
    )
    writer = row_writer.RowWriter(row.form, version=3, source="table")
    bodies = writer.write_all([values] * 3, ["0a", "0b", "0c"])
    assert bodies is None or bodies == [writer.write(values, name) for name in ("0a", "0b", "0c")]
    key = Row(RowForm([Column("k", "int64")]), [7])
    frames = {
        encode_predictions([asked_and_answered(key, row, plainly=plainly)] * 2)
        for plainly in (True, False)
    }
    together = PlainRows(
        application="a",
        version=3,
        source="table",
        time=0.0,
        ids=["0" * 32] * 2,
        columns=(key.names, row.names),
        asked=[key.values] * 2,
        said=[row.stored] * 2,
    )
    assert frames == {encode_rows(together)}


@pytest.mark.parametrize(
    ("column", "rows"),
    [
        (Column("y", "float32"), [[0.5], [-0.0], [1e300]]),
        (Column("y", "uint64"), [[0], [2**64 - 1]]),
        (Column("y", "bool"), [[True], [False]]),
        (Column("y", "float64", (3,)), [[[0.1, -0.0, 5e-324]], [[1.0, 2.0, 3.0]]]),
        (Column("y", "int8", (1,)), [[[-128]], [[127]]]),
    ],
)
def test_numbers_are_written_at_once_as_one_by_one(column: Column, rows: list[list[Any]]) -> None:
    """Each row's text is cut from that of all."""
    writer = row_writer.RowWriter(RowForm([column]), version=3, source="table")
    for some in (rows, rows[:1]):
        ids = [f"{at:02x}" for at in range(len(some))]
        assert writer.write_all(some, ids) == [*map(writer.write, some, ids)]


@pytest.mark.parametrize(
    "columns", [[Column("y", "string")], [Column("y", "float64"), Column("z", "float64")]]
)
def test_texts_and_several_columns_are_written_one_by_one(columns: list[Column]) -> None:
    """What stands between two rows might stand in a text, too."""
    writer = row_writer.RowWriter(RowForm(columns), version=3, source="table")
    assert writer.write_all([], []) is None


@pytest.mark.parametrize(
    "answer", [{}, {"p": [1.0]}, {"p": [1.0, 2.0], "q": 1}, {"p": ["a", "b"]}, {"p": [1e300, 0.0]}]
)
def test_what_is_no_plain_answer_is_left_to_a_closer_look(answer: dict[str, Any]) -> None:
    """Columns too few or too many, of another shape or type, or beyond the type."""
    reader = reader_of([Column("p", "float32", (2,))])
    assert reader is not None
    assert reader.read(encode_answer(answer)) is None
    assert decode_answer(encode_answer(answer)) == answer


def test_large_answers_are_arrays() -> None:
    """As in the ledger."""
    assert reader_of([Column("p", "float32", (33,))]) is None
    assert reader_of([Column("p", "float32", (2, 2))]) is None


@given(st.sampled_from(list(DTYPES)), st.data())
def test_a_row_in_a_body_is_read_as_an_array_would_be(kind: str, data: st.DataObject) -> None:
    """Or is left to whoever reads many: refusals are theirs."""
    signature = Signature((Column("k", kind), Column("x", "int64")), Y)
    reader = KeyReader(signature, ("k",))
    other = st.one_of(values_of("int64"), st.none(), st.booleans(), st.text(max_size=2))
    instance = {"k": data.draw(st.one_of(values_of(kind), other))}
    key = reader.read_row(instance)
    if key is not None:
        row = reader.row(key)
        wanted, _ = wire.read_rows([instance], reader.signature)
        assert row.arrays()["k"].tolist() == wanted["k"].tolist() == row.values
        assert type(row.values[0]) is type(wanted["k"].item(0))


@pytest.mark.parametrize("text", [b"k=5", b"k=005", b"k=%35", b"k=+5", b"&k=5", b"k=5&"])
def test_a_plain_question_is_read_as_an_unusual_one(text: bytes) -> None:
    """However it is written, the number is the same; a plus is a blank, which is no number."""
    reader = KeyReader(Signature((Column("k", "int64"), Column("x", "int64")), Y), ("k",))
    if b"+" in text:
        with pytest.raises(Exception, match="column 'k' is ' 5'"):
            reader.read_query(text)
    else:
        assert reader.read_query(text) == [5]


def test_names_that_are_escaped_are_never_taken_as_they_stand() -> None:
    """A column that is called ``a%20b`` is asked for as ``a%2520b``."""
    signature = Signature((Column("a%20b", "int64"), Column("x", "int64")), Y)
    reader = KeyReader(signature, ("a%20b",))
    assert reader.read_query(b"a%2520b=5") == [5]
    with pytest.raises(Exception, match="not known"):
        reader.read_query(b"a%20b=5")


def test_a_row_outlives_json() -> None:
    """What is not finite is null, as in every answer."""
    row = Row(RowForm(Y), [float("nan")])
    assert orjson.loads(row_writer.write_row(row, "0" * 32, version=1, source="table")) == {
        "predictions": [None],
        "prediction_ids": ["0" * 32],
        "model_version": "1",
        "sources": ["table"],
    }
