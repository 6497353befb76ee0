"""What a request says of an upload, read from its query and its headers.

The headers are those of the IETF's resumable uploads (``Upload-Offset``, ``Upload-Complete``,
``Upload-Length``) and of RFC 9530 (``Content-Digest``, ``Repr-Digest``).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
from starlette.requests import Request

from tidemill.data.text_options import decoder_of, delimiter_of
from tidemill.data.upload_records import UploadTerms
from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.foundation.names import new_id

FORMS: dict[str, str] = {
    "text/csv": ".csv",
    "application/vnd.apache.parquet": ".parquet",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/vnd.apache.arrow.file": ".arrow",
    "application/vnd.apache.arrow.stream": ".arrows",
    "application/avro": ".avro",
    "application/octet-stream": "",
}
"""The media types of a body, with the ending of such a file's name; the last says nothing."""

MAX_WAIT_S = 60
WAIT_S = 10
"""How long an answer waits for the ingest, where nobody says."""

PARAMETERS = {
    "upload": "The name of the upload, by which it goes on; without one it is sent at once.",
    "file": "What the file is called; its ending may say its form.",
    "key": "Columns that name a row, with commas, as of tidemill ingest.",
    "time": "The column of a row's event time.",
    "lateness_s": "Rows older than the newest by more are held as late.",
    "delimiter": "The sign between CSV fields; \\t is a tab.",
    "encoding": "Of CSV text, as Python names it.",
    "create": "true: the dataset may be new.",
    "wait_s": f"How long the answer waits for the ingest, 0 to {MAX_WAIT_S}; else {WAIT_S}.",
}
PIECE_HEADERS = {
    "Upload-Offset": "Where the piece begins; 0 if it is left out.",
    "Upload-Complete": "?0 if more pieces come; ?1, or none, if this is the last.",
    "Upload-Length": "How many bytes the whole has.",
    "Content-Digest": "sha-256=:BASE64: of the piece.",
    "Repr-Digest": "sha-256=:BASE64: of the whole.",
}

_DIGEST = re.compile(r"\s*sha-256=:([A-Za-z0-9+/=]{44}):\s*\Z")
_TRUE = ("true", "1")


class UploadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One piece, as its sender announces it.

    Attributes:
        dataset: where the rows go.
        upload: the name of the upload.
        terms: of the whole.
        offset: where the piece begins.
        last: whether the upload is whole with it.
        size: how long the piece is; None where it does not say.
        sha256: of the piece alone; None where it does not say.
        create: whether the dataset may be new.
        wait_s: how long the answer waits for the ingest.
    """

    dataset: str
    upload: str
    terms: UploadTerms
    offset: int
    last: bool
    size: int | None
    sha256: str | None
    create: bool
    wait_s: int


def read_request(request: Request, *, by: str) -> UploadRequest:
    """Returns what a request says of its piece.

    Raises:
        InvalidInput: a header or a parameter is wrong, or is none.
        TooLarge: a number is.
    """
    query, headers = request.query_params, request.headers
    _check_known(query)
    if headers.get("content-encoding", "identity") != "identity":
        raise InvalidInput(
            f"the Content-Encoding is {headers['content-encoding'][:40]!r}",
            remedy="Send a .gz file as it is, without that header.",
        )
    offset = _number(headers, "upload-offset") or 0
    length, size = _number(headers, "upload-length"), _number(headers, "content-length")
    last = _flag(headers, "upload-complete")
    if not last and not query.get("upload"):
        raise InvalidInput(
            "Upload-Complete is ?0, and the upload has no name",
            remedy="Add upload=NAME, by which its next piece can go on.",
        )
    if last and length is None and size is not None:
        length = offset + size  # a body that is cut is not the whole then
    terms = UploadTerms(
        file=_file(query.get("file"), headers.get("content-type")),
        key=_columns(query.get("key")),
        time=query.get("time") or None,
        lateness_s=_seconds(query.get("lateness_s")),
        delimiter=_delimiter(query.get("delimiter")),
        encoding=_encoding(query.get("encoding")),
        length=length,
        sha256=_digest(headers, "repr-digest"),
        named=bool(query.get("upload")),
        by=by,
    )
    return UploadRequest(
        dataset=request.path_params["name"],
        upload=query.get("upload") or new_id(),
        terms=terms,
        offset=offset,
        last=last,
        size=size,
        sha256=_digest(headers, "content-digest"),
        create=query.get("create", "").lower() in _TRUE,
        wait_s=_wait(query.get("wait_s")),
    )


def _check_known(query: Mapping[str, Any]) -> None:
    for name in query:
        if name not in PARAMETERS:
            raise InvalidInput(
                f"{name[:40]!r} is no parameter", remedy=f"Known: {', '.join(PARAMETERS)}."
            )


def _file(said: str | None, media: str | None) -> str:
    """Returns what the file is called: with the ending of its form, if either says one."""
    kind = (media or "application/octet-stream").partition(";")[0].strip().lower()
    if kind not in FORMS:
        raise InvalidInput(
            f"the Content-Type is {kind[:100]!r}", remedy=f"Known: {', '.join(FORMS)}."
        )
    suffix = FORMS[kind]
    if said is None:
        return f"data{suffix}"
    endings = {each for each in PurePath(said.lower()).suffixes if each in FORMS.values()}
    if suffix and endings and suffix not in endings:
        raise InvalidInput(
            f"file {said[:100]!r} does not end as {kind} does, with {suffix}",
            remedy="Say one of them, or both alike.",
        )
    return said if endings or not suffix else said + suffix


def _columns(said: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in said.split(",")) if said else None


def _delimiter(said: str | None) -> str | None:
    return delimiter_of(said) if said else None


def _encoding(said: str | None) -> str | None:
    if said:
        decoder_of(said)
    return said or None


def _seconds(said: str | None) -> float | None:
    if said is None:
        return None
    try:
        value = float(said)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e12:
        raise InvalidInput(f"lateness_s is {said[:40]!r}", remedy="Give a number of seconds.")
    return value


def _wait(said: str | None) -> int:
    if said is None:
        return WAIT_S
    if not (said.isascii() and said.isdigit() and len(said) < 9 and int(said) <= MAX_WAIT_S):
        raise InvalidInput(f"wait_s is {said[:40]!r}", remedy=f"Give seconds, 0 to {MAX_WAIT_S}.")
    return int(said)


def _number(headers: Mapping[str, str], name: str) -> int | None:
    said = headers.get(name)
    if said is None:
        return None
    if not (said.isascii() and said.isdigit()):
        raise InvalidInput(f"{name.title()} is {said[:40]!r}", remedy="Give a number of bytes.")
    if len(said) > 15:
        raise TooLarge(f"{name.title()} is {said[:40]}", remedy="Send the file in parts.")
    return int(said)


def _flag(headers: Mapping[str, str], name: str) -> bool:
    said = headers.get(name, "?1").strip()
    if said not in ("?0", "?1"):
        raise InvalidInput(
            f"{name.title()} is {said[:40]!r}", remedy="Write ?1 for the last piece, else ?0."
        )
    return said == "?1"


def _digest(headers: Mapping[str, str], name: str) -> str | None:
    said = headers.get(name)
    if said is None:
        return None
    found = _DIGEST.match(said)
    try:
        digest = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise InvalidInput(
            f"{name.title()} is {said[:80]!r}", remedy="Write sha-256=:BASE64:, of 32 bytes."
        )
    return digest.hex()
