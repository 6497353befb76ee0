"""Representations: pure functions, the same for one value and for many, and in every process."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.representation import (
    MAX_TEXT,
    check_representation,
    declarations,
    parse_representation,
)
from tidemill.data.represented_rows import represented_rows
from tidemill.foundation.errors import InvalidInput

TEXTS = ["text", "text(digits)", "text(punctuation)", "text(digits, punctuation)"]
TEXTS += ["fingerprint", "fingerprint(digits)"]
HASHES = ["ngrams", "ngrams(3)", "ngrams(1, 1)", "ngrams(64, 16)"]
REALS = ["round(2)", "round(0)", "round(-3)", "step(0.1)", "step(7)", "step(1e-300)"]
BUCKETS = ["bucket(0)", "bucket(-1.5, 0, 3)"]
WHOLE = ["step(7)", "round(-3)", "round(0)", "step(1e15)", "bucket(-5, 0.5, 9)"]


def objects(values: list[Any]) -> Any:
    """Text as a model's inputs have it."""
    return np.array([*values, None], object)[:-1]


@pytest.mark.parametrize("declared", TEXTS)
@settings(max_examples=25)
@given(texts=st.lists(st.text(max_size=40), max_size=5))
def test_a_folded_text_is_its_own_representation(declared: str, texts: list[str]) -> None:
    """Any text: once is as good as twice, and many are as one by one."""
    found = parse_representation(declared)
    folded = [found.one(text) for text in texts]
    assert [found.one(text) for text in folded] == folded
    assert found.many(objects(texts)).tolist() == folded


def test_every_character_settles_in_one_form() -> None:
    """Of characters all over Unicode, none has a form that is folded further."""
    for declared in TEXTS:
        found = parse_representation(declared)
        for code in range(0, sys.maxunicode + 1, 211):
            once = found.one(chr(code))
            assert found.one(once) == once, hex(code)


@pytest.mark.parametrize("declared", HASHES)
@settings(max_examples=25)
@given(texts=st.lists(st.text(max_size=40), max_size=5))
def test_hashes_of_texts_are_alike_one_by_one(declared: str, texts: list[str]) -> None:
    """64 bits without a sign, for texts shorter than a run and none at all, too."""
    found = parse_representation(declared)
    hashed = found.many(objects(texts))
    assert hashed.dtype == np.uint64
    assert hashed.tolist() == [found.one(text) for text in texts]


@pytest.mark.parametrize("declared", REALS)
@settings(max_examples=25)
@given(values=st.lists(st.floats(), max_size=8))
def test_rounded_numbers_stay(declared: str, values: list[float]) -> None:
    """Any double: many as one by one, once as good as twice, near, and never -0."""
    found = parse_representation(declared)
    once = [found.one(value) for value in values]
    assert np.array_equal(found.many(np.array(values)), once, equal_nan=True)
    assert np.array_equal([found.one(value) for value in once], once, equal_nan=True)
    assert all(math.copysign(1.0, value) > 0 for value in once if value == 0.0)
    size = {"round(2)": 0.01, "round(0)": 1.0, "round(-3)": 1e3}.get(declared)
    for value, rounded in zip(values, once, strict=True):
        if size is not None and math.isfinite(value):
            assert abs(value - rounded) <= size / 2 * (1 + 1e-9) + abs(value) * 1e-15
    assert found.one(None) is None


@pytest.mark.parametrize("declared", WHOLE)
@settings(max_examples=25)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8))
def test_whole_numbers_are_counted_exactly(declared: str, values: list[int]) -> None:
    """The nearest multiple, whatever the size, within the type; the same for many."""
    found = parse_representation(declared)
    once = [found.one(value) for value in values]
    assert found.many(np.array(values, np.int64)).tolist() == once
    if not declared.startswith("bucket"):
        assert all(type(each) is int and -(2**63) <= each < 2**63 for each in once)
        assert [found.one(each) for each in once] == once
    positive = np.array([value + 2**63 for value in values], np.uint64)
    assert found.many(positive).tolist() == [found.one(int(value)) for value in positive]


@pytest.mark.parametrize("declared", BUCKETS)
@settings(max_examples=25)
@given(values=st.lists(st.floats(), max_size=8))
def test_buckets_rise_with_the_number(declared: str, values: list[float]) -> None:
    """A larger number is in no lower bucket; a missing one is after them all."""
    found = parse_representation(declared)
    many = found.many(np.array(values, np.float64)).tolist()
    assert many == [found.one(value) for value in values]
    rising = [found.one(value) for value in sorted(v for v in values if v == v)]  # noqa: PLR0124
    assert rising == sorted(rising)
    assert all(bucket < found.one(None) for bucket in rising)
    assert found.one(math.nan) == found.one(None)


def test_what_is_meant_to_be_one_is_one() -> None:
    """Writing, order and small changes are folded, other meanings are not."""
    text = parse_representation("text(digits, punctuation)").one
    assert text("WIN\t$1,000!! now\u200b") == text("win 2 NOW") == "win 0 now"
    assert text("\uff37in") == "win"
    assert text("win") != text("won")
    plain = parse_representation("text").one
    assert plain(" Stra\u00dfe  1") == "strasse 1"
    assert plain("a-1") != plain("a 1")
    words = parse_representation("fingerprint").one
    assert words("NY, New York; new") == "new ny york"
    long = "x" * MAX_TEXT + "Y"
    assert plain(long) == long


