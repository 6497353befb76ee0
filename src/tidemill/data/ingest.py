"""Ingest: files in, one snapshot and the held rows out, exactly once, all or nothing.

    locate      which files are meant, and their hashes; those known are not read again
    judge       every row goes through the gate and is staged, accepted or held
    refuse      too many bad rows, a column is missing, or the size is far off: every row is held
    keep        staged files become content-addressed and durable
    commit      one transaction makes snapshot, counts and held rows visible

Killed at any point, the same call does the rest: what was staged is thrown away, what was kept is
found by its hash, what was committed is known. A refused batch is recorded too; the same files
together again, under the same schema and options, are a no-op that says so, and are judged anew
after any of these was changed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from tidemill.data.batches import Progress, SourceFile
from tidemill.data.catalog import (
    TABLES,
    Dataset,
    IngestRow,
    MovedError,
    SeenSource,
    find_dataset,
    find_ingests,
    find_sources,
    save_dataset,
    save_ingest,
    save_snapshot,
    with_rules,
)
from tidemill.data.drafts import advanced, earlier, keep, keep_snapshot, my_turn
from tidemill.data.elsewhere import looking_elsewhere
from tidemill.data.gate import Draft, Gate
from tidemill.data.records import (
    Anomaly,
    Counts,
    DatasetOptions,
    IngestResult,
    SourceRecord,
)
from tidemill.data.schema import Schema
from tidemill.data.schema_files import read_schema
from tidemill.data.snapshot_drift import drift_refusal
from tidemill.data.snapshots import batches_of
from tidemill.data.sources import Source, locate, read
from tidemill.data.text_options import decoder_of, delimiter_of
from tidemill.data.validation import Rule, merge_anomalies
from tidemill.data.volume import off_volume
from tidemill.foundation.errors import Conflict, InvalidInput
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name

ATTEMPTS = 5


def ingest(
    home: Home,
    name: str,
    sources: Sequence[Source],
    *,
    options: DatasetOptions | None = None,
    schema: Schema | Path | None = None,
    progress: Progress | None = None,
) -> IngestResult:
    """Brings files into a dataset as one new snapshot and says what became of every row.

    Args:
        home: the installation.
        name: the dataset; it is made by its first ingest.
        sources: files (CSV and JSON Lines, plain, .gz or .zip; Parquet, Arrow IPC, Avro), folders
            of them, or patterns of paths with ``{SPAN}`` or ``{YYYY}{MM}{DD}`` and perhaps
            ``{VERSION}``: the newest span of them, in its newest version; the same in a bucket,
            as ``s3://BUCKET/PREFIX``; or queries of databases.
        options: stored; the stored ones hold where None is given.
        schema: rules for columns, as a record or a TOML file; the first ingest infers the rest,
            later ones may change rules but not columns.
        progress: told the bytes read so far and in all.

    Returns:
        Counts, reasons and anomalies. ``refused`` says why the whole batch was held, if it was;
        ``repeated`` says that all files were known and nothing was done.

    Raises:
        NotFound: a file does not exist.
        InvalidInput: a file is empty, truncated or can't be read, or a database refuses a query;
            nothing was recorded.
        Conflict: key, time, columns or types would change, or a file was written to meanwhile.
        Unavailable: a bucket or a database can't be reached, or a disk is full.
    """
    check_name("dataset", name)
    rules = read_schema(schema) if isinstance(schema, Path) else schema
    options = _checked(options)
    told = progress or _silent
    with looking_elsewhere(home, told) as elsewhere:
        files, notes = locate(sources, elsewhere)
        after = _after(told, elsewhere.brought)
        return _ingest(home, name, files, notes, options=options, rules=rules, progress=after)


def _ingest(
    home: Home,
    name: str,
    files: list[SourceFile],
    notes: list[Anomaly],
    *,
    options: DatasetOptions | None,
    rules: Schema | None,
    progress: Progress,
) -> IngestResult:
    with my_turn(home, name) as folder:
        for _ in range(ATTEMPTS):
            dataset = with_rules(find_dataset(home, name), options=options, schema=rules)
            known = _known(home, dataset, files)
            fresh = [file for file in files if file.record.sha256 not in known]
            if not fresh:
                return _as_before(home, dataset, list(known.values()))
            notes_now = [*notes, *_skipped(known)]
            draft = _judge(home, dataset, fresh, folder, progress)
            try:
                return _commit(home, dataset, fresh, draft, notes_now)
            except MovedError:
                continue  # judged against snapshots that are not the newest any more
    raise Conflict(
        f"dataset {name!r} changed {ATTEMPTS} times while it was ingested", remedy="Try again."
    )


# --- before --------------------------------------------------------------------------------


def _checked(options: DatasetOptions | None) -> DatasetOptions | None:
    if options is None:
        return None
    try:
        options = msgspec.convert(msgspec.to_builtins(options), DatasetOptions)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the options are wrong: {error}", remedy="Correct them.") from error
    delimiter_of(options.delimiter)
    decoder_of(options.encoding)
    return options


def _known(home: Home, dataset: Dataset, files: list[SourceFile]) -> dict[str, SeenSource]:
    """Returns the files that need no reading.

    Those are files that were ingested, and files refused under the same rules if the same ones
    come together again.
    """
    seen = find_sources(home, dataset.name, [file.record.sha256 for file in files])
    known = {source.record.sha256: source for source in seen if source.basis is None}
    basis = _basis(dataset, [file for file in files if file.record.sha256 not in known])
    return known | {one.record.sha256: one for one in seen if one.basis == basis}


def _basis(dataset: Dataset, files: list[SourceFile]) -> str:
    what = (dataset.basis, sorted(file.record.sha256 for file in files))
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()


def _skipped(known: dict[str, SeenSource]) -> list[Anomaly]:
    return [
        Anomaly(
            kind="repeated_source",
            severity="info",
            message=f"{source.record.path} was ingested before: not read again",
        )
        for source in known.values()
    ]


def _as_before(home: Home, dataset: Dataset, known: list[SeenSource]) -> IngestResult:
    """Returns the counts of the first time."""
    rows = find_ingests(home, dataset.name, ids=sorted({source.ingest for source in known}))
    last = max(rows, key=lambda row: row.created_at)
    reasons: dict[str, int] = {}
    for source in known:
        _add(reasons, source.reasons)
    return _result(
        dataset.name,
        sum((source.counts for source in known), Counts()),
        ingest=last.id,
        snapshot=last.snapshot,
        refused=next((row.refused for row in rows if row.refused), None),
        repeated=True,
        sources=tuple(source.record for source in known),
        reasons=reasons,
        anomalies=tuple(merge_anomalies(one for row in rows for one in row.anomalies)),
    )


# --- judge ---------------------------------------------------------------------------------


def _judge(
    home: Home, dataset: Dataset, files: list[SourceFile], folder: Path, progress: Progress
) -> Draft:
    """Returns the judged rows, all of them held if the batch is refused."""
    draft = _drifted(home, dataset, _read(home, dataset, files, folder, progress))
    if not draft.counts.received:
        raise InvalidInput(
            f"{files[0].name} has a header and no rows", remedy="Check how it was written."
        )
    refused = _refusal(dataset, draft) or _off_volume(home, dataset, draft)
    if refused and draft.counts.quarantined < draft.counts.received:
        hold_all = Rule(reason="batch_refused", text="the batch that a row came with is good")
        draft = _read(home, dataset, files, folder, progress, hold_all=hold_all)
    return replace(draft, refused=refused)


def _drifted(home: Home, dataset: Dataset, draft: Draft) -> Draft:
    """Returns the draft, refused if its rows have moved too far."""
    paths = [path for path, _ in draft.parts]
    return replace(draft, refused=drift_refusal(home, dataset, paths))


def _read(
    home: Home,
    dataset: Dataset,
    files: list[SourceFile],
    folder: Path,
    progress: Progress,
    *,
    hold_all: Rule | None = None,
) -> Draft:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    total = sum(file.record.bytes for file in files)
    gate = Gate(
        dataset, folder, _ingest_id(dataset, files), earlier(home, dataset), hold_all=hold_all
    )
    try:
        before = 0
        for file in files:
            for batch in read(file, dataset.options, _offset(progress, before, total)):
                gate.admit(file, batch)
            before += file.record.bytes
    except BaseException:
        gate.abandon()
        raise
    return gate.close()


def _refusal(dataset: Dataset, draft: Draft) -> str | None:
    """Returns why the batch must not become a snapshot, and what to do."""
    missing = [one.column for one in draft.anomalies if one.kind == "SCHEMA_MISSING_COLUMN"]
    if missing:
        return (
            f"column {', '.join(str(name) for name in missing)} of dataset {dataset.name!r} is "
            "missing. Write the file with it, or ingest it into a new dataset."
        )
    counts, most = draft.counts, dataset.options.max_bad_fraction
    if counts.quarantined <= most * counts.received:
        return draft.refused
    groups = [group for tally in draft.tallies.values() for group in tally.groups("", held_at=0)]
    bad = sorted((one for one in groups if one.kind == "quarantined"), key=lambda one: -one.rows)
    worst = ", ".join(f"{one.rows} {one.reason}: {one.rule}" for one in bad[:3])
    return (
        f"{counts.quarantined} of {counts.received} rows are bad ({worst}), more than "
        f"max_bad_fraction {most:g}. Correct the file, the schema or max_bad_fraction, and ingest "
        "it again."
    )


def _off_volume(home: Home, dataset: Dataset, draft: Draft) -> str | None:
    schema = dataset.schema or dataset.declared
    if schema is None or schema.dataset is None:
        return None
    batches = [one.counts.received for one in batches_of(home, dataset.name)]
    return off_volume(schema.dataset, draft.counts.received, batches)


def _ingest_id(dataset: Dataset, files: list[SourceFile]) -> str:
    what = (dataset.name, dataset.revision, dataset.basis, [file.record.sha256 for file in files])
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:32]


# --- keep and commit -----------------------------------------------------------------------


def _commit(
    home: Home,
    dataset: Dataset,
    files: list[SourceFile],
    draft: Draft,
    notes: list[Anomaly],
) -> IngestResult:
    """Makes the draft durable, then visible.

    Raises:
        MovedError: the dataset changed since it was read; nothing became visible.
    """
    at = home.clock.now()
    schema = draft.schema if draft.parts else None
    records = tuple(file.record for file in files)
    snapshot = keep_snapshot(home, dataset, records, draft, schema) if schema else None
    held_key = keep(home, draft.held, "parquet") if draft.held else None
    anomalies = tuple(merge_anomalies((*notes, *_without_rows(files, draft), *draft.anomalies)))
    row = IngestRow(
        id=_ingest_id(dataset, files),
        dataset=dataset.name,
        snapshot=snapshot.id if snapshot else None,
        refused=draft.refused,
        held_key=held_key,
        anomalies=anomalies,
        created_at=at,
    )
    basis = _basis(dataset, files) if draft.refused else None
    with home.store.write(TABLES) as conn:
        save_dataset(conn, advanced(dataset, draft, snapshot), at=at)
        save_ingest(conn, row, [_seen(file, draft, row, basis) for file in files])
        if snapshot:
            save_snapshot(conn, snapshot)
    reasons: dict[str, int] = {}
    for tally in draft.tallies.values():
        _add(reasons, tally.reasons)
    return _result(
        dataset.name,
        draft.counts,
        ingest=row.id,
        snapshot=row.snapshot,
        refused=draft.refused,
        repeated=False,
        sources=tuple(file.record for file in files),
        reasons=reasons,
        anomalies=anomalies,
    )


def _without_rows(files: list[SourceFile], draft: Draft) -> list[Anomaly]:
    return [
        Anomaly(kind="NO_DATA_IN_SPAN", message=f"{file.record.path} has a header and no rows")
        for file in files
        if not draft.tallies[file.record.sha256].counts.received
    ]


def _seen(file: SourceFile, draft: Draft, row: IngestRow, basis: str | None) -> SeenSource:
    tally = draft.tallies[file.record.sha256]
    return SeenSource(
        record=file.record,
        ingest=row.id,
        counts=tally.counts,
        reasons=tally.reasons,
        groups=tally.groups(row.id, held_at=row.created_at),
        basis=basis,
    )


def _result(
    name: str,
    counts: Counts,
    *,
    ingest: str,
    snapshot: str | None,
    refused: str | None,
    repeated: bool,
    sources: tuple[SourceRecord, ...],
    reasons: dict[str, int],
    anomalies: tuple[Anomaly, ...],
) -> IngestResult:
    return IngestResult(
        dataset=name,
        received=counts.received,
        accepted=counts.accepted,
        quarantined=counts.quarantined,
        duplicate=counts.duplicate,
        late=counts.late,
        snapshot=snapshot,
        repeated=repeated,
        refused=refused,
        sources=sources,
        reasons=dict(sorted(reasons.items())),
        anomalies=anomalies,
        ingest=ingest,
    )


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for reason, rows in more.items():
        total[reason] = total.get(reason, 0) + rows


def _offset(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _after(progress: Progress, brought: int) -> Progress:
    return lambda done, total: progress(brought + done, brought + total)


def _silent(_done: int, _total: int) -> None: ...
