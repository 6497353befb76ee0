"""Progressive validation of what was served: the prediction that the client got, against the truth.

Three rules keep the numbers honest:

- **As served.** The prediction in the ledger is scored, never one made again when the label comes:
  by then the model may have learnt from newer labels, and the delay would leave no trace.
- **Only mature predictions count**: those older than the horizon within which labels are expected.
- **In prediction order, not in the order in which labels arrive.** Delay often depends on the label
  (a sale is seen at once, "no sale" only after a month). In arrival order the first labels are then
  nearly all of one class, and a model that leans to that class looks better for no merit of its
  own: with two models of equal loss, a sequential test at 5% then decides for one of them in up to
  99% of runs, and in prediction order after the horizon in 3%.

See Blum, Kalai and Langford, "Beating the hold-out" (COLT 1999), for progressive validation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from tidemill.foundation.errors import InvalidInput
from tidemill.monitoring.metrics import Floats
from tidemill.monitoring.served_score import Kind, Rows, ServedScore, score_rows

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("time", "event_time", "version", "source", "outputs", "score", "label", "label_text")
_EPS = float(np.finfo(np.float64).eps)


class ProgressiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """How served predictions fared: all, by version and by source.

    ``now`` is the moment it holds for; ``immature`` predictions are younger than the horizon and in
    no score. ``sources`` tell whether answers from a table or a cache are as good as the model's.
    """

    kind: Kind
    horizon_s: float | None
    now: float | None
    predictions: int
    mature: int
    immature: int
    overall: ServedScore
    versions: dict[str, ServedScore]
    sources: dict[str, ServedScore]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dictionaries, lists, strings and numbers."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def score_served(
    joined: pa.Table,
    *,
    output: str = "probabilities",
    positive: float | str = 1,
    horizon_s: float | None = None,
    now: float | None = None,
) -> ProgressiveReport:
    """Scores predictions against their labels, in the order in which they were asked for.

    Few labels, or none, are no error: what is not defined is None, with the reason.

    Args:
        joined: one row per prediction, with the columns that ``join_labels`` gives; in any order.
        output: the output to be judged: ``value`` is a regression's; any other holds the
            probabilities of the classes, the last one the positive's if there are two. Of more than
            two, the label is the number of the class.
        positive: the label that means the positive class.
        horizon_s: the maturation horizon; None counts every prediction as mature.
        now: seconds since the epoch; None for the last moment that occurs in ``joined``.

    Raises:
        InvalidInput: a column is missing, or the horizon is negative.
    """
    _check(joined, horizon_s)
    asked = _floats(joined, "event_time")
    asked = np.where(np.isnan(asked), _floats(joined, "time"), asked)
    observed = _floats(joined, "observed_at")
    moment = _latest(now, asked, observed)
    order = np.argsort(asked, kind="stable")
    if horizon_s is not None and moment is not None:
        order = order[moment - asked[order] >= horizon_s]
    mature = joined.take(order)
    rows = _rows(mature, output, positive, asked[order], observed[order])
    return ProgressiveReport(
        kind=rows.kind,
        horizon_s=horizon_s,
        now=moment,
        predictions=joined.num_rows,
        mature=mature.num_rows,
        immature=joined.num_rows - mature.num_rows,
        overall=score_rows(rows, horizon_s),
        versions=_by(rows, mature["version"].to_numpy(), horizon_s),
        sources=_by(rows, mature["source"].to_numpy(), horizon_s),
    )


def _check(joined: pa.Table, horizon_s: float | None) -> None:
    missing = [name for name in (*_COLUMNS, "observed_at") if name not in joined.column_names]
    if missing:
        raise InvalidInput(
            f"the predictions have no column {missing[0]!r}", remedy="Give what join_labels gives."
        )
    if horizon_s is not None and not horizon_s >= 0:
        raise InvalidInput(f"a horizon of {horizon_s} s is not one", remedy="Give 0 or more.")


def _latest(now: float | None, asked: Floats, observed: Floats) -> float | None:
    if now is not None:
        return now
    known = np.concatenate([asked, observed[np.isfinite(observed)]])
    return float(known.max()) if len(known) else None


def _by(rows: Rows, groups: NDArray[Any], horizon_s: float | None) -> dict[str, ServedScore]:
    return {
        str(group): score_rows(rows.of(groups == group), horizon_s)
        for group in sorted(set(groups.tolist()))
    }


def _rows(
    mature: pa.Table, output: str, positive: float | str, asked: Floats, observed: Floats
) -> Rows:
    numbers, texts = _floats(mature, "label"), mature["label_text"].to_pylist()
    text = np.array([value is not None for value in texts], bool)
    labelled = text | ~np.isnan(numbers)
    nothing = np.full(len(asked), np.nan)
    score, loss, right = nothing, nothing, nothing
    kind: Kind = "regression"
    if output == "value":
        label, score = numbers, _floats(mature, "score")
    else:
        probabilities = _outputs(mature, output)
        kind = _kind(probabilities)
        if kind == "multiclass":
            predicted = _outputs(mature, "label")
            label, loss, right = _judge_classes(probabilities, predicted, numbers, texts)
        else:
            label = _binary(numbers, texts, positive)
            score = np.array([_last(value) for value in probabilities], np.float64)
    return Rows(
        kind=kind,
        time=asked,
        score=score,
        label=np.where(labelled, label, np.nan),
        labelled=labelled,
        delay_s=observed - asked,
        loss=loss,
        right=right,
    )


def _kind(probabilities: list[Any]) -> Kind:
    many = any(isinstance(value, list) and len(value) > 2 for value in probabilities)
    return "multiclass" if many else "binary"


def _binary(numbers: Floats, texts: list[str | None], positive: float | str) -> Floats:
    """Returns 1 for the positive label, 0 for any other of its kind, else NaN."""
    if isinstance(positive, str):
        return np.array([np.nan if t is None else float(t == positive) for t in texts], np.float64)
    return np.where(np.isnan(numbers), np.nan, numbers == positive)


def _judge_classes(
    probabilities: list[Any], predicted: list[Any], numbers: Floats, texts: list[str | None]
) -> tuple[Floats, Floats, Floats]:
    """Returns labels as numbers (0 for a text), their log loss, and whether they were predicted."""
    loss, right = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
    for row, (given, said, text) in enumerate(zip(probabilities, predicted, texts, strict=True)):
        number = float(numbers[row])
        if said is not None and not (text is None and np.isnan(number)):
            right[row] = said == (number if text is None else text)
        if number.is_integer() and isinstance(given, list) and 0 <= number < len(given):
            share = given[int(number)]
            loss[row] = np.nan if share is None else -np.log(np.clip(share, _EPS, 1 - _EPS))
    return np.where([text is not None for text in texts], 0.0, numbers), loss, right


def _outputs(table: pa.Table, name: str) -> list[Any]:
    return [orjson.loads(text).get(name) for text in table["outputs"].to_pylist()]


def _last(value: Any) -> float:
    while isinstance(value, list) and value:
        value = value[-1]
    return float(value) if isinstance(value, int | float) else np.nan


def _floats(table: pa.Table, name: str) -> Floats:
    found: Floats = table[name].to_numpy().astype(np.float64)
    return found
