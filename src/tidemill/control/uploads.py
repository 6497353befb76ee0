"""What becomes of an upload: who may begin one, and its ingest, once, however often it is tried.

The ingest is ``tidemill ingest``'s own, which finds by its content a file that it took before. So
a process that dies anywhere in between costs nothing but the time to do it again; the audit has
one row for each upload whose rows came in, that failed, or that was removed before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from tidemill.control import audit
from tidemill.data.catalog import find_dataset, find_sources, list_datasets
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
        The upload; not finished if the ingest could not be done now and may be later, or if
        another process does it.

    Raises:
        NotFound: there is no such upload.
    """
    uploads = Uploads(home)
    if (upload := uploads.find(dataset, name)).state != "received":
        return upload
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(uploads.at_work(upload))
        except Conflict:
            return upload
        if (upload := uploads.find(dataset, name)).state != "received":
            return upload
        try:
            return _settled(home, uploads, upload)
        except _MAY_PASS as error:
            return _put_off(home, uploads, upload, error)
        except OSError as error:
            failed = Unavailable(f"the ingest failed: {error.strerror or error}")
            return _put_off(home, uploads, upload, failed)


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
    if upload.deaths + 1 >= MAX_DEATHS:
        return _give_up(home, uploads, upload, Problem.of(lost), deaths=upload.deaths + 1)
    return uploads.changed(upload, deaths=upload.deaths + 1, problem=Problem.of(lost))


def cancel(home: Home, dataset: str, name: str, *, by: str) -> Upload:
    """Removes an upload of which no row has come in, or what is known of one that is over.

    Returns:
        What it was.

    Raises:
        NotFound: there is none of that name.
        Conflict: it is being ingested at this moment, or its rows are in.
    """
    uploads = Uploads(home)
    upload = uploads.find(dataset, name)
    if upload.state != "received":
        return _removed(home, uploads, upload, by=by)
    with uploads.at_work(upload):
        upload = uploads.find(dataset, name)
        if upload.state == "received":
            _check_not_in(home, uploads, upload)
        return _removed(home, uploads, upload, by=by)


def _removed(home: Home, uploads: Uploads, upload: Upload, *, by: str) -> Upload:
    if not upload.finished:
        detail: dict[str, object] = {"bytes": upload.offset, "state": upload.state}
        detail["tries"] = upload.tries
        _audit(home, upload, "upload-cancel", by=by, detail=detail)
    uploads.forget(upload)
    return upload


def _check_not_in(home: Home, uploads: Uploads, upload: Upload) -> None:
    """Checks that no process that was killed has brought the rows in, and just not said so."""
    path = uploads.data_path(upload)
    if path.exists() and find_sources(home, upload.dataset, [sha256_file(path)]):
        raise Conflict(
            f"the rows of upload {upload.upload!r} are in dataset {upload.dataset!r}",
            remedy="Ask what became of it in a moment.",
        )


def _settled(home: Home, uploads: Uploads, upload: Upload) -> Upload:
    try:
        result = _ingest(home, uploads, upload)
    except _MAY_PASS:
        raise
    except TidemillError as error:
        failed = _give_up(home, uploads, upload, _problem(home, uploads, upload, error))
        uploads.remove_data(failed)
        return failed
    _write_audit(home, upload, result)
    state = "refused" if result.refused else "done"
    done = uploads.changed(upload, state=state, result=result, problem=None)
    uploads.remove_data(done)
    return done


def _put_off(home: Home, uploads: Uploads, upload: Upload, error: TidemillError) -> Upload:
    """Keeps why an ingest could not be done; the last time, it is given up, its bytes in place."""
    tries, most = upload.tries + 1, uploads.settings.max_tries
    problem = _problem(home, uploads, upload, error)
    if tries >= most:
        what = f"{problem.what.rstrip('.')} (tried {tries} times, as uploads.max_tries allows)"
        problem = msgspec.structs.replace(problem, what=what)
        with contextlib.suppress(*_MAY_PASS):  # what cannot be in the audit has not happened
            return _give_up(home, uploads, upload, problem, tries=tries)
    return uploads.changed(upload, tries=tries, problem=problem)


def _give_up(
    home: Home, uploads: Uploads, upload: Upload, problem: Problem, **fields: int
) -> Upload:
    detail = {"file": upload.terms.file, "bytes": upload.offset, "problem": problem, **fields}
    _audit(home, upload, "upload-fail", by=upload.terms.by, detail=detail)
    return uploads.changed(upload, state="failed", problem=problem, **fields)


def _problem(home: Home, uploads: Uploads, upload: Upload, error: TidemillError) -> Problem:
    """Returns an error without places of this machine, which are no business of who sent it."""
    places = {f"{uploads.folder(upload)}/": "", str(home.path): "HOME"}

    def without(text: str) -> str:
        for place, name in places.items():
            text = text.replace(place, name)
        return text

    problem = Problem.of(error)
    return msgspec.structs.replace(
        problem, what=without(problem.what), remedy=without(problem.remedy)
    )


def _ingest(home: Home, uploads: Uploads, upload: Upload) -> IngestResult:
    from tidemill.data.sources import NamedFile  # noqa: PLC0415 - it and the next bring Arrow
    from tidemill.recipes.intake import IngestOptions, take  # noqa: PLC0415

    path, terms = uploads.data_path(upload), upload.terms
    if not path.exists():
        raise InvalidInput("no byte was sent", remedy="Send the file again.")
    if terms.sha256 is not None and (found := sha256_file(path)) != terms.sha256:
        raise InvalidInput(
            f"the upload has the sha256 {found}, and was said to have {terms.sha256}",
            remedy="Send the file again, under another name of the upload.",
        )
    options = IngestOptions(
        key=terms.key,
        time=terms.time,
        lateness_s=terms.lateness_s,
        delimiter=terms.delimiter,
        encoding=terms.encoding,
    )
    progress = _telling(home, uploads, upload)
    named = NamedFile(path=path, name=f"upload:{upload.dataset}/{upload.upload}/{terms.file}")
    return take(home, upload.dataset, [named], options, progress=progress)


def _telling(home: Home, uploads: Uploads, upload: Upload) -> Callable[[int, int], None]:
    told = [home.clock.monotonic()]

    def progress(done: int, _total: int) -> None:
        now = home.clock.monotonic()
        if now - told[0] >= _TELL_EVERY_S:
            told[0] = now
            uploads.note_progress(upload, done)

    return progress


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
