"""Skew: how what an application is asked differs from what its model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.catalog import get_schema
from tidemill.data.drift.reference import CountedRows, Reference, count
from tidemill.data.drift.verdict import DriftReport, DriftRules, judge
from tidemill.data.ledger_reader import each_part
from tidemill.data.ledger_records import Problem
from tidemill.data.schema import Comparator
from tidemill.data.snapshot_drift import frozen_reference, kept_reference, without
from tidemill.data.snapshots import get_snapshot
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.models.registry import Registry
from tidemill.models.signature import Column
from tidemill.models.versions import ModelVersion
from tidemill.pipeline.artifact import Artifact, Shelf
from tidemill.pipeline.lineage import TABLES, get_artifact, latest_steps
from tidemill.recipes.steps.examples import EVALUATION, TRAIN
from tidemill.serving import live

_ROWS = 1 << 16
_EXAMPLES = "Transform"
"""The step whose examples a model is trained on."""


class ServedSkew(msgspec.Struct, frozen=True, kw_only=True):
    """How the rows that a version was asked differ from those that it was trained on.

    Attributes:
        application: what clients asked.
        model: which model answered.
        version: which of its versions.
        reference: what the rows are compared with: ``examples of run R``, or ``snapshot S``.
        since: only what was answered at or after this moment, seconds since the epoch.
        until: only what was answered before this moment.
        report: what was found.
        problems: places of the ledger that are damaged; what was asked there is not in the report.
    """

    application: str
    model: str
    version: int
    reference: str
    since: float | None = None
    until: float | None = None
    report: DriftReport
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Tells whether every row could be read and compared, and nothing has moved."""
        return self.report.ok and not self.problems


def served_skew(
    home: Home,
    application: str,
    *,
    version: int | None = None,
    against: str | None = None,
    since: float | None = None,
    until: float | None = None,
    rules: DriftRules | None = None,
) -> ServedSkew:
    """Compares the inputs in the ledger with the examples that a version was trained on.

    The reference is frozen the first time, and belongs to the run that made the version. Only
    inputs of one value a row are compared. A limit in ``skew`` of the schema of the dataset that
    the version comes from counts.

    Args:
        home: the installation.
        application: what clients asked.
        version: of its model; None for the one that answers most.
        against: id of a snapshot that is the reference rather than the version's examples.
        since: only what was answered at or after this moment, seconds since the epoch.
        until: only what was answered before this moment.
        rules: what counts as skew.

    Raises:
        NotFound: there is no such application, version or snapshot, the version was not trained
            here and no snapshot is named, or it was asked nothing in that time.
        Corrupted: bytes are not what was written.
    """
    rules = rules or DriftRules()
    found = _version(home, application, version)
    named, reference = _reference(home, found, against)
    inputs = found.manifest.signature.inputs
    compared = {one.name: one for one in inputs if not one.shape}
    skipped = {one.name: "a row has many values of it" for one in inputs if one.shape}
    skipped.update(
        {
            one.name: "it is no input of the model"
            for one in reference.columns
            if one.name not in compared and one.name not in skipped
        }
    )
    reference = without(reference, skipped)
    problems: list[Problem] = []
    current = _served(
        home,
        application,
        found.version,
        compared,
        reference,
        since=since,
        until=until,
        problems=problems,
    )
    known = {one.name for one in reference.columns}
    errors = {
        name: "the rows that it is compared with have no such column"
        for name in compared
        if name not in known
    }
    shaped = {name: why for name, why in skipped.items() if name not in reference.left_out}
    report = judge(
        msgspec.structs.replace(reference, left_out={**reference.left_out, **shaped}),
        current,
        msgspec.structs.replace(rules, columns={**_limits(home, found, against), **rules.columns}),
    )
    left_out = {name: why for name, why in report.left_out.items() if name not in errors}
    return ServedSkew(
        application=application,
        model=found.name,
        version=found.version,
        reference=named,
        since=since,
        until=until,
        report=msgspec.structs.replace(
            report, errors={**report.errors, **errors}, left_out=left_out
        ),
        problems=tuple(problems),
    )


