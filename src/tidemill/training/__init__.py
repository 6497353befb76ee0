"""Makes models from examples and judges them; nothing is read, stored or served here."""

from tidemill.training.evaluator import (
    Blessing,
    BlessingRules,
    EvaluationReport,
    Metrics,
    SliceReport,
)
from tidemill.training.trainer import TrainingPlan

__all__ = [
    "Blessing",
    "BlessingRules",
    "EvaluationReport",
    "Metrics",
    "SliceReport",
    "TrainingPlan",
]
