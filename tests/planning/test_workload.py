"""The workload's sketches against counting everything, and its sources against their oddities."""

from __future__ import annotations

import gzip
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.keys import hash_rows
from tidemill.data.ledger import LedgerWriter, PredictionRecord
from tidemill.foundation.errors import DataRefused, InvalidInput, NotFound
from tidemill.planning.traffic import Popularity
from tidemill.planning.workload.reuse import distances
from tidemill.planning.workload.sketch import SAMPLED_REQUESTS, Workload
from tidemill.planning.workload.sources import read_access_log, read_served, read_trace


def hit_rate(keys: list[int], entries: int, since: int = 0) -> float:
    """What a cache of the keys used last really answers, from a request on."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for at, key in enumerate(keys):
        hits += at >= since and key in cache
        cache[key] = None
        cache.move_to_end(key)
        if len(cache) > entries:
            cache.popitem(last=False)
    return hits / (len(keys) - since)


def taken(times: Any, keys: Any, *, batch: int = 50_000) -> Workload:
    """The sketch of a trace that comes in batches."""
    seen = Workload()
    for start in range(0, len(keys), batch):
        table = pa.table({"k": keys[start : start + batch]})
        part = np.asarray(times[start : start + batch], np.float64)
        seen.update(part, hash_rows(table, ["k"]), lambda at, table=table: str(table["k"][at]))
    return seen


def zipf(n: int, cardinality: int, exponent: float, seed: int = 0) -> Any:
    """Times of a Poisson process at 100/s, and keys by Zipf's law."""
    random = np.random.default_rng(seed)
    likely = np.arange(1, cardinality + 1) ** -exponent
    keys = random.choice(cardinality, n, p=likely / likely.sum())
    return np.cumsum(random.exponential(0.01, n)), keys


