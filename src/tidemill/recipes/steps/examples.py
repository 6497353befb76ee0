"""ExampleGen and Transform: from a dataset's rows to examples with features and a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.data.splits import split_by_group, split_by_hash, split_by_time
from tidemill.foundation.errors import DataRefused, InvalidSettings
from tidemill.recipes.recipe import Split
from tidemill.recipes.steps.reports import ExampleReport

TRAIN, EVALUATION = "train.parquet", "evaluation.parquet"


class Examples(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows each split holds, and how many had no label."""

    train: int
    evaluation: int
    unlabelled: int = 0


def example_gen(files: list[Path], split: Split, out: Path) -> Examples:
    """Reads the rows of snapshots and keeps a part of them apart for evaluation.

    Raises:
        DataRefused: there is no row to train on, or none to evaluate with.
    """
    table = pa.concat_tables([pq.read_table(path) for path in files], promote_options="default")
    parts = _split(table, split)
    return _write(parts["train"], parts["evaluation"], out)


def transform(
    examples: Path,
    valid: ExampleReport,
    select: str,
    features: tuple[str, ...],
    label: str,
    slices: tuple[str, ...],
    out: Path,
) -> Examples:
    """Runs the recipe's query over each split and drops rows without a label.

    Args:
        examples: the splits.
        valid: that they passed validation; nothing is transformed before.
        select: a DuckDB query over the view ``rows``.
        features: columns that the query must give.
        label: the column that the query must give, without which a row is no example.
        slices: other columns that the query must give.
        out: where the splits go.

    Raises:
        InvalidSettings: the query fails, or does not give a column.
        DataRefused: no example is left.
    """
    assert valid.rows > 0
    needed = tuple(dict.fromkeys((*features, *slices)))
    done = [_transform(examples / name, select, needed, label) for name in (TRAIN, EVALUATION)]
    counts = _write(done[0][0], done[1][0], out)
    return msgspec.structs.replace(counts, unlabelled=done[0][1] + done[1][1])


def _split(table: pa.Table, split: Split) -> dict[str, pa.Table]:
    fractions = {"train": 1.0 - split.evaluation, "evaluation": split.evaluation}
    columns = list(split.columns)
    if split.by == "hash":
        return split_by_hash(table, columns or table.column_names, fractions, seed=split.seed)
    if len(columns) != 1:
        raise InvalidSettings(
            f"a split by {split.by} has {len(columns)} columns", remedy="Name exactly one."
        )
    if split.by == "time":
        return split_by_time(table, columns[0], fractions)
    return split_by_group(table, columns[0], fractions, seed=split.seed)


def _transform(
    path: Path, select: str, needed: tuple[str, ...], label: str
) -> tuple[pa.Table, int]:
    table = run_select(pq.read_table(path), select)
    for name in (*needed, label):
        given = table.column_names.count(name)
        if given != 1:
            raise InvalidSettings(
                f"the recipe's select gives {'two columns' if given else 'no column'} {name!r}",
                remedy=f"It gives: {', '.join(table.column_names)}.",
            )
    labelled = table.filter(table[label].is_valid())
    _check_labels(labelled[label], label)
    return labelled, table.num_rows - labelled.num_rows


def _check_labels(values: pa.ChunkedArray, label: str) -> None:
    """Refuses labels that no two classes have, before anything is trained on them."""
    others = [value for value in pc.unique(values).to_pylist() if value not in {0, 1}]
    if others:
        raise DataRefused(
            f"label {label!r} is {others[0]!r} in some rows, and a recipe tells 0 from 1",
            remedy=f"Leave such rows out: `where {label} in (0, 1)` in the recipe's select; or "
            "hold them at the gate, with min and max in the dataset's schema.",
        )


def run_select(rows: pa.Table, select: str) -> pa.Table:
    """Runs a query over a view ``rows``, without access to anything else.

    Raises:
        InvalidSettings: the query fails.
    """
    import duckdb  # noqa: PLC0415 - slow to import

    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        connection.register("rows", rows)
        connection.execute("set lock_configuration = true")
        try:
            asked: Any = connection.sql(select)
            if asked is None:
                raise InvalidSettings(
                    "the recipe's select is empty", remedy="Write a query over the view `rows`."
                )
            found: Any = asked.to_arrow_table()
        except duckdb.Error as error:
            raise InvalidSettings(
                f"the recipe's select fails: {error}", remedy="Mend `select` in the recipe."
            ) from error
    return found


def _write(train: pa.Table, evaluation: pa.Table, out: Path) -> Examples:
    for name, part in (("train", train), ("evaluation", evaluation)):
        if part.num_rows == 0:
            raise DataRefused(
                f"no rows are left for {name}",
                remedy="Ingest more data, or change the recipe's split or select.",
            )
    pq.write_table(train, out / TRAIN)
    pq.write_table(evaluation, out / EVALUATION)
    return Examples(train=train.num_rows, evaluation=evaluation.num_rows)
