"""Tables whose keys are representations: one answer for each, and what that costs is measured."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidemill.control.rescoring import rows_of_keys
from tidemill.data.representation import parse_representation
from tidemill.foundation.errors import DataRefused, InvalidInput
from tidemill.foundation.home import Home
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Column, Signature
from tidemill.recipes.representatives import Representing, choose_representatives, fold_table
from tidemill.recipes.scored_rows import answers_table
from tidemill.recipes.table import build_table
from tidemill.tables.answer import decode_answer
from tidemill.tables.builds import list_builds
from tidemill.tables.catalog import fetch_table, get_table, list_tables
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.represented import RepresentedKeys, keys_of
from tidemill.tables.table import Agreement, TableInfo
from tidemill.training.examples import feature_batch

KEY = ("carrier", "origin", "hour")
REPRESENT = {"carrier": "text", "hour": "step(4)"}


def rows() -> pa.Table:
    """Rows in several writings; ``aa`` at 5 is there thrice, at other hours once or twice."""
    hours = [5, 5, 5, 3, 4, 6, 11, 12, 13, 13]
    made = [{"carrier": c, "origin": "JFK", "hour": h} for c in ("AA", " aa", "B6") for h in hours]
    return pa.Table.from_pylist(made)


def build(home: Home, representing: Representing, key: tuple[str, ...] = KEY) -> TableInfo:
    """Builds a table with the live version."""
    return build_table(
        home,
        application="trips",
        model="trips",
        version=1,
        key=key,
        source=rows(),
        source_name="rows",
        representing=representing,
    )


def expected(home: Home, source: pa.Table) -> tuple[dict[Any, Any], float]:
    """Each fold's answer, and the part of the rows whose label is that of their representative,
    found row by row.
    """
    runtime = open_runtime(Registry(home).fetch("trips", 1))
    batch = feature_batch(source, runtime.signature.inputs)
    outputs = runtime.predict(batch)
    runtime.close()
    text, step = parse_representation("text").one, parse_representation("step(4)").one
    found = [
        ((text(r["carrier"]), r["origin"], step(r["hour"])), tuple(r[name] for name in KEY), at)
        for at, r in enumerate(source.to_pylist())
    ]
    answers, same = {}, 0
    for fold, group in groupby(sorted(found), key=lambda each: each[0]):
        members = list(group)
        own = [member[1] for member in members]
        best = min(set(own), key=lambda each: (-own.count(each), each))
        at = next(member[2] for member in members if member[1] == best)
        answers[fold] = {name: array[at] for name, array in outputs.items()}
        same += sum(outputs["label"][m[2]] == outputs["label"][at] for m in members)
    return answers, same / len(found)


def test_the_most_frequent_input_answers_for_all_that_it_represents(trained: Home) -> None:
    """Each fold is there once with its representative's own answer; the agreement is counted."""
    info = build(trained, Representing(columns=REPRESENT))
    answers, share = expected(trained, rows())
    assert info.rows == len(answers)
    assert info.represent == (("carrier", "text"), ("hour", "step(4)"))
    assert info.agreement is not None
    assert info.agreement.share == pytest.approx(share)
    assert (info.agreement.rows, info.agreement.keys) == (30, len(answers))
    assert info.agreement.inputs == 21
    assert get_table(trained.store, info.id) == info
    keys = keys_of(info.key, dict(info.represent))
    with LmdbTable.open(fetch_table(trained, info.id), verify=True) as table:
        # Other writings of the same are found, too.
        asked = [keys.one([f" {c.upper()} ", origin, h + 1]) for c, origin, h in answers]
        found = [decode_answer(each) for each in table.get(asked) if each is not None]
    assert len(found) == len(answers)
    for got, wanted in zip(found, answers.values(), strict=True):
        assert got["label"] == wanted["label"]
        assert np.array_equal(np.array(got["probabilities"], np.float32), wanted["probabilities"])


def test_the_same_source_gives_the_same_table(trained: Home) -> None:
    """By its content, and another one where another representation is declared."""
    first = build(trained, Representing(columns=REPRESENT))
    assert build(trained, Representing(columns=REPRESENT)).sha256 == first.sha256
    plain = build(trained, Representing())
    assert (plain.represent, plain.agreement, plain.format, first.format) == ((), None, 1, 2)
    assert {first.id, plain.id, build(trained, Representing(columns={"hour": "step(8)"})).id}


