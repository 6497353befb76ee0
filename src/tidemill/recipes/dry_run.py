"""A dry run: a model is packaged and opened as it would be served, asked once, and nothing is kept.

A real server is started on the model alone. What it is asked is read first as the server would read
it, so that a wrong input is told from a wrong model.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import InvalidInput, ModelFailed, NotFound, TooLarge, WorkerLost
from tidemill.foundation.home import Home
from tidemill.models.environments import Environment, Say, environments_path
from tidemill.models.format import read_manifest, verify_model
from tidemill.models.registry import Registry
from tidemill.models.runtime import check_model
from tidemill.models.signature import Batch, Signature, check_batch
from tidemill.recipes.isolated import restore_environment
from tidemill.recipes.push import Source, check_trust, packaged, read_sample, said_equal
from tidemill.recipes.steps.infra import candidate_server
from tidemill.serving import wire
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import ServingPlan
from tidemill.serving.tensors import MAX_ROWS
from tidemill_worker.warmup import synthetic_row

ROW_REPEATS = 20
BATCH_REPEATS = 5
BATCH_ROWS = 32
_ANSWERS_WITHIN_S = 60.0
_MAX_INPUT_BYTES = 8 << 20


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """How a model answered, and how it would be served; ``version`` is None for a file."""

    name: str
    version: int | None
    runtime: str
    placement: str
    compiled: bool
    verified: str | None
    reason: str | None
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    made_up: bool
    rows: int
    answers: list[Any]
    row_ms: float
    batch_rows: int
    batch_ms: float
    environment: Environment | None = None


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """What a dry run asks: a request's body, or rows from a file; a made-up row if neither."""

    body: bytes | None = None
    sample: Path | None = None


def read_input(told: str) -> bytes:
    """Reads what is to be asked: JSON itself, or the path of a file that holds it.

    A list alone stands for v1's ``{"instances": [...]}``.

    Raises:
        NotFound: there is no such file.
        TooLarge: it has more bytes than a server takes.
    """
    text = told.lstrip()
    data = told.encode() if text[:1] in ("{", "[") else _file(told)
    if data.lstrip().startswith(b"["):
        data = b'{"instances": ' + data + b"}"
    return data


def try_file(
    home: Home,
    source: Source,
    asking: Asking,
    *,
    trust_code: bool = False,
    say: Say = lambda _: None,
) -> DryRun:
    """Packages a file as ``push`` would, serves it privately, and asks it.

    Raises:
        InvalidModel: it cannot be packaged, or must not be opened.
        NotTrusted: it brings code and nobody vouched for it.
        InvalidInput: the input does not fit what the model takes.
        NotBlessed: a server on it does not start.
        ModelFailed: the model does not answer.
    """
    with packaged(home, source, trust_code=trust_code, say=say) as (folder, environment):
        manifest = read_manifest(folder)
        check_trust(manifest, trust_code=trust_code)
        verify_model(folder, manifest)
        check_model(folder, manifest)
        return _run(home, folder, None, asking, environment)


def try_version(
    home: Home, name: str, version: int, asking: Asking, *, say: Say = lambda _: None
) -> DryRun:
    """Serves a registered version privately, whether or not it is live, and asks it.

    Raises:
        NotFound: there is no such version.
        TidemillError: as ``try_file``.
    """
    folder = Registry(home).fetch(name, version)
    environment = restore_environment(home, folder, say=say)
    return _run(home, folder, version, asking, environment)


def _run(
    home: Home,
    folder: Path,
    version: int | None,
    asking: Asking,
    environment: Environment | None,
) -> DryRun:
    manifest = read_manifest(folder)
    batch = _rows(asking, manifest.signature)
    instances = _instances(batch)
    environments = environments_path(home.cache_path)
    with candidate_server(folder, manifest.name, environments=environments) as port:
        server = _Server(port, manifest.name, home.clock)
        with server.connected():
            answers, _ = server.ask(instances, 1)
            _, row_s = server.ask(instances[:1], ROW_REPEATS)
            many = (instances * (BATCH_ROWS // len(instances) + 1))[:BATCH_ROWS]
            _, batch_s = server.ask(many, BATCH_REPEATS)
    report = manifest.compiled_from
    return DryRun(
        name=manifest.name,
        version=version,
        runtime=manifest.runtime,
        placement=decide_placement(ServingPlan(), manifest),
        compiled=report is not None and report.equal,
        verified=said_equal(manifest),
        reason=None if report is None else report.reason,
        inputs=wire.describe(manifest.signature.inputs),
        outputs=wire.describe(manifest.signature.outputs),
        made_up=asking.body is None and asking.sample is None,
        rows=len(instances),
        answers=answers,
        row_ms=row_s * 1000,
        batch_rows=len(many),
        batch_ms=batch_s * 1000,
        environment=environment,
    )


def _rows(asking: Asking, signature: Signature) -> Batch:
    """Returns what is to be asked as arrays, read as a server reads it."""
    if asking.body is None:
        if asking.sample is None:
            return synthetic_row(signature.inputs)
        rows = check_batch(signature, read_sample(asking.sample, signature))
        return {name: array[:MAX_ROWS] for name, array in rows.items()}
    try:
        keys = msgspec.json.decode(asking.body, type=dict[str, msgspec.Raw]).keys()
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"the input is no JSON object: {error}",
            remedy='Give a request\'s body: {"instances": [...]}, or {"inputs": [...]}.',
        ) from error
    if "inputs" in keys:
        return wire.read_infer(asking.body, None, signature)[1]
    return wire.read_predict(asking.body, signature)[1]


def _instances(batch: Batch) -> list[dict[str, Any]]:
    lists = [(name, np.asarray(array).tolist()) for name, array in batch.items()]
    rows = zip(*(values for _, values in lists), strict=True)
    return [dict(zip((name for name, _ in lists), row, strict=True)) for row in rows]


class _Server:
    """One connection to the private server."""

    def __init__(self, port: int, name: str, clock: Clock) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWERS_WITHIN_S)
        self._path = f"/v1/models/{name}:predict"
        self._clock = clock

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Closes the connection in the end, and names a lost server as such."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise WorkerLost(
                f"the private server was lost while it was asked: {error!r}",
                remedy="The model may have ended its process; serve it by hand and read its log.",
            ) from error
        finally:
            self._connection.close()

    def ask(self, instances: Sequence[Any], repeats: int) -> tuple[list[Any], float]:
        """Asks for these rows so many times; returns the answers and the median seconds."""
        body = json.dumps({"instances": instances}).encode()
        times: list[float] = []
        answers: list[Any] = []
        for _ in range(repeats):
            began = self._clock.monotonic()
            answers = self._answers(body)
            times.append(self._clock.monotonic() - began)
        return answers, float(np.median(times))

    def _answers(self, body: bytes) -> list[Any]:
        self._connection.request("POST", self._path, body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        said = json.loads(response.read())
        if response.status == 200:
            answers: list[Any] = said["predictions"]
            return answers
        if response.status < 500:
            raise InvalidInput(f"the input is refused: {said['error']}")
        raise ModelFailed(
            f"the model does not answer: {said['error']}",
            remedy="Compare the input with what the model was trained on.",
        )


def _file(told: str) -> bytes:
    try:
        with Path(told).open("rb") as file:
            data = file.read(_MAX_INPUT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"the input's file {told[:200]!r} cannot be read: {error}",
            remedy="Give a file, or the JSON itself.",
        ) from error
    if len(data) > _MAX_INPUT_BYTES:
        raise TooLarge(f"{told[:200]!r} has over {_MAX_INPUT_BYTES} bytes", remedy="Ask for less.")
    return data
