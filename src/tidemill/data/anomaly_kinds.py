"""Every kind of anomaly, by TFX's name: how grave it is, and why some never occur here.

The names are those of ``anomalies.proto`` of TensorFlow Metadata. What Tidemill says about files
rather than about their rows has names of its own, in ``NOTES``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Gravity = Literal["info", "warning", "error"]

DETECTED: dict[str, Gravity] = {
    "SCHEMA_NEW_COLUMN": "warning",
    "SCHEMA_MISSING_COLUMN": "error",
    "FEATURE_TYPE_NOT_PRESENT": "error",
    "FEATURE_TYPE_LOW_FRACTION_PRESENT": "warning",
    "FEATURE_TYPE_LOW_NUMBER_PRESENT": "warning",
    "FEATURE_TYPE_LOW_NUMBER_VALUES": "error",
    "FEATURE_TYPE_HIGH_NUMBER_VALUES": "error",
    "FEATURE_TYPE_LOW_UNIQUE": "error",
    "FEATURE_TYPE_HIGH_UNIQUE": "error",
    "VALUE_NESTEDNESS_MISMATCH": "error",
    "UNEXPECTED_DATA_TYPE": "error",
    "ENUM_TYPE_UNEXPECTED_STRING_VALUES": "warning",
    "ENUM_TYPE_INVALID_UTF8": "error",
    "BOOL_TYPE_BIG_INT": "warning",
    "BOOL_TYPE_SMALL_INT": "warning",
    "BOOL_TYPE_UNEXPECTED_STRING": "warning",
    "BOOL_TYPE_UNEXPECTED_FLOAT": "warning",
    "INT_TYPE_BIG_INT": "error",
    "INT_TYPE_SMALL_INT": "error",
    "INT_TYPE_NOT_INT_STRING": "warning",
    "FLOAT_TYPE_BIG_FLOAT": "error",
    "FLOAT_TYPE_SMALL_FLOAT": "error",
    "FLOAT_TYPE_STRING_NOT_FLOAT": "warning",
    "FLOAT_TYPE_HAS_NAN": "error",
    "FLOAT_TYPE_HAS_INF": "error",
    "DATASET_LOW_NUM_EXAMPLES": "error",
    "DATASET_HIGH_NUM_EXAMPLES": "error",
    "COMPARATOR_LOW_NUM_EXAMPLES": "error",
    "COMPARATOR_HIGH_NUM_EXAMPLES": "error",
    "COMPARATOR_L_INFTY_HIGH": "error",
    "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH": "error",
    "COMPARATOR_CONTROL_DATA_MISSING": "error",
    "COMPARATOR_TREATMENT_DATA_MISSING": "error",
    "NO_DATA_IN_SPAN": "error",
    "STATS_NOT_AVAILABLE": "error",
    "CUSTOM_VALIDATION": "error",
}
"""The kinds of TFX that Tidemill finds, with the usual severity of each."""

OWN: dict[str, Gravity] = {
    "ENUM_TYPE_PATTERN_MISMATCH": "error",
    "TIMESTAMP_TYPE_EARLY_TIME": "error",
    "TIMESTAMP_TYPE_LATE_TIME": "error",
    "COMPARATOR_TOTAL_VARIATION_HIGH": "error",
    "COMPARATOR_PSI_HIGH": "error",
    "COMPARATOR_KS_HIGH": "error",
    "COMPARATOR_WASSERSTEIN_HIGH": "error",
}
"""What TFX has no rule for, named in its manner."""

NOTES = ("no_final_newline", "ignored_file", "repeated_source", "newest_span")
"""What is said of files; their rows are as good as any."""

_NOT_IN_TFDV = "TFDV finds it nowhere either: the name is left from an older system"
_NO_SPARSE = "tables have no sparse or weighted features: a column is there or is not"
_NO_MEDIA = "columns hold no images, embeddings or tokenised text"
_NO_FILE = "a schema that says it cannot be read: it is refused with an error"

ABSENT: dict[str, str] = {
    "UNKNOWN_TYPE": "it names no anomaly",
    "MULTIPLE_REASONS": "each reason is an anomaly of its own",
    "FEATURE_TYPE_NO_UNIQUE": "distinct values of every type are counted",
    "COMPARATOR_NORMALIZED_ABSOLUTE_DIFFERENCE_HIGH": (
        "it grows with the number of rows; l_infinity compares shares"
    ),
    "INVALID_FEATURE_SHAPE": (
        "a fixed shape is min_values = max_values; FEATURE_TYPE_LOW_NUMBER_VALUES and "
        "FEATURE_TYPE_HIGH_NUMBER_VALUES tell what is not of it"
    ),
    "DERIVED_FEATURE_BAD_LIFECYCLE": "columns are not derived from others by the schema",
    "DERIVED_FEATURE_INVALID_SOURCE": "columns are not derived from others by the schema",
    "SCHEMA_TRAINING_SERVING_SKEW": _NOT_IN_TFDV,
    **dict.fromkeys(
        (
            "BOOL_TYPE_INVALID_CONFIG",
            "DOMAIN_INVALID_FOR_TYPE",
            "FEATURE_MISSING_NAME",
            "FEATURE_MISSING_TYPE",
            "INVALID_SCHEMA_SPECIFICATION",
            "INVALID_DOMAIN_SPECIFICATION",
        ),
        _NO_FILE,
    ),
    **dict.fromkeys(
        (
            "SPARSE_FEATURE_MISSING_VALUE",
            "SPARSE_FEATURE_MISSING_INDEX",
            "SPARSE_FEATURE_LENGTH_MISMATCH",
            "SPARSE_FEATURE_NAME_COLLISION",
            "WEIGHTED_FEATURE_NAME_COLLISION",
            "WEIGHTED_FEATURE_MISSING_VALUE",
            "WEIGHTED_FEATURE_MISSING_WEIGHT",
            "WEIGHTED_FEATURE_LENGTH_MISMATCH",
        ),
        _NO_SPARSE,
    ),
    **dict.fromkeys(
        (
            "LOW_SUPPORTED_IMAGE_FRACTION",
            "MAX_IMAGE_BYTE_SIZE_EXCEEDED",
            "EMBEDDING_SHAPE_INVALID",
            "SEQUENCE_VALUE_TOO_FEW_OCCURRENCES",
            "SEQUENCE_VALUE_TOO_MANY_OCCURRENCES",
            "SEQUENCE_VALUE_TOO_SMALL_FRACTION",
            "SEQUENCE_VALUE_TOO_LARGE_FRACTION",
            "FEATURE_COVERAGE_TOO_LOW",
            "FEATURE_COVERAGE_TOO_SHORT_AVG_TOKEN_LENGTH",
            "NLP_WRONG_LOCATION",
            "SEMANTIC_DOMAIN_UPDATE",
        ),
        _NO_MEDIA,
    ),
    **dict.fromkeys(
        (
            "BOOL_TYPE_BYTES_NOT_INT",
            "BOOL_TYPE_BYTES_NOT_STRING",
            "BOOL_TYPE_FLOAT_NOT_INT",
            "BOOL_TYPE_FLOAT_NOT_STRING",
            "BOOL_TYPE_INT_NOT_STRING",
            "BOOL_TYPE_STRING_NOT_INT",
            "ENUM_TYPE_BYTES_NOT_STRING",
            "ENUM_TYPE_FLOAT_NOT_STRING",
            "ENUM_TYPE_INT_NOT_STRING",
            "FEATURE_TYPE_NO_VALUES",
            "FEATURE_TYPE_UNEXPECTED_REPEATED",
            "FLOAT_TYPE_NOT_FLOAT",
            "FLOAT_TYPE_NON_STRING",
            "FLOAT_TYPE_UNKNOWN_TYPE_NUMBER",
            "INT_TYPE_INT_EXPECTED",
            "INT_TYPE_NOT_STRING",
            "INT_TYPE_STRING_EXPECTED",
            "INT_TYPE_UNKNOWN_TYPE_NUMBER",
            "STRING_TYPE_NOW_FLOAT",
            "STRING_TYPE_NOW_INT",
        ),
        _NOT_IN_TFDV,
    ),
}
"""The kinds of TFX that never occur here, and why."""

FORMER: dict[str, str] = {
    "missing_column": "SCHEMA_MISSING_COLUMN",
    "new_column": "SCHEMA_NEW_COLUMN",
    "new_value": "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
    "missing_rate": "FEATURE_TYPE_LOW_FRACTION_PRESENT",
    "rejected_values": "UNEXPECTED_DATA_TYPE",
    "all_missing": "FEATURE_TYPE_NOT_PRESENT",
    "no_rows": "NO_DATA_IN_SPAN",
}
"""What kinds were called in records of earlier ingests."""


def kind_of(name: str) -> str:
    """Returns what a stored kind is called today.

    Example:
        >>> kind_of("new_column"), kind_of("ignored_file")
        ('SCHEMA_NEW_COLUMN', 'ignored_file')
    """
    return FORMER.get(name, name)


def usual_severity(kind: str) -> Gravity:
    """Returns how grave an anomaly of a kind is, where the schema does not say."""
    return DETECTED[kind] if kind in DETECTED else OWN[kind]


def check_kinds(names: Iterable[str]) -> None:
    """Checks that each name is a kind that can occur.

    Raises:
        ValueError: one is none.
    """
    for name in names:
        if name in ABSENT:
            raise ValueError(f"severities: {name} never occurs here: {ABSENT[name]}")
        if name not in DETECTED and name not in OWN:
            raise ValueError(f"severities: there is no anomaly {name!r}")
