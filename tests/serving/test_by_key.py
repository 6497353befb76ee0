"""Asking by key: the columns that determine an answer, in a URL or a body, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.control.rollout import build_live_table
from tidemill.data.ledger import read_ledger
from tidemill.foundation.errors import InvalidInput, TidemillError, TooLarge
from tidemill.models.signature import Column, Signature
from tidemill.planning.workload.sources import read_served
from tidemill.recipes.keyed_rows import rows_of_table
from tidemill.serving.by_key import MAX_QUERY_BYTES, KeyReader
from tidemill.serving.exchange import is_query

KINDS = ("string", "int64", "uint8", "float64", "float32", "bool")
READER = KeyReader(
    Signature(tuple(Column(kind, kind) for kind in KINDS), (Column("y", "float32"),)), KINDS
)


def asked(**values: str) -> bytes:
    """A query string with a plain value for each column but those given."""
    plain = {"string": "UA", "int64": "5", "uint8": "7", "float64": "1.5", "float32": "2"}
    plain["bool"] = "true"
    return urlencode({**plain, **values}).encode()


@given(
    st.text(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 255),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["true", "false"]),
)
def test_what_a_client_encodes_is_what_is_read(
    text: str, whole: int, small: int, real: float, truth: str
) -> None:
    """Any text, any number of the type, to the last bit."""
    said = asked(string=text, int64=str(whole), uint8=str(small), float64=repr(real), bool=truth)
    try:
        read = READER.row(READER.read_query(said))
    except TooLarge:
        assert len(said) > MAX_QUERY_BYTES
        return
    assert read.names == KINDS
    arrays = read.arrays()
    assert [arrays[kind].dtype for kind in KINDS[1:]] == [np.dtype(kind) for kind in KINDS[1:]]
    found = [arrays[kind].item(0) for kind in KINDS]
    assert found == read.values
    assert found == [text, whole, small, real, 2.0, truth == "true"]


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_key_or_a_typed_refusal(text: bytes) -> None:
    """No bytes break it."""
    with suppress(TidemillError):
        assert len(READER.read_query(text)) == len(KINDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "column .bool., .float32., .float64., .int64., .string. is missing"),
        (asked() + b"&bool=true", "column 'bool' is given twice"),
        (asked() + b"&other=1", "column 'other' is not known"),
        (asked(int64="5.0"), "column 'int64' is '5.0'"),
        (asked(int64="1_0"), "column 'int64' is '1_0'"),
        (asked(int64=""), "column 'int64' is ''"),
        (asked(int64=str(2**63)), "int64"),
        (asked(uint8="-1"), "uint8"),
        (asked(uint8="256"), "uint8"),
        (asked(float64="nan"), "column 'float64' is 'nan'"),
        (asked(float64="1e999"), "column 'float64' is '1e999'"),
        (asked(float32="1e39"), "float32"),
        (asked(bool="1"), "column 'bool' is '1'"),
        (asked().replace(b"UA", b"%ff"), "not UTF-8"),
        (asked(string="x" * MAX_QUERY_BYTES), "bytes"),
    ],
)
def test_a_wrong_key_is_refused_by_column_and_value(text: bytes, said: str) -> None:
    """Missing, unknown, given twice, of another type, out of range, not text."""
    with pytest.raises((InvalidInput, TooLarge), match=said):
        READER.read_query(text)


def test_a_long_query_is_refused_whatever_the_columns_are_called() -> None:
    """A name that a URL must escape makes no empty key of a text that is too long."""
    columns = (Column("fare class", "string"),)
    reader = KeyReader(Signature(columns, (Column("y", "float64"),)), ("fare class",))
    assert reader.read_query(b"fare%20class=b") == ["b"]
    with pytest.raises(TooLarge, match="8210 bytes"):
        reader.read_query(b"fare%20class=".ljust(8210, b"b"))


BEFORE, AFTER, MOST = b"GET /a?", b" HTTP/1.1\r\nhost: x\r\n\r\n", 200


def reader_of(*kinds: str) -> KeyReader:
    columns = tuple(Column(kind, kind) for kind in kinds)
    return KeyReader(Signature(columns, (Column("y", "float32"),)), kinds)


PLAIN = [reader_of("int64"), reader_of("uint8"), reader_of("string"), reader_of("string", "int64")]


@given(
    st.sampled_from(PLAIN),
    st.lists(
        st.one_of(
            st.sampled_from([b"int64=", b"uint8=", b"string=", b"&", b"5", b"250", b"x.y~z_=-"]),
            st.sampled_from([b"%20", b"+", b"#", b" ", b"\r\n", b"\t", b"?", b"\xc3\xa9", AFTER]),
            st.binary(max_size=3),
        ),
        max_size=6,
    ),
)
def test_a_key_between_known_bytes_is_what_is_read_of_the_query(
    reader: KeyReader, parts: list[bytes]
) -> None:
    """It is taken where it is a query to any parser, and means what that query means."""
    query = b"".join(parts)
    key = reader.known(BEFORE, AFTER, MOST)(BEFORE + query + AFTER)
    if key is not None:
        assert is_query(query)
        assert key == reader.read_query(query)


def test_a_plain_key_is_found_between_known_bytes_and_no_others() -> None:
    """One column or several; not with another head, too long, or cut short."""
    asked = [b"int64=12", b"uint8=7", b"string=a-b", b"string=UA&int64=3"]
    found: list[Any] = [[12], [7], ["a-b"], ["UA", 3]]
    for reader, query, key in zip(PLAIN, asked, found, strict=True):
        whole = BEFORE + query + AFTER
        assert reader.known(BEFORE, AFTER, MOST)(whole) == key
        assert reader.known(BEFORE, AFTER, len(whole))(whole) == key
        assert reader.known(BEFORE, AFTER, len(whole) - 1)(whole) is None
        for cut in range(len(whole)):
            assert reader.known(BEFORE, AFTER, MOST)(whole[:cut]) is None
        for other in (whole.replace(b"/a", b"/b"), whole.replace(b": x", b": y"), whole + b"\r"):
            assert reader.known(BEFORE, AFTER, MOST)(other) is None


@pytest.fixture(scope="module")
def fares(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An application with a default; its table knows the ages 1 to 5 at the fare 10 · age."""
    name = "fares-by-age"
    server.deploy(name, "fares", default={"y": -1.0})
    rows = tmp_path_factory.mktemp("fares") / "fares.csv"
    rows.write_text("age,fare\n" + "".join(f"{age},{age * 10}\n" for age in range(1, 6)))
    _, revision = _built(server, name, rows)
    server.until(lambda: server.health()["applications"][name] >= revision, "the table")
    return name


