"""What people write by hand: FastAPI apps around the same forest.

``inline`` calls the model for each request; ``batched`` gathers requests while a batch is out.
Run by uvicorn: ``FOREST=forest.joblib uvicorn bench.forest.peers:inline``.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

MAX_BATCH = 64

forest = joblib.load(os.environ["FOREST"])


class Question(BaseModel):
    """One row of 64 pixels."""

    x: list[float]


class Answer(BaseModel):
    """The likeliest digit and the probability of each."""

    label: int
    probabilities: list[float]


def predict(rows: list[list[float]]) -> list[tuple[int, list[float]]]:
    """Asks the forest once: the label is the likeliest class, as ``predict`` would say."""
    found = forest.predict_proba(np.array(rows))
    labels = forest.classes_[found.argmax(axis=1)]
    return list(zip(labels.tolist(), found.tolist(), strict=True))


inline = FastAPI()


@inline.get("/ready")
async def inline_ready() -> bool:
    """Answers once the app is up."""
    return True


@inline.post("/predict")
async def predict_inline(question: Question) -> Answer:
    """Answers on the event loop, one row at a time."""
    ((label, probabilities),) = predict([question.x])
    return Answer(label=label, probabilities=probabilities)


class MicroBatcher:
    """Sends the first request at once and, while that is out, gathers the next batch."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[list[float], asyncio.Future[Any]]] = deque()
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    async def ask(self, row: list[float]) -> tuple[int, list[float]]:
        """Returns the answer to one row."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        answer: tuple[int, list[float]] = await future
        return answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = min(MAX_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(taken)]
            try:
                rows = [row for row, _ in batch]
                answers = await loop.run_in_executor(self._thread, predict, rows)
            except Exception as error:  # noqa: BLE001 - each caller is told
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


batched = FastAPI()
batcher = MicroBatcher()


@batched.get("/ready")
async def batched_ready() -> bool:
    """Answers once the app is up."""
    return True


@batched.post("/predict")
async def predict_batched(question: Question) -> Answer:
    """Answers with the batch that the row travels in."""
    label, probabilities = await batcher.ask(question.x)
    return Answer(label=label, probabilities=probabilities)
