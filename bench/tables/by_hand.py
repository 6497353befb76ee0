"""The same answers by hand: the model on the whole array, one Parquet file, one sorted LMDB file.

    python -m bench.tables.by_hand MODEL ROWS FOLDER

It knows what no program for all models knows: that keys are two numbers in ascending order, that no
key comes twice, that an answer is three numbers. Nothing is checked, resumed or recorded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import lmdb
import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq

_BLOCK = 100_000


def main(model: Path, rows: Path, folder: Path) -> None:
    """Scores all rows at once, and writes the answers twice."""
    table = pq.read_table(rows)
    columns = {name: table[name].to_numpy().reshape(-1, 1) for name in table.column_names}
    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, columns)
    listed = pa.FixedSizeListArray.from_arrays(pa.array(answers.reshape(-1)), 3)
    kept = pa.table({"f0": table["f0"], "f1": table["f1"], "p": listed})
    pq.write_table(kept, folder / "answers.parquet", compression="zstd", compression_level=1)
    first, second = (columns[name] for name in ("f0", "f1"))
    keys = np.hstack([each.astype(">f4").view(np.uint8) for each in (first, second)])
    order = np.lexsort((second[:, 0], first[:, 0]))
    size = 4 * answers.nbytes + 4 * keys.nbytes + (64 << 20)
    with lmdb.open(str(folder / "table"), map_size=size, sync=False) as environment:
        for start in range(0, len(order), _BLOCK):
            at = order[start : start + _BLOCK]
            key, value = keys[at].tobytes(), answers[at].tobytes()
            items = [(key[8 * i : 8 * i + 8], value[12 * i : 12 * i + 12]) for i in range(len(at))]
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(items, append=True)
        environment.sync(True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
