"""The boosters inside LightGBM's and XGBoost's estimators."""

from __future__ import annotations

from typing import Any

from tidemill.models.boosters.forest import Forest
from tidemill.models.boosters.lightgbm import read_lightgbm
from tidemill.models.boosters.xgboost import read_xgboost


def forest_of(estimator: Any) -> Forest | None:
    """Returns the forest of an estimator; None if it is no booster's, or cannot be read.

    A classifier's classes must be numbered from 0, as its booster's are.
    """
    family = type(estimator).__module__.partition(".")[0]
    if family not in {"lightgbm", "xgboost"}:
        return None
    try:
        classes = getattr(estimator, "classes_", None)
        if classes is not None and list(classes) != list(range(len(classes))):
            return None
        if family == "lightgbm":
            return read_lightgbm(estimator.booster_.model_to_string().encode())
        return read_xgboost(bytes(estimator.get_booster().save_raw("ubj")))
    except Exception:  # noqa: BLE001 - then it is an estimator like any other
        return None
