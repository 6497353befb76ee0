"""Nothing goes live that a server would refuse."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.control.deployments import Terms, deploy, get_deployment
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home


@pytest.mark.parametrize(
    "default",
    [
        {},
        {"label": 0},
        {"label": 0, "probabilities": [0.5]},
        {"label": "late", "probabilities": [0.5, 0.5]},
        {"label": 0, "probabilities": [float("nan"), 0.5]},
        {"label": 0, "probabilities": [0.5, 0.5], "value": 1.0},
    ],
)
def test_a_default_that_is_none_of_the_models(trained: Home, default: dict[str, Any]) -> None:
    """It is refused before it is live, and what was live stays."""
    before = get_deployment(trained, "trips")
    with pytest.raises(InvalidInput, match="default answer"):
        deploy(
            trained,
            "trips",
            model="trips",
            version=1,
            terms=Terms(default=default),
            by="tests",
            reason="wrong default",
        )
    assert get_deployment(trained, "trips") == before