def test_texts_share_a_hash_as_often_as_they_share_runs() -> None:
    """With the probability J^hashes: of 400 mails with one word changed, and of other mails."""
    random = np.random.default_rng(0)
    words = np.array(["".join(chr(97 + int(c)) for c in random.integers(0, 26, 6))
                      for _ in range(3000)])  # fmt: skip
    found = parse_representation("ngrams(5, 2)")
    same, expected, others = 0, 0.0, 0
    for _ in range(400):
        mail = random.choice(words, 40)
        changed = mail.copy()
        changed[20] = random.choice(words)
        one, other = " ".join(mail), " ".join(changed)
        runs = [{text[at : at + 5] for at in range(len(text) - 4)} for text in (one, other)]
        expected += (len(runs[0] & runs[1]) / len(runs[0] | runs[1])) ** 2
        same += found.one(one) == found.one(other)
        others += found.one(one) == found.one(" ".join(random.choice(words, 40)))
    assert abs(same - expected) < 4 * math.sqrt(400 * 0.25)
    assert same > 300
    assert others == 0


def test_other_processes_say_the_same() -> None:
    """Whatever Python's own seed of hashes is there."""
    code = (
        "from tidemill.data.representation import parse_representation as p;"
        "print([p(d).one('B\\u00e9 ta, 12 ALPHA beta') for d in "
        "('text', 'fingerprint', 'ngrams(3, 4)')])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    value = "B\u00e9 ta, 12 ALPHA beta"
    here = [parse_representation(d).one(value) for d in ("text", "fingerprint", "ngrams(3, 4)")]
    assert said == {f"{here}\n".encode()}
    assert here[2] == 6147904871216081630


@pytest.mark.parametrize(
    "declared",
    ["", "rnd(2)", "round", "round(x)", "round(1.5)", "round(16)", "step(0)", "step(-1)",
     "step(nan)", "step(inf)", "step(1, 2)", "bucket", "bucket(2, 1)", "bucket(1, 1)",
     "text(case)", "text(digits, digits)", "fingerprint(punctuation)", "ngrams(0)",
     "ngrams(5, 17)", "ngrams(1, 2, 3)", "text(", "text)", "round(2) or else"],
)  # fmt: skip
def test_a_wrong_declaration_is_refused(declared: str) -> None:
    """With a remedy, not another error."""
    with pytest.raises(InvalidInput) as refused:
        parse_representation(declared)
    assert refused.value.remedy


@pytest.mark.parametrize("declared", [*TEXTS, *REALS, *BUCKETS, "ngrams(5, 2)", "step(0.25)"])
def test_a_declaration_is_written_one_way(declared: str) -> None:
    """Reading what it shows gives the same function, however it was spaced."""
    found = parse_representation(declared.replace("(", " (  ").replace(")", " ) "))
    assert parse_representation(found.declared) == found


@pytest.mark.parametrize(
    ("kind", "declared"),
    [("string", "round(2)"), ("int64", "text"), ("bool", "step(1)"), ("bool", "text"),
     ("int64", "step(0.5)"), ("uint8", "round(2)"), ("string", "bucket(1)"),
     ("float32", "ngrams")],
)  # fmt: skip
def test_a_function_of_another_type_is_refused(kind: str, declared: str) -> None:
    """By column, type and declaration."""
    with pytest.raises(InvalidInput, match="column 'x'"):
        check_representation("x", kind, declared)


def test_command_lines_declare_by_column() -> None:
    """An equals sign in the column's name is none; twice is once too often."""
    assert declarations(["a= round( 2 )"]) == {"a": "round(2)"}
    for wrong in (["a"], ["=text"], ["a=text", "a=text"], ["none", "a=text"], ["a=nonsense"]):
        with pytest.raises(InvalidInput):
            declarations(wrong)


def test_columns_of_rows_are_represented_and_what_is_missing_stays_so() -> None:
    """Of any Arrow type that holds numbers or text; without rows, too."""
    rows = pa.table(
        {
            "t": pa.array(["A ", None, "a"]).dictionary_encode(),
            "i": pa.array([14, None, 8], pa.int32()),
            "f": pa.array([1.26, None, math.nan]),
            "n": pa.nulls(3),
        }
    )
    declared = {"t": "text", "i": "step(10)", "f": "round(1)", "n": "text"}
    found = represented_rows(rows, declared)
    assert found["t"].to_pylist() == ["a", None, "a"]
    assert found["i"].to_pylist() == [10, None, 10]
    assert found["f"].to_pylist()[:2] == [1.3, None]
    assert represented_rows(rows.slice(0, 0), declared).num_rows == 0
    for wrong in ({"t": "round(1)"}, {"f": "text"}, {"z": "text"}):
        with pytest.raises(InvalidInput):
            represented_rows(rows, wrong)
