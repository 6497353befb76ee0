"""InfraValidator: a real server is started on the candidate, asked, and must answer as it does."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import NotBlessed, WorkerLost
from tidemill.models.format import read_manifest
from tidemill.models.runtime import open_runtime
from tidemill.recipes.private_server import private_server
from tidemill.recipes.steps.examples import EVALUATION
from tidemill.serving.live import CandidateFile
from tidemill.serving.plan import Deployment, Live, ServingPlan
from tidemill.training.examples import feature_batch

QUERIES = 64
BATCH = 32
TOLERANCE = 1e-6


class InfraReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the server was asked, and how its answers differ from the model's own."""

    queries: int
    rows: int
    max_difference: float
    started_in_s: float
    p50_ms: float
    p99_ms: float


def infra_validator(model: Path, examples: Path) -> InfraReport:
    """Starts a server on the candidate alone, queries it with evaluation rows, compares.

    Raises:
        NotBlessed: the server does not start, refuses a row, or answers otherwise than the model.
        WorkerLost: the server was killed, or fell silent while it was asked.
    """
    manifest = read_manifest(model)
    table = pq.read_table(examples / EVALUATION).slice(0, QUERIES + BATCH)
    rows = feature_batch(table, manifest.signature.inputs)
    expected = _ask_model(model, rows)
    began = SYSTEM_CLOCK.monotonic()
    with candidate_server(model, manifest.name) as port:
        started_in_s = SYSTEM_CLOCK.monotonic() - began
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            answers, times = _ask_server(connection, manifest.name, rows, table.num_rows)
        except (OSError, http.client.HTTPException) as error:
            raise WorkerLost(
                f"a server on the candidate was lost while it was asked: {error!r}",
                remedy="Serve the model by hand and read its log.",
            ) from error
        finally:
            connection.close()
    return InfraReport(
        queries=len(times),
        rows=table.num_rows,
        max_difference=_difference(answers, expected),
        started_in_s=started_in_s,
        p50_ms=float(np.quantile(times, 0.5)) * 1000,
        p99_ms=float(np.quantile(times, 0.99)) * 1000,
    )


@contextmanager
def candidate_server(model: Path, name: str, *, environments: Path | None = None) -> Iterator[int]:
    """Runs a server on one model folder while the block runs; gives its port.

    Args:
        model: the folder.
        name: the application's name.
        environments: where the environment of a model with requirements has been built.

    Raises:
        NotBlessed: it ends, or is not ready within a minute; its last words are told.
        WorkerLost: somebody killed it.
    """
    deployment = Deployment(
        application=name,
        revision=1,
        versions=(Live(model=name, version=1),),
        slo_ms=30_000.0,
        plan=ServingPlan(cache_bytes=0),
    )
    document = CandidateFile(
        deployments=(deployment,),
        folders={f"{name}:1": str(model)},
        environments="" if environments is None else str(environments),
        trust_code=True,
    )
    with private_server(document) as server:
        yield server.port


def _ask_model(model: Path, rows: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    runtime = open_runtime(model, trust_code=True)
    try:
        return runtime.predict(rows)
    finally:
        runtime.close()


def _ask_server(
    connection: http.client.HTTPConnection, name: str, rows: dict[str, Any], n: int
) -> tuple[list[Any], list[float]]:
    """Asks single rows, then the rest as one batch; returns answers in order, and times."""
    lists = {column: array.tolist() for column, array in rows.items()}
    instances = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    singles = min(QUERIES, n)
    bodies = [instances[i : i + 1] for i in range(singles)]
    if n > singles:
        bodies.append(instances[singles:])
    answers: list[Any] = []
    times: list[float] = []
    for body in bodies:
        began = SYSTEM_CLOCK.monotonic()
        connection.request(
            "POST",
            f"/v1/models/{name}:predict",
            json.dumps({"instances": body}),
            {"content-type": "application/json"},
        )
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise NotBlessed(
                f"the server refused an evaluation row: {said.decode(errors='replace')[:500]}",
                remedy="The signature and the examples do not agree.",
            )
        times.append(SYSTEM_CLOCK.monotonic() - began)
        answers.extend(json.loads(said)["predictions"])
    return answers, times


def _difference(answers: list[Any], expected: dict[str, np.ndarray[Any, Any]]) -> float:
    """Returns the largest difference of any number; a label that differs is refused."""
    largest = 0.0
    for name, array in expected.items():
        got = [answer[name] if isinstance(answer, dict) else answer for answer in answers]
        if array.dtype.kind == "f":
            found = np.asarray(got, np.float64).reshape(array.shape)
            apart = np.where(np.isnan(found) & np.isnan(array), 0.0, np.abs(found - array))
            # One that is no number where the other is one is as far apart as can be.
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)))
        elif got != array.tolist():
            at = next(i for i, (a, b) in enumerate(zip(got, array.tolist(), strict=True)) if a != b)
            raise NotBlessed(
                f"row {at}: the server answers {name} = {got[at]!r}, the model {array[at]!r}",
                remedy="Do not deploy it: serving changes its answers.",
            )
    if largest > TOLERANCE:
        raise NotBlessed(
            f"the server's answers differ from the model's by {largest:g}",
            remedy="Do not deploy it: serving changes its answers.",
        )
    return largest
