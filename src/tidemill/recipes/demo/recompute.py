"""An independent recomputation: the served AUC from the ledger's Parquet, in plain SQL."""

from __future__ import annotations

from pathlib import Path

from tidemill.recipes.demo.commands import Commands

AUC = """
with scored as (
    select p.score, l.label,
           rank() over (order by p.score)
               + (count(*) over (partition by p.score) - 1) / 2.0 as place
    from read_parquet($predictions) p
    join (select prediction_id, arg_max(label, received_at) as label
          from read_parquet($labels) group by prediction_id) l using (prediction_id)
    where p.time >= $since and p.time < $until
)
select (sum(place) filter (label = 1) - n1 * (n1 + 1) / 2.0) / (n1 * n0)
from scored, (select count(*) filter (label = 1) as n1, count(*) filter (label = 0) as n0
              from scored)
group by n1, n0
"""
"""The rank-sum form of the area under the ROC curve, with tied scores sharing their mean rank."""


def auc_by_sql(
    commands: Commands, folder: Path, *, since: float, until: float = 1e18
) -> float | None:
    """Exports the ledger and returns the AUC of what was served since then."""
    import duckdb  # noqa: PLC0415 - slow to import

    target = folder / "ledger"
    commands.run("ledger", "export", str(target.absolute()))
    values = {
        "predictions": str(target / "predictions.parquet"),
        "labels": str(target / "labels.parquet"),
        "since": since,
        "until": until,
    }
    with duckdb.connect() as connection:
        found = connection.execute(AUC, values).fetchone()
    return None if found is None else float(found[0])
