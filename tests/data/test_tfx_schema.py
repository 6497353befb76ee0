"""TFX's schemas are read: what has a counterpart is meant alike, the rest refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.schema import Column, Comparator, DatasetRules, Schema
from tidemill.data.schema_files import read_schema
from tidemill.data.text_proto import MOST_BYTES, parse_text
from tidemill.data.tfx_schema import schema_from_pbtxt
from tidemill.foundation.errors import InvalidInput, TooLarge

TAXI = r"""
# A schema as TFX writes it.
feature {
  name: "payment_type"
  value_count { min: 1 max: 1 }
  type: BYTES
  domain: "payment_type"
  presence { min_fraction: 1.0 min_count: 1 }
  skew_comparator { infinity_norm { threshold: 0.01 } }
  drift_comparator { jensen_shannon_divergence { threshold: 0.05 source { type: QUANTILES } } }
}
feature <
  name: 'fare', type: FLOAT; presence: { min_fraction: 0.9 }
  float_domain { min: 0 max: inf disallow_nan: true }
  annotation { comment: "in dollars" }
>
feature { name: "tips" type: INT shape { } not_in_environment: ["SERVING"] bool_domain { } }
feature { name: "tags" type: BYTES value_count { min: 1 } lifecycle_stage: ALPHA }
feature { name: "zip" type: BYTES int_domain { min: 0x10 max: 99999 }
  unique_constraints { min: 2 } }
feature { name: "paid" type: BYTES bool_domain { true_value: "j\303\241" false_value: "n" } }
string_domain { name: "payment_type" value: "Cash" value: "Credit " "Card" }
default_environment: "TRAINING"
default_environment: "SERVING"
dataset_constraints {
  min_examples_count: 10
  num_examples_drift_comparator { min_fraction_threshold: 0.5 max_fraction_threshold: 2 }
}
represent_variable_length_as_ragged: true
"""


def test_a_schema_of_tfx_is_read() -> None:
    """Each rule arrives as its counterpart, and the whole is a schema like any other."""
    schema = schema_from_pbtxt(TAXI)
    assert schema == Schema(
        columns=(
            Column(
                name="payment_type",
                type="string",
                values=("Cash", "Credit Card"),
                max_missing_fraction=0.0,
                min_count=1,
                skew=Comparator(l_infinity=0.01),
                drift=Comparator(jensen_shannon=0.05),
            ),
            Column(
                name="fare",
                type="float64",
                min=0.0,
                max_missing_fraction=0.1,
                min_count=0,
                allow_inf=True,
            ),
            Column(
                name="tips",
                type="int64",
                domain="bool",
                min_count=0,
                not_in_environment=("SERVING",),
            ),
            Column(name="tags", type="string", min_values=1, min_count=0, deprecated=True),
            Column(
                name="zip",
                type="string",
                domain="int",
                min=16,
                max=99999,
                min_count=0,
                min_unique=2,
            ),
            Column(name="paid", type="string", domain="bool", values=("já", "n"), min_count=0),
        ),
        default_environment=("TRAINING", "SERVING"),
        dataset=DatasetRules(
            min_rows=10, min_fraction_of_previous=0.5, max_fraction_of_previous=2.0
        ),
    )
    assert Schema.from_toml(schema.to_toml()) == schema


def test_a_file_is_taken_for_what_its_name_says(tmp_path: Path) -> None:
    """A schema file may be TFX's wherever one is taken."""
    path = tmp_path / "schema.pbtxt"
    path.write_text(TAXI)
    assert read_schema(path).columns[0].name == "payment_type"
    path.write_text("feature {")
    with pytest.raises(InvalidInput, match=r"schema\.pbtxt, line 1"):
        read_schema(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('feature { name: "a" type: STRUCT }', "STRUCT"),
        ("feature { type: INT }", "no name"),
        ('feature { name: "a" type: INT image_domain { } }', "image_domain"),
        ('feature { name: "a" type: INT domain: "nope" }', "'nope' is nowhere"),
        ('feature { name: "a" type: INT string_domain { value: "x" } }', "must be of type int64"),
        ('feature { name: "a" type: INT bool_domain { true_value: "x" } }', "true_value"),
        ('feature { name: "a" type: BYTES bool_domain { } }', "true_value"),
        ('feature { name: "a" type: INT } feature { name: "a" type: INT }', "there twice"),
        (
            'feature { name: "a" type: INT value_counts { value_count {} value_count {} } }',
            "lists in",
        ),
        ('feature { name: "a" shape { dim { size: 2 } dim { size: 2 } } }', "more than one"),
        ('feature { name: "a" type: FLOAT float_domain { min: nan } }', "min is no number"),
        ('feature { name: "a" presence { min_fraction: 2 } }', "no part of 1"),
        ('feature { name: "a" nonsense: 1 }', "nonsense"),
        ('feature { name: "a" skew_comparator { normalized_abs_difference { } } }', "normalized"),
        ('sparse_feature { name: "s" }', "sparse_feature"),
        ("feature: 1", "is to be a message"),
        ("feature { name: 1 }", "another kind"),
        ('feature { name: "a" name: "b" }', "twice"),
        ('feature { name: "\\xff" }', "UTF-8"),
        ("feature { name 'a' }", "a value is expected"),
        ("}", "name is expected"),
        ("feature { ?", "unexpected"),
        ("a {" * 100, "nested deeper"),
        ('feature { name: "a" presence { min_count: 99999999999999999999 } }', "64 bits"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(text: str, says: str) -> None:
    """Nothing is left out in silence that is a rule."""
    with pytest.raises(InvalidInput, match=says):
        schema_from_pbtxt(text)


def test_a_text_has_a_limit() -> None:
    """What is larger than any schema is not read."""
    with pytest.raises(TooLarge):
        parse_text(" " * (MOST_BYTES + 1), origin="it")


_PIECES = ["feature", "{", "}", ":", "<", ">", "[", "]", ",", ";", '"a"', "name", "type", "INT"]
_PIECES += ["FLOAT", "1", "-1e9", "inf", "int_domain", "min", "max", "presence", "min_count", "\\"]
_PIECES += ["value_count", "shape", "dim", "size", "'", '"', "#", "\n", "1e999", "float_domain"]


@given(st.lists(st.sampled_from(_PIECES), max_size=40).map(" ".join) | st.text(max_size=60))
def test_any_text_gives_a_schema_or_an_error_of_ours(text: str) -> None:
    """Whatever is in the file, nothing else is raised."""
    try:
        found = schema_from_pbtxt(text)
    except InvalidInput:
        return
    if found.columns:
        assert Schema.from_toml(found.to_toml()) == found


_LINES = ["[columns.a]\n", 'type = "int64"\n', "min = 1\n", "max = 0\n", "values = [1]\n", "= [{"]
_LINES += ['pattern = "("\n', "drift = { ks = 2 }\n", "[dataset]\n", "min_rows = -1\n"]
_LINES += ["[[expectations]]\n", 'name = "x"\n', 'sql = ""\n', "[severities]\n", "a.b = 1\n"]


@given(st.text(max_size=40) | st.lists(st.sampled_from(_LINES), max_size=8).map("".join))
def test_any_toml_gives_a_schema_or_an_error_of_ours(text: str) -> None:
    """Likewise for our own files."""
    try:
        found = Schema.from_toml(text)
    except InvalidInput:
        return
    assert found.columns is not None
