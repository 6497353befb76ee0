"""Stored features complete a key to all inputs, for as long as they are not too old."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Column, Signature
from tidemill.serving.batcher import Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.features import StoredFeatures, open_features
from tidemill.serving.measures import VersionMeasures
from tidemill.serving.plan import Live, VersionAssignment
from tidemill.serving.query import Query
from tidemill.serving.version import LiveVersion
from tidemill.tables.answer import encode_answers
from tidemill.tables.build import TableBuilder
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.table import TableInfo

SIGNATURE = Signature(
    (Column("city", "string"), Column("id", "int64"), Column("ok", "bool"), Column("x", "float32")),
    (Column("y", "float32"),),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Features of the keys 1 to 3, read at the time 1000."""
    info = TableInfo(
        application="app", model="m", version=1, key=(("id", "int64"),), as_of=1000.0,
        kind="features", inputs=tuple((each.name, each.type) for each in SIGNATURE.inputs),
    )  # fmt: skip
    values = {
        "city": np.array(["Ålesund", "", "oslo"], object),
        "ok": np.array([True, False, True]),
        "x": np.array([0.1, np.nan, -0.0], np.float32),
    }
    with TableBuilder(tmp_path / "features") as builder:
        builder.put(KeyEncoder(info.key).many([np.arange(1, 4)]), encode_answers(values))
        builder.commit(info)
    return tmp_path / "features"


def test_a_key_is_completed_bit_for_bit(folder: Path) -> None:
    """In the model's order and types; nothing for a key that is not there, or no key."""
    stored = open_features(folder, SIGNATURE)
    assert stored is not None
    found = stored.complete({"id": np.array([3, 1, 2, 3])})
    assert found is not None
    assert list(found) == ["city", "id", "ok", "x"]
    assert found["city"].tolist() == ["oslo", "Ålesund", "", "oslo"]
    assert found["ok"].tolist() == [True, True, False, True]
    assert found["x"].dtype == np.float32
    wanted = np.array([-0.0, 0.1, np.nan, -0.0], np.float32)
    assert found["x"].view(np.uint32).tolist() == wanted.view(np.uint32).tolist()
    assert stored.complete({"id": np.array([1, 9])}) is None
    assert stored.complete({"city": np.array(["oslo"], object)}) is None
    stored.close()


def test_features_of_other_inputs_are_none(folder: Path) -> None:
    """Another type, one column less, or no folder at all."""
    other = Signature((*SIGNATURE.inputs[:3], Column("x", "float64")), SIGNATURE.outputs)
    assert open_features(folder, other) is None
    assert open_features(folder, Signature(SIGNATURE.inputs[1:], SIGNATURE.outputs)) is None
    assert open_features(None, SIGNATURE) is None


def test_features_that_are_too_old_do_not_count(folder: Path) -> None:
    """As for a table: from the moment on at which an answer may not be so old."""
    clock = FakeClock(at=1059.0)
    measures = VersionMeasures(Instruments(), "app", 1)
    batcher = Batcher(
        clock=clock, max_batch=1, max_queue=1, max_queue_bytes=1, finish=lambda _: None,
        observer=measures, turned=lambda: None,
    )  # fmt: skip
    stored = StoredFeatures(LmdbTable.open(folder), SIGNATURE)
    none: Cache[Any] = Cache(0, None)
    version = LiveVersion(
        assignment=VersionAssignment(live=Live(model="m", version=1), folder="", replicas=()),
        identity=(), signature=SIGNATURE, platform="", table=None, key=None, features=stored,
        cache=none, batcher=batcher, coalesces=False, clock=clock, measures=measures,
    )  # fmt: skip
    query = Query({"id": np.array([1])}, 1, 0.0, 1.0, lambda _: None)
    version.limit_age(60.0)
    assert version.complete(query) is not None
    clock.advance(1.0)
    assert version.complete(query) is None
    version.limit_age(None)
    assert version.complete(query) is not None
    stored.close()
