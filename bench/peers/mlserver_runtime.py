"""The models as MLServer's custom runtimes; its own one for scikit-learn gives no more."""

from __future__ import annotations

from bench.peers.predict import open_model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Model(MLModel):  # type: ignore[misc]
    """Answers batches that MLServer gathered."""

    async def load(self) -> bool:
        """Loads the model."""
        self._predict = open_model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers one batch."""
        outputs = self._predict(NumpyCodec.decode_input(payload.inputs[0]))
        encoded = [
            NumpyCodec.encode_output(name, value.reshape(len(value), -1))
            for name, value in outputs.items()
        ]
        return InferenceResponse(model_name=self.name, outputs=encoded)
