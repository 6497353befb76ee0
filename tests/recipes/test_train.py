"""The training journey: every component runs, what is not blessed stays out, runs are reused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidemill.control.deployments import list_deployments
from tidemill.control.runs import run_recipe
from tidemill.foundation.errors import DataRefused, NotBlessed, NotFound, StepFailed
from tidemill.foundation.home import Home
from tidemill.models import packaging
from tidemill.models.registry import Registry
from tidemill.pipeline.explain import explain
from tidemill.recipes.intake import take
from tidemill.recipes.recipe import Recipe, get_recipe
from tidemill.recipes.steps import infra
from tidemill.recipes.train import train
from tidemill.serving.live import TABLES, deployment_history

COMPONENTS = [
    "ExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Compiler",
    "Evaluator",
    "InfraValidator",
    "Pusher",
]
Csv = Callable[..., Path]


def quick_validator(model: Path, examples: Path) -> infra.InfraReport:
    """Starts nothing; in this module, so that a child process finds it."""
    return infra.InfraReport(
        queries=0, rows=0, max_difference=0.0, started_in_s=0.0, p50_ms=0.0, p99_ms=0.0
    )


def refusing_validator(model: Path, examples: Path) -> infra.InfraReport:
    """Refuses every candidate."""
    raise NotBlessed("row 0: the server answers otherwise")


@pytest.fixture
def quick_infra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a server and long measurements where a test is about something else."""
    monkeypatch.setattr(infra, "infra_validator", quick_validator)
    monkeypatch.setattr(packaging, "_MEASURED_CALLS", 5)


def recipe_of(home: Home, **changes: Any) -> Recipe:
    """Returns the recipe ``trips`` with other words."""
    return msgspec.structs.replace(get_recipe(home.settings, "trips"), **changes)


def test_every_component_ran_and_the_model_is_live(trained: Home) -> None:
    """One run holds all components by TFX's names; its blessed version is the live champion."""
    told = {each.step: each for each in explain(trained.store, "first")}
    assert sorted(told) == sorted(COMPONENTS)
    assert {each.status for each in told.values()} == {"finished"}
    version = Registry(trained).get("trips")
    assert (version.version, version.blessed, version.run) == (1, True, "first")
    assert version.blessing is not None
    assert version.blessing["infra"]["rows"] > 64
    assert version.blessing["infra"]["max_difference"] <= infra.TOLERANCE
    assert version.manifest.runtime == "onnx"  # compiled, and found equal
    assert version.manifest.lineage["recipe"] == "trips"
    assert Registry(trained).aliases("trips") == {"champion": 1}
    (live,) = list_deployments(trained)
    assert (live.application, live.versions[0].version) == ("trips", 1)
    assert live.versions[0].table is not None
    assert live.key == ("carrier", "origin", "hour")


def test_the_same_run_again_trains_nothing(trained: Home) -> None:
    """Only what depends on the new champion runs again; it is the same version."""
    done = train(trained, "trips", recipe_of(trained), run_id="second")
    assert (done.version, done.blessed) == (1, True)
    assert done.verdict.champion is not None
    told = {each.step: each.status for each in explain(trained.store, "second")}
    assert {name for name, status in told.items() if status == "finished"} == {
        "Evaluator",
        "Pusher",
    }
    assert len(Registry(trained).list("trips")) == 1


def test_a_model_of_noise_is_kept_and_never_live(
    trained: Home, trips_csv: Csv, tmp_path: Path, quick_infra: None
) -> None:
    """Labels that nothing explains: the version is registered with its reasons, and that's all."""
    take(trained, "trips", [trips_csv(tmp_path / "noise.csv", rows=1500, seed=9, shuffled=True)])
    trained.settings.recipes["trips"]["snapshots"] = 1
    done = run_recipe(trained, "trips", by="tests", reason="noise")
    assert not done.trained.blessed
    assert (done.revision, done.table) == (None, None)
    version = Registry(trained).get("trips", done.trained.version)
    assert not version.blessed
    assert any("not above" in reason or "not below" in reason for reason in done.trained.reasons)
    assert Registry(trained).aliases("trips") == {"champion": 1}
    (live,) = list_deployments(trained)
    assert live.versions[0].version == 1


