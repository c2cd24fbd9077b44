"""Rows a second and memory of `recbole-msr predict`, for files of several sizes.

Method. Each version trains a small run on the same synthetic rows. Every measurement is a process of its own, which
imports the package and reads the run before the clock starts, scores a file by `predict_file`, and reports the
processor's seconds, its peak of resident memory (`ru_maxrss`), and how much of that was there before the file. With
`--before DIR`, another version of the package, both take turns.

    python -m benchmarks.predict [--before DIR] [--rows 200000,1000000] [--rounds 3] [--kinds csv,parquet]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from benchmarks import synthetic

_TRAIN = """
import json, sys
import recbole_msr
recbole_msr.run("SharedBottom", sys.argv[1], config=json.loads(sys.argv[2]))
"""

_PREDICT = """
import json, resource, sys, time
try:
    from recbole_msr.runs import predict
except ImportError:  # a version before that room was made
    from recbole_msr.training import predict
run, data, out = sys.argv[1:]
predict.Predictor(run)  # imports what is imported late
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
predict.predict_file(run, data, out)
seconds = time.process_time() - began
print(json.dumps([seconds, before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the root of another version, to compare with")
    parser.add_argument("--rows", default="200000,1000000")
    parser.add_argument("--kinds", default="csv,parquet")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    versions = {"now": Path(__file__).resolve().parent.parent} | ({"before": options.before} if options.before else {})
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        runs = {name: _train(root, folder, folder / name) for name, root in versions.items()}
        print("| file | rows | version | rows/s | MiB before the file | MiB at most |\n|---|---:|---|---:|---:|---:|")
        for rows in map(int, options.rows.split(",")):
            columns = synthetic.draw(rows=rows, ids=20_000, seed=7)
            table = pa.table({name: columns[name] for name in columns if name not in synthetic.TASKS})
            for kind in options.kinds.split(","):
                data = folder / f"rows.{kind}"
                csv.write_csv(table, data) if kind == "csv" else pq.write_table(table, data)
                measured: dict[str, list[list[float]]] = {name: [] for name in versions}
                for _ in range(options.rounds):
                    for name, root in versions.items():
                        measured[name].append(_measure(root, runs[name], data, folder / f"out.{kind}"))
                for name, values in measured.items():
                    seconds, before, most = map(statistics.median, zip(*values, strict=True))
                    print(
                        f"| {kind} | {rows:,} | {name} | {rows / seconds:,.0f} | {before:,.0f} | {most:,.0f} |",
                        flush=True,
                    )


def _train(root: Path, folder: Path, run: Path) -> Path:
    data = synthetic.make(folder / "data", rows=40_000, ids=20_000)
    settings = {"epochs": 1, "use_gpu": False, "show_progress": False, "state": "ERROR", "threads": 1}
    settings = synthetic.SETTINGS | settings | {"data_path": str(data), "output_dir": str(run)}
    _call(root, _TRAIN, synthetic.NAME, json.dumps(settings))
    return run


def _measure(root: Path, run: Path, data: Path, out: Path) -> list[float]:
    values: list[float] = json.loads(_call(root, _PREDICT, str(run), str(data), str(out)).splitlines()[-1])
    return values


def _call(root: Path, code: str, *arguments: str) -> str:
    """Run a process of this version; return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
