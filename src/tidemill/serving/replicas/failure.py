"""The error for whatever a model raised, wherever it ran."""

from __future__ import annotations

from tidemill.foundation.errors import ModelFailed


def model_failed(kind: str, what: str) -> ModelFailed:
    """Returns the error for an exception that a model raised: its class, and what it said."""
    return ModelFailed(
        f"the model failed on this batch: {kind}: {what[:1000]}",
        remedy="Compare the input with what the model was trained on.",
    )
