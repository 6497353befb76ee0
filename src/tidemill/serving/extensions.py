"""Triton's extensions of the protocol: statistics, configuration, the model repository."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tidemill.foundation.errors import (
    InvalidInput,
    NotOffered,
    NotReady,
    Refused,
    TidemillError,
    Unavailable,
)
from tidemill.serving.application import Application
from tidemill.serving.exchange import Caller
from tidemill.serving.model_control import IndexRequest, read_load
from tidemill.serving.plan import CPU
from tidemill.serving.processor import Processor
from tidemill.serving.questions import Questions
from tidemill.serving.statistics import Tally, describe_tally
from tidemill.serving.tensors import datatype_of

STATISTICS_WITHIN_S = 3.0
CONTROL_WITHIN_S = 60.0


_index_decoder = msgspec.json.Decoder(IndexRequest)
_tallies_decoder = msgspec.json.Decoder(list[Tally])


class Extensions:
    """Answers what is not inference, and takes its time for it.

    Args:
        processor: knows what is live here.
        questions: asks the supervisor about all gateways.
        controls: whether clients may load and unload.
    """

    def __init__(self, processor: Processor, questions: Questions, *, controls: bool) -> None:
        self._processor = processor
        self._questions = questions
        self._controls = controls
        self._tasks: set[asyncio.Task[None]] = set()

    # Statistics and configuration

    def all_statistics(self, caller: Caller) -> None:
        """Gives the statistics of every live version."""
        self._later(caller, lambda: self._statistics(None, None))

    def statistics(self, caller: Caller, name: str, version: int | None) -> None:
        """Gives the statistics of one application, or one version of it."""
        application = self._processor.application(name)
        if version is not None:
            application.live_version(version)
        self._later(caller, lambda: self._statistics(name, version))

    async def _statistics(self, name: str | None, version: int | None) -> bytes:
        try:
            told = await self._questions.ask("statistics", within_s=STATISTICS_WITHIN_S)
            tallies = _tallies_decoder.decode(told)
        except NotReady:
            tallies = self._processor.tallies()
        shown = [
            describe_tally(tally)
            for tally in tallies
            if name in {None, tally.application} and version in {None, tally.version}
        ]
        return msgspec.json.encode({"model_stats": shown})

    def config(self, caller: Caller, name: str, version: int | None) -> None:
        """Describes how an application is served, in the words of Triton's configuration."""
        application = self._processor.application(name)
        if version is not None:
            application.live_version(version)
        caller.answer(msgspec.json.encode(describe_config(application)))

    # The model repository

    def index(self, caller: Caller) -> None:
        """Lists what is registered and what is live."""
        try:
            wanted = _index_decoder.decode(caller.body or b"{}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(
                f"the body is not an index request: {error}", remedy='Send {"ready": true} or {}.'
            ) from error

        async def listed() -> bytes:
            told = await self._questions.ask("index", within_s=CONTROL_WITHIN_S)
            if not wanted.ready:
                return told
            entries = msgspec.json.decode(told)
            return msgspec.json.encode([each for each in entries if each["state"] == "READY"])

        self._later(caller, listed)

    def load(self, caller: Caller, name: str) -> None:
        """Makes a registered model live; answers once every gateway serves it."""
        self._check_control(f"failed to load {name[:100]!r}")
        size = read_load(name, caller.body)
        self._later(
            caller,
            lambda: self._questions.ask(
                "load", model=name, max_batch=size, by=_by(caller), within_s=CONTROL_WITHIN_S
            ),
        )

    def unload(self, caller: Caller, name: str) -> None:
        """Makes an application answer nothing any more; answers once no gateway does."""
        self._check_control(f"failed to unload {name[:100]!r}")
        self._later(
            caller,
            lambda: self._questions.ask(
                "unload", model=name, by=_by(caller), within_s=CONTROL_WITHIN_S
            ),
        )

    def _check_control(self, failed: str) -> None:
        if not self._controls:
            raise Refused(
                f"{failed}, clients may not change what is live here",
                remedy='Set serve.model_control to "explicit", or use the command line.',
            )

    # What is not offered

    def shared_memory(self, caller: Caller, *_: Any) -> None:  # noqa: ARG002 - never answered
        """Refuses client shared memory."""
        raise NotOffered(
            "shared memory of clients is not taken: it would let a client change what was checked",
            remedy="Send tensors in the request, in binary.",
        )

    def _later(self, caller: Caller, work: Callable[[], Awaitable[bytes]]) -> None:
        async def answer() -> None:
            try:
                caller.answer(await work())
            except TidemillError as error:
                caller.fail(error)
            except Exception as error:  # noqa: BLE001 - a caller must end
                caller.fail(Unavailable(f"it cannot be answered: {error}"))

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _by(caller: Caller) -> str:
    """Says who asks, for the audit."""
    key = caller.principal
    return "v2 repository" if key is None else f"v2 repository, key {key.name!r}"


def describe_config(application: Application) -> dict[str, Any]:
    """Returns an application's plan and columns as a Triton model configuration."""
    plan = application.deployment.plan
    platform = application.versions[0].platform if application.versions else "none"
    versions = [each.version for each in application.versions]
    return {
        "name": application.name,
        "platform": f"tidemill_{platform}",
        "backend": "tidemill",
        "version_policy": {"specific": {"versions": versions}},
        "max_batch_size": plan.max_batch,
        "input": [_tensor(column) for column in application.signature.inputs],
        "output": [_tensor(column) for column in application.signature.outputs],
        "instance_group": [_instances(application)],
        "dynamic_batching": {"priority_levels": 9, "default_priority_level": 5},
        "response_cache": {"enable": plan.cache_bytes > 0},
    }


def _instances(application: Application) -> dict[str, Any]:
    plan = application.deployment.plan
    gpus = [int(each.partition(":")[2] or 0) for each in plan.devices if each != CPU]
    kind = "KIND_GPU" if gpus else "KIND_CPU"
    return {"name": application.name, "kind": kind, "count": plan.replicas, "gpus": gpus}


def _tensor(column: Any) -> dict[str, Any]:
    datatype = datatype_of(column)
    described: dict[str, Any] = {
        "name": column.name,
        "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}",
        "dims": list(column.shape) or [1],
    }
    if not column.shape:
        described["reshape"] = {"shape": []}
    return described