def _version(home: Home, application: str, version: int | None) -> ModelVersion:
    with home.store.read(live.TABLES) as conn:
        history = live.deployment_history(conn, application)
    deployments = [row.deployment for row in history if row.deployment is not None]
    if not deployments:
        raise NotFound(
            f"there is no application {application!r}",
            remedy="tidemill applications lists those that there are.",
        )
    if version is None:
        chosen = next((one.main for one in deployments if one.main is not None), None)
    else:
        every = (one for each in deployments for one in each.versions)
        chosen = next((one for one in every if one.version == version), None)
    if chosen is None:
        raise NotFound(
            f"application {application!r} never had {f'version {version}' if version else 'one'}",
            remedy=f"tidemill deployments {application} lists what it had.",
        )
    return Registry(home).get(chosen.model, chosen.version)


def _reference(home: Home, version: ModelVersion, against: str | None) -> tuple[str, Reference]:
    if against is not None:
        return f"snapshot {against}", frozen_reference(home, [get_snapshot(home, against)])
    examples = _examples(home, version.run) if version.run else None
    if examples is None:
        raise NotFound(
            f"version {version.version} of {version.name!r} was not trained here: nobody knows on "
            "which rows",
            remedy="Ingest rows as it was trained on, and name their snapshot with --against.",
        )
    shelf = Shelf(home.files)
    files = [examples.files[name] for name in (TRAIN, EVALUATION)]
    reference = kept_reference(home, examples.content, lambda: [shelf.fetch(one) for one in files])
    return f"examples of run {version.run}", reference


def _examples(home: Home, run: str) -> Artifact | None:
    """Returns the examples of a run, if it made or reused any."""
    with home.store.read(TABLES) as conn:
        steps = latest_steps(conn, run)
    known = next((row.artifact for row in steps if row.step == _EXAMPLES and row.artifact), None)
    found = get_artifact(home.store, known) if known else None
    return found if found is not None and {TRAIN, EVALUATION} <= set(found.files) else None


def _limits(home: Home, version: ModelVersion, against: str | None) -> dict[str, Comparator]:
    """Returns the limits in ``skew`` of the schema that the training rows passed."""
    named = version.manifest.lineage.get("snapshots")
    snapshots = [against] if against else named if isinstance(named, list) else []
    if not snapshots:
        return {}
    schema = get_schema(home, get_snapshot(home, str(snapshots[-1])).dataset)
    inputs = {one.name for one in version.manifest.signature.inputs}
    return {
        one.name: one.skew for one in schema.columns if one.skew is not None and one.name in inputs
    }


def _served(
    home: Home,
    application: str,
    version: int,
    columns: Mapping[str, Column],
    reference: Reference,
    *,
    since: float | None,
    until: float | None,
    problems: list[Problem],
) -> CountedRows:
    """Returns the rows that a version answered, counted in the reference's cells."""
    counted: CountedRows | None = None
    for part in each_part(home.ledger_path, application, problems=problems):
        mine = pc.equal(part["version"], version)
        if since is not None:
            mine = pc.and_(mine, pc.greater_equal(part["time"], since))
        if until is not None:
            mine = pc.and_(mine, pc.less(part["time"], until))
        for batch in part.select(["inputs"]).filter(mine).to_batches(max_chunksize=_ROWS):
            if batch.num_rows:
                more = count(reference, _rows(batch.column(0).to_pylist(), columns))
                counted = more if counted is None else counted + more
    if counted is None:
        raise NotFound(
            f"the ledger has no answer of version {version} to application {application!r}"
            + (" in that time" if since is not None or until is not None else "")
            + (f", and {len(problems)} places of it are damaged" if problems else ""),
            remedy="Restore the damaged segments from a backup; tidemill ledger names them."
            if problems
            else "Serve it and send queries.",
        )
    return counted


def _rows(texts: list[str | None], columns: Mapping[str, Column]) -> pa.Table:
    """Returns inputs as they stand in the ledger, in columns; what does not fit is missing."""
    rows = [orjson.loads(text) if text else {} for text in texts]
    return pa.table(
        {
            name: pa.array([_plain(row.get(name), column.type) for row in rows], _arrow(column))
            for name, column in columns.items()
        }
    )


def _arrow(column: Column) -> pa.DataType:
    if column.type == "string":
        return pa.string()
    return pa.bool_() if column.type == "bool" else pa.float64()


def _plain(value: Any, kind: str) -> Any:
    if kind == "string":
        return value if isinstance(value, str) else None
    if not isinstance(value, bool | int | float):
        return None
    return bool(value) if kind == "bool" else float(value)