def test_too_little_agreement_is_refused(trained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored then; at exactly the share, it is built."""
    columns = {"carrier": "bucket(0)", "hour": "bucket(100)"}
    with pytest.raises(InvalidInput, match="represents numbers"):
        build(trained, Representing(columns=columns))
    columns = {"carrier": "fingerprint", "hour": "bucket(100)"}
    share = build(trained, Representing(columns=columns)).agreement
    assert share is not None
    before = list_tables(trained.store)
    monkeypatch.setattr(
        "tidemill.recipes.table.choose_representatives",
        lambda scored, *_, **__: (scored, Agreement(rows=10, inputs=5, keys=2, share=0.89)),
    )
    with pytest.raises(DataRefused, match=r"89\.00% of the rows agree"):
        build(trained, Representing(columns=columns, min_agreement=0.9))
    assert list_tables(trained.store) == before
    Representing(min_agreement=0.89).check(Agreement(rows=10, inputs=5, keys=2, share=0.89))
    with pytest.raises(InvalidInput, match="'origin' is represented, and no part of the key"):
        build(trained, Representing(columns={"origin": "text"}), ("carrier", "hour"))
    for wrong in ({"min_agreement": 1.5}, {"tolerance": -1.0}, {"tolerance": float("nan")}):
        with pytest.raises(InvalidInput):
            Representing(**wrong)


def test_differences_are_measured_across_batches(tmp_path: Path) -> None:
    """More rows than a batch, real numbers with a tolerance, missing and infinite ones, folds that
    go on from one file to the next.
    """
    count = 70_000
    x = np.arange(count, dtype=np.int64)
    y = (x % 7).astype(np.float64) + 0.0
    y[3::1000] = np.nan
    vectors = np.stack([y, -y], axis=1)
    signature = Signature(
        (Column("x", "int64"),), (Column("key", "float64"), Column("v", "float64", (2,)))
    )
    scored, folds = [], []
    for at, part in enumerate(np.array_split(np.random.default_rng(0).permutation(count), 3)):
        batch, outputs = {"times": x[part]}, {"key": y[part], "v": vectors[part]}
        scored.append(tmp_path / f"scored-{at}.parquet")
        pa.parquet.write_table(answers_table(batch, outputs, ("times",), signature), scored[-1])
        folds.append(tmp_path / f"folded-{at}.parquet")
        keys = [int(each // 30_000).to_bytes(2, "big") for each in x[part]]
        pa.parquet.write_table(
            fold_table(keys, pa.array(np.where(x[part] % 30_000 == 5, 9, 2))), folds[-1]
        )
    written, found = choose_representatives(
        scored, folds, ("times",), signature, tolerance=1.0, work=tmp_path
    )
    assert pa.parquet.read_table(written[0])["times"].to_pylist() == [5, 30_005, 60_005]
    times = np.where(x % 30_000 == 5, 9, 2)
    apart = np.abs(y - y[x // 30_000 * 30_000 + 5])
    apart[np.isnan(apart)] = np.inf
    assert (found.rows, found.inputs, found.keys) == (times.sum(), count, 3)
    assert found.share == pytest.approx(times[apart <= 1.0].sum() / times.sum())
    assert found.outputs[0].share == pytest.approx(found.share)
    assert found.outputs[0].max_abs is None  # a number and none are infinitely apart
    stored = tmp_path / "stored"
    stored.hardlink_to(written[0])
    y[np.isnan(y)] = 0.0
    table = answers_table({"times": x}, {"key": y, "v": vectors}, ("times",), signature)
    pa.parquet.write_table(table, scored[0])
    pa.parquet.write_table(fold_table([b"k"] * count, pa.array(np.ones(count, np.int64))), folds[0])
    _, found = choose_representatives(
        scored[:1], folds[:1], ("times",), signature, tolerance=0.0, work=tmp_path
    )
    assert found.outputs[0].mean_abs == pytest.approx(np.abs(y - y[0]).mean())
    assert found.outputs[0].max_abs == 6.0
    # What was stored of a build that was killed is not written over by the next one.
    assert pa.parquet.read_table(stored)["times"].to_pylist() == [5, 30_005, 60_005]


def test_keys_of_many_are_those_of_each() -> None:
    """Columns with and without a representation, in types of their own; wrong values are named."""
    columns = [("t", "string"), ("f", "float32"), ("u", "uint64"), ("b", "bool")]
    keys = RepresentedKeys(columns, {"t": "fingerprint", "f": "round(1)", "u": "step(10)"})
    arrays = [
        ["B a", "a b", "x"],
        np.array([0.14, np.float32(0.1), np.nan], np.float32),
        [2**64 - 1, 17, np.uint64(4)],
        np.array([True, True, False]),
    ]
    many = keys.many(arrays)
    assert many == [keys.one(list(row)) for row in zip(*arrays, strict=True)]
    assert keys.show(many[1]) == "t='a b', f=0.1, u=20, b=True"
    assert keys.show(many[2]) == "t='x', f=None, u=0, b=False"
    for wrong in ([1, 0.1, 1, True], ["x", "y", 1, True], ["x", 0.1, 1.5, True], ["x"]):
        with pytest.raises(InvalidInput):
            keys.one(wrong)
    with pytest.raises(InvalidInput, match="4 columns"):
        keys.many([["x"]])
    with pytest.raises(InvalidInput):
        keys.many([["x"], [0.5], [0.5], [True]])


def test_a_represented_table_is_no_base_and_takes_nothing_over(trained: Home) -> None:
    """Its answers are others': a build beside it scores all; keys cannot be kept."""
    first = build(trained, Representing(columns=REPRESENT))
    given: dict[str, Any] = {
        "application": "trips",
        "model": "trips",
        "version": 1,
        "key": KEY,
        "base": first.id,
    }
    plain = build_table(trained, source=rows(), source_name="rows", **given)
    assert list_builds(trained.store, plain.id)[0].base is None
    again = Representing(columns=REPRESENT)
    whole = build_table(trained, source=rows(), source_name="r", representing=again, **given)
    assert list_builds(trained.store, whole.id)[0].keys.scored == 21
    with pytest.raises(InvalidInput, match="cannot be kept"):
        build_table(trained, source=rows(), source_name="r", representing=again, keep=True, **given)


def test_representatives_alone_tell_no_agreement(trained: Home) -> None:
    """A table scored again from its own keys says that nothing was compared."""
    first = build(trained, Representing(columns=REPRESENT))
    inputs = read_manifest(Registry(trained).fetch("trips", 1)).signature.inputs
    again = build_table(
        trained,
        application="trips",
        model="trips",
        version=1,
        key=KEY,
        source=rows_of_keys(trained, first, inputs),
        source_name="again",
        representing=Representing(columns=REPRESENT, min_agreement=1.0),
    )
    assert (again.rows, again.sha256, again.agreement) == (first.rows, first.sha256, None)
