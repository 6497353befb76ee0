"""What people write by hand: FastAPI apps around a model, run by uvicorn.

``inline`` calls the model for each request on the event loop; ``batched`` gathers requests while a
batch is out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.peers.predict import CLASSIFIER, answers, open_model
from fastapi import FastAPI
from pydantic import BaseModel

MAX_BATCH = 64

predict = open_model()


class Question(BaseModel):
    """One row."""

    x: list[float]


class Classified(BaseModel):
    """The likeliest class and the probability of each."""

    label: int
    probabilities: list[float]


class Values(BaseModel):
    """What a model without classes says."""

    y: list[float]


Answer: Any = Classified if CLASSIFIER else Values

inline = FastAPI()


@inline.get("/ready")
async def inline_ready() -> bool:
    """Answers once the app is up."""
    return True


@inline.post("/predict", response_model=Answer)
async def predict_inline(question: Question) -> Any:
    """Answers on the event loop, one row at a time."""
    return Answer(**answers(predict([question.x]))[0])


class MicroBatcher:
    """Sends the first request at once and, while that is out, gathers the next batch."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[list[float], asyncio.Future[Any]]] = deque()
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    async def ask(self, row: list[float]) -> dict[str, Any]:
        """Returns the answer to one row."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        answer: dict[str, Any] = await future
        return answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = min(MAX_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(taken)]
            try:
                outputs = await loop.run_in_executor(
                    self._thread, predict, [row for row, _ in batch]
                )
            except Exception as error:  # noqa: BLE001 - each caller is told
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers(outputs), strict=True):
                if not future.done():
                    future.set_result(answer)


batched = FastAPI()
batcher = MicroBatcher()


@batched.get("/ready")
async def batched_ready() -> bool:
    """Answers once the app is up."""
    return True


@batched.post("/predict", response_model=Answer)
async def predict_batched(question: Question) -> Any:
    """Answers with the batch that the row travels in."""
    return Answer(**await batcher.ask(question.x))
