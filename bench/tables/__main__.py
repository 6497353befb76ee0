"""Builds a table of many keys with ``tidemill table build``, in turn with writing it by hand.

    python -m bench.tables [--smoke | --quick | --brief] [--repeats N]

Ten numbers in, three out, by a small network in ONNX; the key is two of the ten. Then the table is
built again where some rows, anywhere, are others: half have new keys, half other inputs. Time
and memory are those of whole processes, imports included.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from bench.effort import parse_effort
from bench.ours import TIDEMILL, Installation
from bench.results import Record, claim, claims_table, say
from bench.servers import ROOT, BenchmarkFailed
from onnx import TensorProto, helper, numpy_helper

ROWS = {"smoke": 50_000, "quick": 500_000, "brief": 5_000_000, "full": 5_000_000}
OTHER = {"0.1%": 0.001, "1%": 0.01, "10%": 0.1, "100%": 1.0}
"""The shares of rows that are others than before, where the table is built again and again."""
COLUMNS = [f"f{at}" for at in range(10)]
_LOOK_EVERY_S = 0.05


def main() -> None:
    """Runs the benchmark, prints the claims, and says where the figures are."""
    effort, _ = parse_effort("bench.tables", __doc__)
    rows = ROWS[effort.name]
    record = Record(
        "tables", effort=effort.name, repeats=effort.repeats, rows=rows, turns=[], finished=False
    )
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            folder = Path(made)
            _write_rows(folder, rows)
            _write_model(folder / "model.onnx")
            for turn in range(effort.repeats):
                ours = _ours(folder, turn)
                hand = _by_hand(folder)
                record.values["turns"].append({**ours, "by_hand": hand})
                record.write(claims=_claims(record.values["turns"]))
                took = {**ours, "by hand": hand}
                told = ", ".join(f"{name} {each['s']:.1f} s" for name, each in took.items())
                say(f"  turn {turn + 1}: {told}")
    except BenchmarkFailed as error:
        sys.exit(f"bench.tables: {error}")
    record.write(finished=True)
    print(claims_table(record.values["claims"]))
    say(f"written to {record.path}")


def _claims(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    speed = statistics.median(each["by_hand"]["s"] / each["ours"]["s"] for each in turns)
    memory = max(each[name]["peak_bytes"] for each in turns for name in ("ours", *OTHER))
    refresh = statistics.median(each["1%"]["cpu_s"] / each["ours"]["cpu_s"] for each in turns)
    return [
        claim("CPU of a refresh of 1% / full build", refresh, "<=", 0.5),
        claim("speed of table build / by hand", speed, ">=", 0.8),
        claim("memory of table build", memory / 1e6, "<=", 1000, "MB"),
    ]


def _ours(folder: Path, turn: int) -> dict[str, dict[str, float]]:
    """Builds, then builds again by each share; with how many keys each scored."""
    home = folder / f"home{turn}"
    Installation(home=home).push(folder / "model.onnx", "network")
    where = ("--key", "f0,f1", "--home", str(home), "--json")
    command = [*TIDEMILL, "table", "build", "network", *where]
    found = {}
    for name in ("ours", *OTHER):
        took, said = _measured([*command, "--from", str(_rows_of(folder, name))])
        keys = json.loads(said)["build"]["keys"]
        found[name] = {**took, "scored": keys["new"] + keys["changed"]}
    shutil.rmtree(home)
    return found


def _by_hand(folder: Path) -> dict[str, float]:
    target = folder / "by_hand"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    files = [str(folder / "model.onnx"), str(_rows_of(folder, "ours")), str(target)]
    return _measured([sys.executable, "-m", "bench.tables.by_hand", *files])[0]


def _measured(command: Sequence[str]) -> tuple[dict[str, float], bytes]:
    """Runs a process; returns its seconds, and the most memory that it held, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        process = psutil.Popen(command, cwd=ROOT, stdout=said, stderr=told)
        while process.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(_LOOK_EVERY_S)
        took = time.monotonic() - began
        told.seek(0)
        if process.wait() != 0:
            raise BenchmarkFailed(f"{command[1:5]} failed: {told.read()[-500:].decode()}")
        said.seek(0)
        answer = said.read()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {"s": took, "cpu_s": cpu_s, "peak_bytes": peak}, answer


def _rows_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def _write_rows(folder: Path, count: int) -> None:
    """Writes rows whose keys are all different, then what becomes of them, step by step."""
    random = np.random.default_rng(0)
    columns = {name: random.random(count, dtype=np.float32) for name in COLUMNS}
    columns["f0"] = np.arange(count, dtype=np.float32)
    pq.write_table(pa.table(columns), _rows_of(folder, "ours"))
    for name, share in OTHER.items():
        chosen = random.choice(count, int(share * count), replace=False)
        columns["f0"][chosen[::2]] += count
        columns["f9"][chosen[1::2]] += 1.0
        pq.write_table(pa.table(columns), _rows_of(folder, name))


def _write_model(path: Path) -> None:
    random = np.random.default_rng(1)
    weights = {"w": (10, 16), "v": (16, 3)}
    nodes = [
        helper.make_node("Concat", COLUMNS, ["x"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in COLUMNS],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


if __name__ == "__main__":
    main()
