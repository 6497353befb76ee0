"""LitServe; ``BATCH`` (1: none), ``WAIT_S`` and ``FAST_QUEUE`` in the environment."""

import os
from typing import Any

import litserve
import numpy as np
from bench.peers.predict import answers, open_model
from fastapi import Request

BATCH = int(os.environ.get("BATCH", "64"))


class Model(litserve.LitAPI):
    """One row a request; LitServe gathers them."""

    def setup(self, device: Any) -> None:  # noqa: ARG002 - LitServe's signature
        """Loads the model in the worker."""
        self._predict = open_model()

    def decode_request(self, request: Request) -> Any:
        """Takes the row; LitServe reads the annotation, and hands over the JSON."""
        return request["x"]  # type: ignore[index]

    def encode_response(self, output: Any) -> Any:
        """Gives the answer as it is."""
        return output

    if BATCH > 1:

        def batch(self, inputs: list[Any]) -> Any:
            """Makes one array."""
            return np.asarray(inputs)

        def predict(self, rows: Any) -> list[Any]:
            """Answers a batch."""
            return answers(self._predict(rows))

        def unbatch(self, output: list[Any]) -> list[Any]:
            """One answer a request."""
            return output

    else:

        def predict(self, row: Any) -> Any:
            """Answers one row."""
            return answers(self._predict([row]))[0]


if __name__ == "__main__":
    wait_s = float(os.environ.get("WAIT_S", "0.002"))
    model = Model(max_batch_size=BATCH, batch_timeout=wait_s) if BATCH > 1 else Model()
    litserve.LitServer(
        model,
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=os.environ.get("FAST_QUEUE") == "1",
        timeout=30,
    ).run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
