"""Which model versions were trained without rows that were held."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, Selection
from tidemill.data.reviews import discard, release
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshots import list_snapshots
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.models import signature as model_signature
from tidemill.models.format import ModelManifest
from tidemill.models.registry import ModelVersion, Registry
from tidemill.recipes.impact import Affected, impact


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The snapshots of each version of a model ``m``, to be filled by a test."""
    snapshots: list[list[str]] = []
    side = (model_signature.Column("x", "float64"),)

    def version(number: int, lineage: list[str]) -> ModelVersion:
        manifest = ModelManifest(
            name="m",
            runtime="onnx",
            signature=model_signature.Signature(side, side),
            entry="model.onnx",
            trust="data",
            lineage={"recipe": "m", "snapshots": lineage},
        )
        return ModelVersion(
            name="m",
            version=number,
            manifest=manifest,
            files={},
            blessed=True,
            blessing=None,
            run="first",
            created_at="2026-01-01T00:00:00Z",
        )

    def versions(_: Registry) -> tuple[ModelVersion, ...]:
        return tuple(version(number, each) for number, each in enumerate(snapshots, 1))

    monkeypatch.setattr(Registry, "list", versions)
    return snapshots


def _named(found: tuple[Affected, ...]) -> list[tuple[int, int, int]]:
    return [(one.version, one.held, one.released) for one in found]


def test_versions_are_named_that_lack_rows(
    home: Home, trained_on: list[list[str]], tmp_path: Path
) -> None:
    """Those trained after the rows came and without them; through releases and discards alike."""
    options = DatasetOptions(max_bad_fraction=1)
    strict = Schema(columns=(Column(name="x", type="int64", max=9),))
    wide = Schema(columns=(Column(name="x", type="int64", max=99),))
    for name, rows in (("1", "1\n2\n"), ("2", "3\n50\n500\n600\n"), ("3", "4\n")):
        (tmp_path / name).write_text("x\n" + rows)
        ingest(home, "d", [tmp_path / name], schema=strict, options=options)
    one, two, three = (snapshot.id for snapshot in list_snapshots(home, "d"))
    trained_on += [[one], [one, two], [one, two, three], ["of another dataset"], []]
    before = impact(home, "d")
    assert (before.held, before.released, before.snapshots) == (3, 0, (two, three))
    assert _named(before.models) == [(2, 3, 0), (3, 3, 0)]
    assert not impact(home, "d", reason="wrong_type").models
    done = release(home, "d", Selection(), by="ann", schema=wide)
    assert done is not None
    trained_on.append([one, two, three, str(done.snapshot)])
    after = impact(home, "d")
    assert (after.held, after.released) == (2, 1)
    assert _named(after.models) == [(2, 2, 1), (3, 2, 1), (6, 2, 0)]
    assert after.models[0].lacks == (done.snapshot,)
    discard(home, "d", Selection(where="data.x = '600'"), by="ann", why="a test row")
    assert _named(impact(home, "d").models) == [(2, 1, 1), (3, 1, 1), (6, 1, 0)]
    with pytest.raises(NotFound):
        impact(home, "nothing")