def _built(server: Any, name: str, rows: Path) -> tuple[Any, int]:
    done = build_live_table(server.home, name, rows, key=("age",), by="tests")
    return done.table, done.revision


def test_a_key_is_answered_from_the_table_by_url_and_body(
    server: Any, client: httpx.Client
) -> None:
    """Each way gives what the model says of the whole row, says that it is the table's, and is
    kept in the ledger.
    """
    model = server.models["delays"]
    label, likely = model.outputs["label"][0], model.outputs["probabilities"][0].tolist()
    key = {name: model.rows[name].tolist()[0] for name in ("carrier", "month")}
    answers = [
        client.get("/v1/models/delays:lookup", params=key),
        client.post("/v1/models/delays:lookup", json={"instances": [key]}),
        client.post("/v1/models/delays:predict", json={"instances": [key]}),
    ]
    ids = []
    for answer in answers:
        body = answer.raise_for_status().json()
        assert body["predictions"] == [{"label": label, "probabilities": pytest.approx(likely)}]
        assert body["sources"] == ["table"]
        ids += body["prediction_ids"]
    inputs = [
        {"name": "month", "shape": [1], "datatype": "INT64", "data": [key["month"]]},
        {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": [key["carrier"]]},
    ]
    body = client.post("/v2/models/delays/infer", json={"inputs": inputs}).json()
    assert body["parameters"]["source"] == "table"
    assert {each["name"]: each["data"] for each in body["outputs"]}["label"] == [label]
    ids.append(body["parameters"]["prediction_id"])
    kept = read_ledger(server.home.ledger_path, "delays").predictions
    found = set(kept["prediction_id"].to_pylist()) & {each.removesuffix("-0") for each in ids}
    assert len(found) == len(ids)


def test_many_keys_at_once_and_a_key_that_is_not_there(server: Any, client: httpx.Client) -> None:
    """In the request's order; what the table lacks refuses the request, by row and value."""
    rows = server.models["delays"].rows
    known = [
        {"carrier": str(carrier), "month": int(month)}
        for carrier, month in zip(rows["carrier"], rows["month"], strict=True)
        if month <= 6
    ]
    labels = dict(
        zip(
            zip(rows["carrier"], rows["month"].tolist(), strict=True),
            server.models["delays"].outputs["label"].tolist(),
            strict=True,
        )
    )
    body = client.post("/v1/models/delays:lookup", json={"instances": known}).json()
    wanted = [labels[each["carrier"], each["month"]] for each in known]
    assert [each["label"] for each in body["predictions"]] == wanted
    lacking = [*known[:2], {"carrier": "UA", "month": 12}]
    for path in ("lookup", "predict"):
        answer = client.post(f"/v1/models/delays:{path}", json={"instances": lacking})
        assert answer.status_code == 404
        assert "does not hold carrier='UA', month=12 (row 2)" in answer.json()["error"]
    answer = client.get("/v1/models/delays:lookup?carrier=UA&month=12")
    assert answer.status_code == 404
    assert "Send all inputs of the model" in answer.json()["error"]


def test_the_default_stands_in_for_keys_that_the_table_lacks(
    client: httpx.Client, fares: str
) -> None:
    """Of one row and of some of many; each row says where it is from."""
    found = client.get(f"/v1/models/{fares}:lookup?age=3").json()
    assert (found["predictions"], found["sources"]) == ([33.0], ["table"])
    other = client.get(f"/v1/models/{fares}:lookup?age=9").json()
    assert (other["predictions"], other["sources"]) == ([-1.0], ["default"])
    asked = {"instances": [{"age": age} for age in (2, 99, 5)]}
    many = client.post(f"/v1/models/{fares}:lookup", json=asked).json()
    assert many["predictions"] == [22.0, -1.0, 55.0]
    assert many["sources"] == ["table", "default", "table"]


def test_stored_features_let_a_key_alone_ask_the_model(
    server: Any, client: httpx.Client, tmp_path: Path
) -> None:
    """Under a version without a table, and beside one that lacks the key."""
    name = "fares-stored"
    server.deploy(name, "fares")
    rows = tmp_path / "fares.csv"
    rows.write_text("age,fare\n" + "".join(f"{age},{age * 10}\n" for age in range(1, 6)))
    build_live_table(server.home, name, rows, key=("age",), by="tests", features=True)
    server.deploy(name, "fares")  # the version is live anew, and has no table

    def look_up(*ages: int) -> httpx.Response:
        asked = {"instances": [{"age": age} for age in ages]}
        return client.post(f"/v1/models/{name}:lookup", json=asked)

    body = look_up(3, 5, 3).raise_for_status().json()
    assert (body["predictions"], body["sources"]) == ([33.0, 55.0, 33.0], ["model"] * 3)
    again = client.get(f"/v1/models/{name}:lookup?age=4").raise_for_status().json()
    assert (again["predictions"], again["sources"]) == ([44.0], ["model"])
    kept = read_ledger(server.home.ledger_path, name).predictions["inputs"].to_pylist()
    assert '{"age":4,"fare":40.0}' in kept
    refused = look_up(3, 9)
    assert refused.status_code == 404
    assert "has no table to look a key up in, nor are its features stored" in refused.text
    head = rows_of_table(pa.table({"age": [1, 2], "fare": [10.0, 20.0]}), "head")
    done = build_live_table(server.home, name, head, key=None, by="tests", part=True)
    server.until(lambda: server.health()["applications"][name] >= done.revision, "the table")
    body = look_up(4, 1, 2, 5).raise_for_status().json()
    assert body["predictions"] == [44.0, 11.0, 22.0, 55.0]
    assert body["sources"] == ["model", "table", "table", "model"]
    assert "does not hold age=9 (row 1), nor are its features stored" in look_up(1, 9).text
    gone = build_live_table(server.home, name, rows, key=None, by="tests", features=False)
    server.until(lambda: server.health()["applications"][name] >= gone.revision, "the table")
    assert (look_up(3).json()["sources"], look_up(9).status_code) == (["table"], 404)


def test_a_key_that_is_all_the_model_takes_goes_to_the_model(
    server: Any, client: httpx.Client
) -> None:
    """With no table at all it is a query like any other."""
    server.deploy("keyed-add", "add", key=("x",))
    body = client.get("/v1/models/keyed-add:lookup?x=5").json()
    assert (body["predictions"], body["sources"]) == ([1005], ["model"])


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("digits:lookup?x=1", 400, "has no key to ask by"),
        ("nobody:lookup?x=1", 404, "nobody"),
        ("delays:lookup", 400, "is missing"),
        ("delays:lookup?carrier=UA&month=x", 400, "column 'month' is 'x'"),
        ("delays:lookup?carrier=UA&month=1&distance=5", 400, "'distance' is not known"),
    ],
)
def test_a_wrong_question_is_told_why(
    client: httpx.Client, path: str, status: int, said: str
) -> None:
    """No key declared, no such application, a column too few, too many or wrong."""
    answer = client.get(f"/v1/models/{path}")
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_bodies_that_are_neither_keys_nor_rows_keep_their_refusal(client: httpx.Client) -> None:
    """Whoever forgot an input hears of it; a key of a wrong type is told as such."""
    for row, said in (
        ({"carrier": "UA", "month": 1, "distance": 5}, "'temperature' is missing"),
        ({"carrier": "UA"}, "'distance', 'month', 'temperature' is missing"),
        ({"carrier": "UA", "month": "x"}, "'month'"),
    ):
        answer = client.post("/v1/models/delays:predict", json={"instances": [row]})
        assert answer.status_code == 400
        assert said in answer.json()["error"].replace('"', "'")
    wrong = client.put("/v1/models/delays:lookup")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET, HEAD, POST"


def test_the_workload_of_an_application_is_that_of_its_keys(
    server: Any, client: httpx.Client
) -> None:
    """As the ledger has it: each key with its share, whoever answered it."""
    name = "keyed-workload"
    server.deploy(name, "add", key=("x",))
    for x in (1, 2, 1, 1):
        client.get(f"/v1/models/{name}:lookup?x={x}").raise_for_status()
    found = read_served(server.home.ledger_path, name, ("x",)).result()
    assert [(each.key, each.share) for each in found.heavy] == [("x=1", 0.75), ("x=2", 0.25)]
    assert (found.requests, found.cardinality) == (4, 2)
    assert read_served(server.home.ledger_path, name, ()).result().top_share["1"] == 0.75
    with pytest.raises(InvalidInput, match="no input 'y'"):
        read_served(server.home.ledger_path, name, ("y",))
