"""Which labels are taken: those for predictions that were made here, not too long ago. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from tidemill.data.ledger import PredictionIds
from tidemill.foundation.errors import InvalidInput
from tidemill.serving.wire import Feedback

Reason = Literal["unknown", "too old"]


class RefusedLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A label that was not taken: no prediction of that id was made here, or too long ago."""

    prediction_id: str
    reason: Reason


def judge(
    labels: Iterable[Feedback], ids: PredictionIds, *, now: float, max_age_s: float
) -> tuple[list[Feedback], list[RefusedLabel]]:
    """Returns the labels that count, and those that do not with why.

    Args:
        labels: as they were sent.
        ids: knows its own ids, and when it made them.
        now: seconds since the epoch.
        max_age_s: how long after the prediction a label may come.
    """
    taken: list[Feedback] = []
    refused: list[RefusedLabel] = []
    for label in labels:
        made_at = ids.made_at(label.prediction_id)
        if made_at is not None and now - made_at <= max_age_s:
            taken.append(label)
            continue
        reason: Reason = "unknown" if made_at is None else "too old"
        refused.append(RefusedLabel(prediction_id=label.prediction_id, reason=reason))
    return taken, refused


def refusal(refused: RefusedLabel, max_age_s: float) -> InvalidInput:
    """Returns the error for a request whose labels are all refused, by its first one."""
    if refused.reason == "too old":
        return InvalidInput(
            f"prediction {refused.prediction_id} was made over {max_age_s / 86_400:g} days ago",
            remedy="Send labels sooner, or raise ledger.max_label_age_days.",
        )
    return InvalidInput(
        f"prediction_id '{refused.prediction_id}' was not made by this installation",
        remedy="Return the prediction_id that came with the answer.",
    )
