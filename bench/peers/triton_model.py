"""The models in Triton's Python backend; Triton gathers the requests of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from bench.peers.predict import open_model


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, _: dict[str, str]) -> None:
        """Loads the model."""
        self._predict = open_model()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests that Triton put together with one call of the model."""
        parts = [triton.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        found = self._predict(np.concatenate(parts) if len(parts) > 1 else parts[0])
        outputs = {name: value.reshape(len(value), -1) for name, value in found.items()}
        answers, start = [], 0
        for part in parts:
            end = start + len(part)
            tensors = [triton.Tensor(name, value[start:end]) for name, value in outputs.items()]
            answers.append(triton.InferenceResponse(tensors))
            start = end
        return answers