def test_a_candidate_that_answers_otherwise_is_not_registered(
    trained: Home,
    trips_csv: Csv,
    tmp_path: Path,
    quick_infra: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What InfraValidator refuses ends the run as not blessed; there is no new version."""
    monkeypatch.setattr(infra, "infra_validator", refusing_validator)
    take(trained, "trips", [trips_csv(tmp_path / "2.csv", seed=2)])
    with pytest.raises(NotBlessed, match="answers otherwise"):
        run_recipe(trained, "trips", by="tests", reason="r", run_id="bad")
    assert len(Registry(trained).list("trips")) == 1
    told = {each.step: each.status for each in explain(trained.store, "bad")}
    assert (told["InfraValidator"], told["Pusher"]) == ("failed", "skipped")


def test_go_live_can_be_left_out(trained: Home, quick_infra: None) -> None:
    """A blessed version that nobody deploys is registered; what was live stays."""
    rules = {"max_loss_increase": 1.0, "max_slice_loss_increase": 1.0}
    trained.settings.recipes["trips"].update(seed=5, rules=rules)
    done = run_recipe(trained, "trips", by="tests", reason="r", go_live=False)
    assert (done.trained.version, done.trained.blessed, done.revision) == (2, True, None)
    assert Registry(trained).aliases("trips") == {"champion": 1}


def test_a_table_that_follows_is_built_once_its_version_is_live(
    trained: Home, tmp_path: Path, quick_infra: None
) -> None:
    """Until then the model answers; a table that cannot be built takes nothing back."""
    rules = {"max_loss_increase": 1.0, "max_slice_loss_increase": 1.0}
    declared = {"key": ["carrier", "origin", "hour"], "build": "after"}
    trained.settings.recipes["trips"].update(seed=5, rules=rules, table=declared)
    done = run_recipe(trained, "trips", by="tests", reason="r")
    assert done.table is not None
    assert (done.table.model, done.table.version, done.without_table) == ("trips", 2, None)
    with trained.store.read(TABLES) as conn:
        newest, before, *_ = deployment_history(conn, "trips")
    assert [
        (row.deployment.versions[0].version, row.deployment.versions[0].table)
        for row in (newest, before)
        if row.deployment is not None
    ] == [(2, done.table.id), (2, None)]
    assert done.revision == newest.revision
    declared["source"] = str(tmp_path / "gone.csv")
    trained.settings.recipes["trips"].update(seed=6)
    without = run_recipe(trained, "trips", by="tests", reason="r")
    assert (without.table, without.revision) == (None, newest.revision + 1)
    assert "gone.csv does not exist" in (without.without_table or "")
    (live,) = list_deployments(trained)
    assert (live.versions[0].version, live.versions[0].table) == (3, None)


def test_a_dataset_without_rows_is_told(home: Home) -> None:
    """There is nothing to train on before the first ingest."""
    recipe = Recipe(dataset="nowhere", features=("a",), label="b")
    with pytest.raises(NotFound, match="nowhere"):
        train(home, "nowhere", recipe)


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("selec * from rows", "select fails"),
        ("select carrier, origin, late from rows", "no column 'hour'"),
        ("select *, hour as late from rows", "two columns 'late'"),
        ("select * from read_csv('/etc/passwd')", "file system operations are disabled"),
        ("copy rows to 'stolen.csv'", "file system operations are disabled"),
        ("  ", "select is empty"),
    ],
)
def test_a_select_that_cannot_be_used_fails_its_step(
    trained: Home, select: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step and what is wrong; nothing is trained, read or written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StepFailed, match=f"(?s)'Transform'.*{said}"):
        train(trained, "trips", recipe_of(trained, select=select))
    assert not (tmp_path / "stolen.csv").exists()
    assert len(Registry(trained).list("trips")) == 1


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("select * from rows where hour > 99", "no rows are left"),
        ("select * exclude (late), null::int as late from rows", "no rows are left"),
    ],
)
def test_a_select_that_leaves_no_example_is_refused(trained: Home, select: str, said: str) -> None:
    """No rows, or none with a label: the data gate says so."""
    with pytest.raises(DataRefused, match=said):
        train(trained, "trips", recipe_of(trained, select=select))


def test_rows_without_a_label_are_counted(trained: Home, quick_infra: None) -> None:
    """A NULL label is no example, and no error."""
    select = "select * replace (case when hour = 6 then null else late end as late) from rows"
    done = train(trained, "trips", recipe_of(trained, select=select))
    assert done.examples.unlabelled > 0
    assert done.examples.train + done.examples.evaluation + done.examples.unlabelled == 1500


def test_text_labels_and_wrong_features_are_told(trained: Home, quick_infra: None) -> None:
    """A feature of a type that no model takes is named, with what to do."""
    select = "select * replace (date '2013-01-01' + hour::int as hour) from rows"
    with pytest.raises(StepFailed, match="feature 'hour' has the type date"):
        train(trained, "trips", recipe_of(trained, select=select))
