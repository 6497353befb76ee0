from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.data.frame_schemas import infer_schema
from tidemill.data.statistics import Statistics, describe, describe_slices
from tidemill.data.statistics.counting import count, first_places, repeated
from tidemill.data.statistics.hashes import hash_texts
from tidemill.data.statistics.layout import Texts
from tidemill.data.statistics.sketches import EXACT_POINTS, POINTS
from tidemill.foundation.errors import InvalidInput

Array = np.ndarray[Any, np.dtype[Any]]
Draw = Callable[[np.random.Generator, int], Array]

COLUMNS: dict[str, Draw] = {
    "normal": lambda draw, size: draw.normal(size=size),
    "far from zero": lambda draw, size: draw.normal(1e9, 1e-3, size),
    "without a mean": lambda draw, size: draw.standard_cauchy(size),
    "of many scales": lambda draw, size: draw.lognormal(0, 40, size),
    "mostly zero": lambda draw, size: draw.random(size) * (draw.random(size) < 0.2),
    "rounded": lambda draw, size: np.round(draw.exponential(50, size), 2),
    "ascending": lambda _, size: np.arange(size) * 0.1,
    "each twice": lambda draw, size: np.repeat(draw.normal(size=size // 2 + 1), 2)[:size],
    "two near, and some": lambda draw, size: np.where(
        draw.random(size) < 0.3, draw.random(size), draw.integers(0, 2, size) * 5e-324
    ),
    "the largest": lambda draw, size: draw.choice([1.7e308, -1.7e308, 0.0, 1.0], size),
    "nearly one": lambda draw, size: np.where(draw.random(size) < 0.999, 7.0, draw.random(size)),
    "small integers": lambda draw, size: draw.integers(-1000, 1000, size),
    "zipf": lambda draw, size: draw.zipf(1.3, size).clip(max=50_000),
    "integers": lambda draw, size: draw.integers(0, 1_000_000, size),
    "any integers": lambda draw, size: draw.integers(-(2**63), 2**63 - 1, size),
    "beyond floats": lambda draw, size: 2**62 + draw.integers(0, 2**20, size),
}


@pytest.mark.parametrize("size", [EXACT_POINTS, EXACT_POINTS + 1, 40_000, 131_072])
@pytest.mark.parametrize("column", COLUMNS)
def test_values_are_counted_as_by_sorting(column: str, size: int) -> None:
    """Whatever the values, the same come out: how often each comes, and those at middle ranks."""
    values = COLUMNS[column](np.random.default_rng(size), size)
    found = count(values, values.min(), values.max())
    points, times = np.unique(values, return_counts=True)
    if found.middles is not None:
        assert len(points) > EXACT_POINTS
        ranks = np.ceil((np.arange(POINTS) + 0.5) * (size / POINTS)).astype(np.int64)
        assert (found.middles == np.sort(values)[ranks - 1]).all()
    elif len(points) <= EXACT_POINTS:
        assert (found.points == points).all()
    wanted = slice(None) if found.complete else times > 1
    order = np.argsort(found.points)
    assert (found.points[order] == points[wanted]).all()
    assert (found.times[order] == times[wanted]).all()


def test_repeated_hashes_are_found_where_they_first_come() -> None:
    """Each hash that comes again is told, with its number and its first row."""
    draw = np.random.default_rng(0)
    for size, kinds in ((1, 1), (5_000, 100), (60_000, 2**63), (60_000, 50_000)):
        hashes = draw.integers(0, kinds, size).astype(np.uint64) * np.uint64((2**64 - 1) // kinds)
        hashes[size // 2 :][: size // 8] = hashes[: size // 8]
        points, first, times = np.unique(hashes, return_index=True, return_counts=True)
        found, found_times = repeated(hashes)
        order = np.argsort(found)
        assert (found[order] == points[times > 1]).all()
        assert (found_times[order] == times[times > 1]).all()
        assert (first_places(hashes, found)[order] == first[times > 1]).all()


def test_texts_are_laid_out_without_their_neighbours() -> None:
    """Hashes, lengths and extremes are those of each text, wherever in memory it lies."""
    draw = random.Random(0)
    sizes = (0, 1, 2, 7, 8, 9, 15, 16, 17, 40, 300)
    letters = ("ab", "aé€x", "a\0", "𝄞\uffff~")
    texts = ["".join(draw.choices(draw.choice(letters), k=draw.choice(sizes))) for _ in range(999)]
    whole = pa.array(["before", *texts, "behind"])
    for begin, stop in ((1, 1000), (1, 2), (70, 300), (999, 1000)):
        some = [*texts[begin - 1 : stop - 1]]
        laid = Texts(whole.slice(begin, stop - begin))
        assert laid.characters().tolist() == [len(text) for text in some]
        assert laid.extremes() == (min(some), max(some))
        alone = [int(hash_texts(Texts(pa.array([text])))[0]) for text in some[:50]]
        assert hash_texts(Texts(whole.slice(begin, stop - begin)))[:50].tolist() == alone
    different = sorted({text for text in texts if "\0" not in text})
    assert len({*hash_texts(Texts(pa.array(different))).tolist()}) == len(different)
    assert hash_texts(Texts(pa.array(["", "a", "north\0", "12345678", "123456789"]))).tolist() == [
        0,
        3488433156311077093,
        1489891686241493196,
        6553971091377485215,
        7426855035985979249,
    ]


def test_texts_of_a_dictionary_are_described_as_plain_ones(tmp_path: Path) -> None:
    """However they are written, and whatever else is in the dictionary, byte by byte."""
    draw = np.random.default_rng(0)
    few = [None, *(f"value {at}" for at in range(3_000))]
    codes = draw.integers(0, len(few), 150_000)
    plain = pa.array([few[code] for code in codes])
    weight = draw.random(len(plain))
    ways = {
        "coded": plain.dictionary_encode(),
        "with others": pa.DictionaryArray.from_arrays(
            pa.array((codes - 1).clip(min=0), mask=codes == 0), [*few[1:], "no row's"]
        ),
        "with none": pa.DictionaryArray.from_arrays(pa.array(codes), few),
        "twice": pa.DictionaryArray.from_arrays(pa.array(codes % 4), ["a", "b", "a", "c"]),
        "long": pa.array(plain, pa.large_string()).dictionary_encode(),
    }
    for name, coded in ways.items():
        wanted = pa.table({"x": coded.dictionary_decode().cast(pa.string()), "weight": weight})
        pq.write_table(wanted, tmp_path / "rows.parquet")
        for one in (pa.table({"x": coded, "weight": weight}), tmp_path / "rows.parquet"):
            for weighing in (None, "weight"):
                found, expected = (describe(rows, weight=weighing) for rows in (one, wanted))
                assert found.to_bytes() == expected.to_bytes(), name


@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_a_dictionary_is_kept_where_it_has_all_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """In every row group, not only in the first; whichever are read so, the same is found."""
    rows = 20_000
    few = ["a", "b"] * rows
    later = {
        "many": few[:rows] + [f"{at * 2654435761 % 2**32:032b}" for at in range(rows)],
        "long": few[:rows] + [f"{at}{'z' * 1_000}" for at in range(rows)],
        "gone": few[:rows] + [None] * rows,
    }
    table = pa.table(
        {"few": few, **later, "several": [[text] for text in few], "number": [1.5] * 2 * rows}
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=rows, version=version)
    asked: list[list[str]] = []
    opened = pq.ParquetFile

    def noted(*args: Any, read_dictionary: list[str], **options: Any) -> pq.ParquetFile:
        asked.append(read_dictionary)
        return opened(*args, read_dictionary=read_dictionary, **options)

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", noted)
    found = describe(tmp_path / "rows.parquet")
    assert asked
    assert all(one == ["few", "gone"] for one in asked)
    pieces = Statistics()
    pieces.update(table.slice(0, rows))
    pieces.update(table.slice(rows))
    assert found.to_bytes() == pieces.to_bytes()


def test_a_refused_column_is_called_what_it_is(tmp_path: Path) -> None:
    """The type that an error names is the file's, however its texts would be read."""
    kinds = {"s": pa.struct([("t", pa.string())]), "m": pa.list_(pa.list_(pa.string()))}
    for name, kind in kinds.items():
        values = {"s": {"t": "a"}, "m": [["a"]]}[name]
        pq.write_table(pa.table({name: pa.array([values] * 9, kind)}), tmp_path / "rows.parquet")
        with pytest.raises(InvalidInput, match="can't be kept") as refused:
            describe(tmp_path / "rows.parquet")
        assert "string" in str(refused.value)
        assert "dictionary" not in str(refused.value)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["int", "uint"])
def test_a_dictionary_is_of_any_integers(sign: str, bits: int) -> None:
    """Of whatever width and sign the codes are, with weights and without."""
    codes = pa.array([0, 2, None, 1, 2], pa.type_for_alias(f"{sign}{bits}"))
    coded = pa.DictionaryArray.from_arrays(codes, ["a", "b", "c"])
    weights = [1.0, 2.0, 4.0, 8.0, 16.0]
    for weight in (None, "weight"):
        found, plain = (
            describe(pa.table({"x": each, "weight": weights}), weight=weight)
            for each in (coded, coded.cast(pa.string()))
        )
        assert found.to_bytes() == plain.to_bytes()


@pytest.mark.parametrize("kind", [pl.Categorical(), pl.Enum(["a", "never", "b", "c"])])
def test_categories_of_polars_are_texts(kind: pl.DataType) -> None:
    """Alone or in lists, as a frame or as Arrow has it; and they teach a schema as texts do."""
    texts = {"x": ["c", "a", None, "a"], "several": [["a"], None, ["b", None], []]}
    frame = pl.DataFrame(texts, {"x": kind, "several": pl.List(kind)})
    rows = pa.table(texts)
    expected = describe(rows).to_bytes()
    assert describe(frame).to_bytes() == expected
    assert describe(frame[:0]).result().column("x") is not None
    pieces = Statistics()
    pieces.update(pa.table(frame))
    assert pieces.to_bytes() == expected
    assert infer_schema(frame) == infer_schema(rows)
    for one in ({"by": "x"}, {"by": "x", "weight": "weight"}):
        weights = [1.0, 2.0, 3.0, 4.0]
        found = describe_slices(frame.with_columns(weight=pl.Series(weights)), **one)
        assert found.result() == (
            describe_slices(rows.append_column("weight", [weights]), **one).result()
        )


@pytest.mark.parametrize("library", ["pandas", "numpy.ma"])
def test_describing_loads_nothing_that_it_does_not_use(tmp_path: Path, library: str) -> None:
    """Where a library is installed, nobody waits until it is loaded who doesn't use it."""
    pytest.importorskip(library)
    columns = {"x": [1.5, None], "t": ["a", "b"], "f": [True, None], "n": [1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    code = (
        "import sys; from tidemill.data.statistics import describe;"
        f"describe({path!r}).result(); sys.exit({library!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
