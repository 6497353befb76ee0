"""How the predictions that were served have fared, read from the ledger."""

from __future__ import annotations

import contextlib

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.ledger import Problem, join_counts, join_labels, read_ledger
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.monitoring.progressive import ProgressiveReport, score_served
from tidemill.serving import live

GAUGES = ("predictions", "coverage", "auc", "loss")
OUTPUTS = ("probabilities", "value", "label")


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the labels; ``received`` is the sum of the next three.

    ``withdrawn`` are those of keys whose labels were withdrawn, and are not among them.
    """

    received: int
    joined: int
    replaced: int
    unmatched: int
    withdrawn: int = 0


class LiveScore(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown as metrics: each version's figures, and the median delay of labels."""

    versions: dict[str, dict[str, float | None]]
    label_delay_s: float | None


class ServedReport(msgspec.Struct, frozen=True, kw_only=True):
    """The progressive validation of one application, and what stood in its way."""

    application: str
    since: float | None
    report: ProgressiveReport
    labels: Labels
    problems: tuple[Problem, ...]


def score_application(
    home: Home,
    application: str,
    *,
    horizon_s: float | None = None,
    since: float | None = None,
    until: float | None = None,
) -> ServedReport:
    """Scores what an application served, as it was served.

    Args:
        home: the installation.
        application: whose predictions.
        horizon_s: only predictions older than this count; None counts all.
        since: only predictions answered at or after this moment, seconds since the epoch.
        until: only predictions answered before this moment.

    Raises:
        NotFound: the ledger has no prediction of that application.
    """
    ledger = read_ledger(home.ledger_path, application, with_inputs=False)
    predictions = ledger.predictions
    if predictions.num_rows == 0:
        raise NotFound(
            f"the ledger has no prediction of application {application!r}",
            remedy="Serve it and send queries; tidemill deployments lists applications.",
        )
    if since is not None:
        predictions = predictions.filter(pc.greater_equal(predictions["time"], since))
    if until is not None:
        predictions = predictions.filter(pc.less(predictions["time"], until))
    joined = join_labels(predictions, ledger.labels)
    counts = join_counts(joined)
    return ServedReport(
        application=application,
        since=since,
        report=score_served(joined, horizon_s=horizon_s, output=_output(predictions)),
        labels=Labels(
            received=counts.received,
            joined=counts.joined,
            replaced=counts.replaced,
            unmatched=counts.unmatched,
            withdrawn=ledger.withdrawn_labels,
        ),
        problems=ledger.problems,
    )


def score_live(home: Home) -> dict[str, LiveScore]:
    """Scores what each live application has served so far, by its name."""
    with home.store.read(live.TABLES) as conn:
        names = [each.application for each in live.live_deployments(conn)]
    scores: dict[str, LiveScore] = {}
    for name in names:
        with contextlib.suppress(NotFound):  # nothing served yet
            report = score_application(home, name).report
            delay_s = report.overall.label_delay_s
            scores[name] = LiveScore(
                versions={
                    str(version): {key: getattr(score, key) for key in GAUGES}
                    for version, score in report.versions.items()
                },
                label_delay_s=None if delay_s is None else delay_s["p50"],
            )
    return scores


def _output(predictions: pa.Table) -> str:
    """Returns the output that is judged: probabilities if there are any, else the value."""
    first = predictions["outputs"][0].as_py() if predictions.num_rows else "{}"
    names = msgspec.json.decode(first, type=dict[str, object])
    return next((name for name in OUTPUTS if name in names), OUTPUTS[0])
