"""What the operations of the query port answer, as records: the OpenAPI document is made of them.

Nothing is written through them on the way of a query; tests hold the answers to what they say.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from tidemill.serving.labels import RefusedLabel
from tidemill.serving.query import Source
from tidemill.serving.tensors import DATATYPES, MAX_ROWS

Datatype = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(DATATYPES)})]
Count = Annotated[int, msgspec.Meta(ge=0)]
Sizes = list[Annotated[int, msgspec.Meta(ge=-1)]]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all answers have in common: they have these fields, and no others."""


class Error(_Record, frozen=True, kw_only=True):
    """Why there is no answer: what happened, to which thing, and what to do about it."""

    error: str


class Server(_Record, frozen=True, kw_only=True):
    """What answers here."""

    name: str
    version: str
    extensions: list[str]


class Live(_Record, frozen=True, kw_only=True):
    """The process answers."""

    live: bool


class Ready(_Record, frozen=True, kw_only=True):
    """Something is live."""

    live: bool
    ready: bool


class Models(_Record, frozen=True, kw_only=True):
    """The names of the applications that the sender's key is for."""

    models: list[str]


class TensorMetadata(_Record, frozen=True, kw_only=True):
    """One input or output; -1 stands for the rows."""

    name: str
    datatype: Datatype
    shape: Sizes


class Model(_Record, frozen=True, kw_only=True):
    """What an application takes and gives, and which versions answer."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(_Record, frozen=True, kw_only=True):
    """The application, or the version, answers."""

    name: str
    ready: bool


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How an application is served, in the words of Triton's configuration."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]


class Duration(_Record, frozen=True, kw_only=True):
    """How often, and how long in all."""

    count: Count
    ns: Count


class InferStatistics(_Record, frozen=True, kw_only=True):
    """Where the time of the queries went."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(_Record, frozen=True, kw_only=True):
    """The batches of one size."""

    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(_Record, frozen=True, kw_only=True):
    """What was counted of one version since it was loaded."""

    name: str
    version: str
    last_inference: Count
    inference_count: Count
    execution_count: Count
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class Statistics(_Record, frozen=True, kw_only=True):
    """Statistics over all gateways."""

    model_stats: list[ModelStatistics]


class AnswerParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer came from; labels carry its ``prediction_id``."""

    prediction_id: str
    source: Source | Literal["mixed"]
    version: int
    sources: str | msgspec.UnsetType = msgspec.UNSET


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One output: its elements row by row, or how many bytes of them follow the JSON."""

    name: str
    datatype: Datatype
    shape: Sizes
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class InferAnswer(_Record, frozen=True, kw_only=True):
    """The answer to a v2 inference request."""

    model_name: str
    model_version: str
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: AnswerParameters
    outputs: list[OutputTensor]


class PredictAnswer(_Record, frozen=True, kw_only=True):
    """The answer to a v1 prediction request: one entry for each instance."""

    predictions: Annotated[list[Any], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]
    prediction_ids: list[str]
    model_version: str
    sources: list[Source]


class IndexEntry(_Record, frozen=True, kw_only=True):
    """One model of the repository, and why it does not answer if it does not."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


class LabelsTaken(_Record, frozen=True, kw_only=True):
    """How many labels are on disk, and which are not taken."""

    accepted: Count
    refused: list[RefusedLabel] | msgspec.UnsetType = msgspec.UNSET


ANSWERS: dict[str, Any] = {
    **{
        kind.__name__: kind
        for kind in (
            *(Error, Server, Live, Ready, Models, Model, ModelReady, ModelConfig, Statistics),
            *(InferAnswer, PredictAnswer, LabelsTaken),
        )
    },
    "Index": list[IndexEntry],
    "Metrics": str,
    "OpenApi": dict[str, Any],
}
"""By the name that an operation's ``gives`` has: what the answer is."""