@given(st.lists(st.integers(0, 8), max_size=60))
def test_distances_are_the_keys_in_between(keys: list[int]) -> None:
    """As counting them one by one finds."""
    wanted = []
    for at, key in enumerate(keys):
        before = [i for i in range(at) if keys[i] == key]
        wanted.append(len(set(keys[before[-1] + 1 : at])) if before else -1)
    assert distances(np.array(keys, np.uint64)).tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 50.0), st.integers(0, 40)), min_size=3, max_size=200),
    st.integers(1, 199),
)
def test_few_keys_are_counted_exactly_in_parts_as_in_one(
    requests: list[tuple[float, int]], cut: int
) -> None:
    """Every figure is that of counting, and merging what came later changes nothing."""
    times = np.cumsum([gap for gap, _ in requests])
    keys = [key for _, key in requests]
    if times[-1] - times[0] < 1e-6:
        return
    whole = taken(times, keys, batch=7).result()
    counts = np.sort(np.unique(keys, return_counts=True)[1])[::-1]
    n = len(keys)
    assert (whole.requests, whole.cardinality, whole.exact) == (n, len(counts), True)
    for k in (1, 10, 100):
        assert whole.top_share[str(k)] == pytest.approx(counts[:k].sum() / n, abs=1e-6)
    for entries, hits in whole.cache:
        assert hits == pytest.approx(hit_rate(keys, entries), abs=1e-6)
    gaps = np.diff(times)
    assert whole.cv2 == pytest.approx(gaps.var() / gaps.mean() ** 2, rel=1e-6, abs=1e-9)
    new = set(keys[n // 2 :]) - set(keys[: n // 2])
    assert whole.new_key_rate == pytest.approx(len(new) / (n - n // 2), abs=1e-6)
    cut = min(cut, n - 1)
    first, second = taken(times[:cut], keys[:cut]), taken(times[cut:], keys[cut:])
    first.merge(second)
    merged = first.result()
    for name in ("cardinality", "top_share", "gini", "reuse", "new_key_rate", "head"):
        assert getattr(merged, name) == getattr(whole, name), name
    assert merged.heavy[0].share == whole.heavy[0].share
    assert merged.cv2 == pytest.approx(whole.cv2, rel=1e-9, abs=1e-12)
    assert (merged.peak_to_mean, merged.window_s) == (whole.peak_to_mean, whole.window_s)


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.1])
def test_many_keys_are_estimated_within_what_is_stated(exponent: float) -> None:
    """Half a million requests of up to 200,000 keys: two points of share, 3 % of keys."""
    times, keys = zipf(500_000, 200_000, exponent)
    seen = taken(times, keys)
    found = seen.result()
    counts = np.sort(np.unique(keys, return_counts=True)[1])[::-1]
    assert found.cardinality == pytest.approx(len(counts), rel=0.03)
    for k, share in found.top_share.items():
        assert share == pytest.approx(counts[: int(k)].sum() / len(keys), abs=0.02), k
    listed = keys.tolist()
    for entries, hits in found.reuse.items():
        assert hits == pytest.approx(hit_rate(listed, int(entries)), abs=0.02), entries
    rising = np.cumsum(counts[::-1]) / len(keys)
    area = np.trapezoid(np.append(0.0, rising), np.linspace(0.0, 1.0, len(rising) + 1))
    assert found.gini == pytest.approx(1.0 - 2.0 * area, abs=0.03)
    if exponent:
        assert found.zipf_exponent == pytest.approx(exponent, abs=0.05)
    assert found.cv2 == pytest.approx(1.0, abs=0.05)
    assert len(seen._sample) <= SAMPLED_REQUESTS
    for entries, hits in found.cache_later:
        if entries < 100:  # of so few, chance says what is in the sample
            continue
        assert hits == pytest.approx(hit_rate(listed, entries, since=250_000), abs=0.02), entries
    known = np.unique(keys[:250_000], return_counts=True)
    falling = known[0][np.argsort(-known[1], kind="stable")]
    for k, share in found.head_later:
        if str(k) not in found.top_share:
            continue
        assert share == pytest.approx(np.isin(keys[250_000:], falling[:k]).mean(), abs=0.02), k
    assert found.traffic().cardinality == found.cardinality


def test_a_plan_is_told_what_the_past_is_good_for_later() -> None:
    """Which of equal keys came most often was chance; a cache that was empty has been filled."""
    times, keys = zipf(4000, 1000, 0.0)
    found = taken(times, keys).result()
    traffic = found.traffic()
    ahead = dict(traffic.top)[100]
    assert dict(found.head)[100] > 0.16
    assert ahead == pytest.approx(0.1, abs=0.02)
    late = keys[2000:]
    best = np.argsort(-np.bincount(keys[:2000], minlength=1000), kind="stable")
    assert ahead == pytest.approx(np.isin(late, best[:100]).mean(), abs=0.02)
    filled = hit_rate(keys.tolist(), 1000, since=2000)
    assert dict(traffic.reuse)[1000] == pytest.approx(filled, abs=1e-6)
    assert filled > dict(found.cache)[1000] + 0.1


def test_a_key_that_took_over_carries_what_it_carries_now() -> None:
    """Of which more may be asked later than of all together: also where keys are sampled."""
    keys = np.where(np.arange(1000) < 500, np.arange(1000) % 6 % 5, 0)
    found = taken(np.arange(1000) * 1.0, keys).result()
    assert dict(found.head_later)[1] == pytest.approx(1.0, abs=1e-6)
    _, early = zipf(200_000, 200_000, 1.0)
    _, late = zipf(200_000, 200_000, 1.3)
    keys = np.concatenate([early, late])
    seen = taken(np.arange(400_000) * 1.0, keys).result()
    assert seen.sampled < 1.0
    falling = np.argsort(-np.bincount(early, minlength=200_000), kind="stable")
    for k in (100, 1000, 10_000):
        really = np.isin(late, falling[:k]).mean()
        assert dict(seen.head_later)[k] == pytest.approx(really, abs=0.1), k
        assert dict(seen.head_later)[k] > dict(seen.head)[k]


def test_no_table_is_promised_to_know_what_came_up_after_it() -> None:
    """Where the later half asks for other keys, though often; where it does not, all is as it was.

    What is promised of a table of all keys is there in as long a time afterwards.
    """
    keys = np.concatenate([np.tile(np.arange(100), 10), np.tile(np.arange(100, 200), 10)])
    moved = Popularity(taken(np.arange(2000) * 1.0, keys).result().traffic())
    assert moved.covers(100) == 0.0
    assert moved.covers(200) <= 0.1
    assert moved.cached(200) == pytest.approx(0.9, abs=0.01)
    for exponent in (0.6, 1.0, 1.4):
        times, keys = zipf(16_000, 5000, exponent)
        found = taken(times[:8000], keys[:8000]).result()
        really = np.isin(keys[8000:], keys[:8000]).mean()
        promised = Popularity(found.traffic()).covers(found.cardinality)
        assert really - 0.1 < promised <= really + 0.01


def test_bursts_show() -> None:
    """A clock has no variation; requests that come in tens have much, and a peak."""
    clock = taken(np.arange(1000) * 0.1, [1] * 1000).result()
    assert (clock.cv2, round(clock.peak_to_mean, 1)) == (pytest.approx(0.0, abs=1e-9), 1.0)
    bursts = taken(np.repeat(np.arange(100) * 1.0, 10), [1] * 1000).result()
    assert bursts.cv2 > 5.0
    morning = np.concatenate([np.arange(0, 500, 1.0), 500 + np.arange(0, 50, 0.05)])
    assert taken(morning, [1] * len(morning)).result().peak_to_mean > 5.0


def test_what_is_no_workload_is_told() -> None:
    """Nothing, one request, two at one moment, parts in the wrong order."""
    for times in ([1.0], [1.0, 1.0]):
        with pytest.raises(DataRefused, match="make no workload"):
            taken(times, [1] * len(times)).result()
    with pytest.raises(DataRefused, match=r"there is no request .* Have it asked first"):
        taken([], []).result()
    blind = Workload()
    blind.skipped = 7
    with pytest.raises(DataRefused, match=r"no request .* \(7 rows were left out: no time"):
        blind.result()
    early, late = taken([1.0, 2.0], [1, 2]), taken([3.0, 4.0], [1, 2])
    with pytest.raises(InvalidInput, match="cannot follow"):
        late.merge(early)


def test_a_trace_is_read_whatever_its_format_and_order(tmp_path: Path) -> None:
    """CSV and Parquet, seconds and timestamps, sorted or not: one profile."""
    times, keys = zipf(3000, 50, 1.0)
    stamps = pa.array((times * 1e6).astype(np.int64)).cast(pa.timestamp("us"))
    rows = pa.table({"time": times, "k": keys, "other": keys % 2})
    pq.write_table(rows, tmp_path / "a.parquet")
    pq.write_table(rows.set_column(0, "at", stamps), tmp_path / "b.parquet")
    mixed = rows.take(np.random.default_rng(1).permutation(3000))
    pq.write_table(mixed, tmp_path / "c.parquet")
    lines = [f"{t!r},{k}" for t, k in zip(times.tolist(), keys.tolist(), strict=True)]
    (tmp_path / "d.csv").write_text("time,k\n" + "\n".join(lines) + "\n")
    wanted = read_trace(tmp_path / "a.parquet", ["k"]).result()
    assert wanted.heavy[0].key == "0"
    both = read_trace(tmp_path / "a.parquet").result()
    assert both.heavy[0].key == "k=0, other=0"
    for name, more in (("b.parquet", {"time": "at"}), ("c.parquet", {}), ("d.csv", {})):
        found = read_trace(tmp_path / name, ["k"], **more).result()
        assert found.top_share == wanted.top_share
        assert found.reuse == wanted.reuse
        assert found.cv2 == pytest.approx(wanted.cv2, rel=1e-3)
        assert found.reordered == 0


def test_a_wrong_trace_is_told_why(tmp_path: Path) -> None:
    """No file, no time, no such key, no times, nothing in it; rows without a time are counted."""
    with pytest.raises(NotFound):
        read_trace(tmp_path / "none.csv")
    for text, key, said in (
        ("at,k\n1,2\n", None, "no column 'time'"),
        ("time,k\n1,2\n", ["x"], "no column 'x'"),
        ("time\n1\n2\n", None, "no column but 'time'"),
        ("time,k\nsoon,1\nlater,2\n", None, "holds no times"),
        ("time,k\n1795727133357,1\n1795727133358,2\n", None, "are no seconds .*milliseconds"),
        ("", None, "cannot be read"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InvalidInput, match=said):
            read_trace(tmp_path / "bad.csv", key)
    (tmp_path / "gaps.csv").write_text("time,k\n1,a\n,b\nnan,c\n2,\n3,a\n")
    found = read_trace(tmp_path / "gaps.csv").result()
    assert (found.requests, found.skipped, found.cardinality) == (3, 2, 2)


def test_an_access_log_is_read_line_by_line(tmp_path: Path) -> None:
    """Common and combined format, gzipped too; what is no entry is counted."""
    entry = '127.0.0.1 - ann [10/Oct/2000:13:55:{:02} -0700] "GET {} HTTP/1.1" 200 23{}\n'
    text = entry.format(36, "/a?x=1", "") + entry.format(37, "/a?x=1", ' "-" "curl/8"')
    text += "what is this\n" + entry.format(40, "/b", "")
    (tmp_path / "log").write_text(text)
    (tmp_path / "log.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("log", "log.gz"):
        found = read_access_log(tmp_path / name).result()
        assert (found.requests, found.skipped, found.duration_s) == (3, 1, 4.0)
        assert [each.key for each in found.heavy] == ["/a?x=1", "/b"]
    (tmp_path / "cut.gz").write_bytes(gzip.compress(text.encode())[:-9])
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_access_log(tmp_path / "cut.gz")


def _asked(folder: Path, questions: Sequence[Mapping[str, float]]) -> None:
    """Writes down what an application was asked, one question a second."""
    with LedgerWriter(folder, "gateway-1") as ledger:
        for at, inputs in enumerate(questions):
            ledger.append_predictions(
                [
                    PredictionRecord(
                        request_id=f"r{at}",
                        time=1e9 + at,
                        application="app",
                        version=1,
                        source="model",
                        inputs={name: np.array([value]) for name, value in inputs.items()},
                        outputs={"y": np.array([1.0])},
                        n=1,
                    )
                ]
            )


def test_questions_without_a_column_of_the_key_are_skipped(tmp_path: Path) -> None:
    """As those from before it was the key; a column that no question has is an error."""
    _asked(tmp_path, [{"a": 1.0, "b": 1.0}] * 3 + [{"a": 1.0}] * 2)
    for represent in ({}, {"a": "step(2)"}):
        found = read_served(tmp_path, "app", ("a", "b"), represent=represent).result()
        assert (found.requests, found.skipped, found.cardinality) == (3, 2, 1)
    assert read_served(tmp_path, "app", ("a",)).result().requests == 5
    with pytest.raises(InvalidInput, match="have no input 'c'"):
        read_served(tmp_path, "app", ("a", "c"))


def test_without_a_key_each_question_counts_by_what_it_has_itself(tmp_path: Path) -> None:
    """In whatever order they came, those with another column less too; what folds is one key."""
    kinds = [{"a": 1.0, "b": 5.0}, {"a": 1.0}, {"a": 0.9, "b": 5.0}, {"b": 5.0}]
    for name, order in (("forth", kinds), ("back", kinds[::-1])):
        _asked(tmp_path / name, order)
        found = read_served(tmp_path / name, "app", (), represent={"a": "step(0.5)"}).result()
        assert (found.requests, found.skipped, found.cardinality) == (3, 1, 2)
        assert {each.key for each in found.heavy} == {"a=1.0, b=5.0", "a=1.0"}
        with pytest.raises(InvalidInput, match="have no input 'c'"):
            read_served(tmp_path / name, "app", (), represent={"c": "step(1)"})
