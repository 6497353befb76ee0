"""What becomes of an upload: who may begin one, and its ingest, once, however often it is tried.

The ingest is ``tidemill ingest``'s own, which finds by its content a file that it took before. So
a process that dies anywhere in between costs nothing but the time to do it again; the audit has
one row for each upload whose rows came in.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tidemill.control import audit
from tidemill.data.catalog import find_dataset, list_datasets
from tidemill.data.records import IngestResult
from tidemill.data.upload_records import Problem, Upload
from tidemill.data.uploads import Uploads
from tidemill.foundation.durable import sha256_file
from tidemill.foundation.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    NotReady,
    TidemillError,
    Unavailable,
    WorkerLost,
)
from tidemill.foundation.home import Home

MAX_DEATHS = 3
"""How often a file may take the process down that ingests it, before it is given up."""

_MAY_PASS = (Unavailable, NotReady)
_TELL_EVERY_S = 0.5


def check_dataset(home: Home, name: str, *, create: bool) -> None:
    """Checks that a dataset is there, or declared by a recipe, or wanted.

    Raises:
        NotFound: it is none of these.
    """
    declared = {table.get("dataset") for table in home.settings.recipes.values()}
    if create or name in declared or find_dataset(home, name).revision:
        return
    known = sorted({each.name for each in list_datasets(home)[:20]} | {str(d) for d in declared})
    raise NotFound(
        f"dataset {name!r} does not exist",
        remedy=f"Known: {', '.join(known[:20]) or 'none'}. To make it, ask with create=true.",
    )


def settle(home: Home, dataset: str, name: str) -> Upload:
    """Ingests an upload that is whole, and keeps what became of it.

    Returns:
        The upload; not finished if the ingest could not be done now and may be later.

    Raises:
        NotFound: there is no such upload.
    """
    uploads = Uploads(home)
    upload = uploads.find(dataset, name)
    if upload.state != "received":
        return upload
    try:
        result = _ingest(home, uploads, upload)
        _write_audit(home, upload, result)
    except _MAY_PASS as error:
        return uploads.changed(upload, problem=Problem.of(error))
    except OSError as error:
        failed = Unavailable(f"the ingest failed: {error.strerror or error}")
        return uploads.changed(upload, problem=Problem.of(failed))
    except TidemillError as error:
        return _failed(uploads, upload, error)
    state = "refused" if result.refused else "done"
    done = uploads.changed(upload, state=state, result=result, problem=None)
    uploads.remove_data(done)
    return done


def note_death(home: Home, dataset: str, name: str) -> Upload:
    """Keeps that the process which ingested an upload ended before it was done.

    A file that does so again and again is given up, and left where it is for whoever looks.
    """
    uploads = Uploads(home)
    upload = uploads.find(dataset, name)
    if upload.state != "received":
        return upload
    lost = WorkerLost(
        f"the process that ingested {upload.terms.file} ended before it was done, "
        f"{upload.deaths + 1} times",
        remedy="See the log of the server, and its memory; then send the file in smaller ones.",
    )
    given_up = upload.deaths + 1 >= MAX_DEATHS
    return uploads.changed(
        upload,
        deaths=upload.deaths + 1,
        problem=Problem.of(lost),
        state="failed" if given_up else "received",
    )


def cancel(home: Home, dataset: str, name: str, *, by: str) -> Upload:
    """Removes an upload that is not being ingested, and returns what it was.

    Raises:
        NotFound: there is none of that name.
        Conflict: all of it is here, and its rows are on their way in.
    """
    uploads = Uploads(home)
    upload = uploads.find(dataset, name)
    if upload.state == "received":
        raise Conflict(
            f"upload {name!r} is whole, and is being ingested",
            remedy="Ask what became of it; held rows are discarded by tidemill quarantine discard.",
        )
    if not upload.finished:
        _audit(home, upload, "upload-cancel", by=by, detail={"bytes": upload.offset})
    uploads.forget(upload)
    return upload


def _ingest(home: Home, uploads: Uploads, upload: Upload) -> IngestResult:
    from tidemill.recipes.intake import IngestOptions, take  # noqa: PLC0415 - brings Arrow with it

    path, terms = uploads.data_path(upload), upload.terms
    if not path.exists():
        raise InvalidInput("no byte was sent", remedy="Send the file again.")
    if terms.sha256 is not None and (found := sha256_file(path)) != terms.sha256:
        raise InvalidInput(
            f"the upload has the sha256 {found}, and was said to have {terms.sha256}",
            remedy="Send the file again, under another name of the upload.",
        )
    options = IngestOptions(key=terms.key, time=terms.time, lateness_s=terms.lateness_s)
    progress = _telling(home, uploads, upload)
    return take(home, upload.dataset, [path], options, progress=progress)


def _telling(home: Home, uploads: Uploads, upload: Upload) -> Callable[[int, int], None]:
    told = [home.clock.monotonic()]

    def progress(done: int, _total: int) -> None:
        now = home.clock.monotonic()
        if now - told[0] >= _TELL_EVERY_S:
            told[0] = now
            uploads.note_progress(upload, done)

    return progress


def _failed(uploads: Uploads, upload: Upload, error: TidemillError) -> Upload:
    folder = f"{uploads.folder(upload)}/"  # where it lies is no business of who sent it
    problem = Problem(
        kind=type(error).__name__,
        what=error.what.replace(folder, ""),
        remedy=error.remedy.replace(folder, ""),
    )
    failed = uploads.changed(upload, state="failed", problem=problem)
    uploads.remove_data(failed)
    return failed


def _write_audit(home: Home, upload: Upload, result: IngestResult) -> None:
    counts = {
        name: getattr(result, name)
        for name in ("received", "accepted", "quarantined", "duplicate", "late")
    }
    detail = {
        "file": upload.terms.file,
        "bytes": upload.offset,
        "sha256": result.sources[0].sha256,
        "ingest": result.ingest,
        "snapshot": result.snapshot,
        "repeated": result.repeated,
        "refused": result.refused,
        **counts,
    }
    _audit(home, upload, "upload", by=upload.terms.by, detail=detail)


def _audit(home: Home, upload: Upload, verb: str, *, by: str, detail: dict[str, object]) -> None:
    """Writes the one row about an upload, unless it is there."""
    subject = f"upload {upload.dataset}/{upload.upload}"
    detail = {"begun_at": upload.created_at, **detail}
    for row in audit.read_audit(home.store, subject=subject):
        if row.detail.get("begun_at") == upload.created_at:
            return
    with home.store.write(audit.TABLES) as conn:
        audit.write_audit(
            conn,
            at=home.clock.now(),
            by=by,
            verb=verb,
            subject=subject,
            reason="sent through the admin API",
            detail=msgspec.to_builtins(detail),
        )
