"""Seconds and memory from atomic files to packed tables: the first time, and from the cache.

Method. Two processes, one after the other, share an empty cache folder. Counted is from the configuration to tables
that are ready for the first batch; the imports before are printed apart.

    python benchmarks/loading.py --dataset=ml-1m --data_path=DIR
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time


def measure(given: argparse.Namespace) -> dict[str, float]:
    begin = time.perf_counter()
    import torch

    torch.set_num_threads(1)
    from recbole.data import create_dataset

    from recbole_msr.training.config import build_config
    from recbole_msr.training.module import PackedData

    imported = time.perf_counter()
    config = build_config(given.model, given.dataset, {"data_path": given.data_path, "state": "ERROR"})
    splits = create_dataset(config).build()
    PackedData(config, dict(zip(("train", "valid", "test"), splits, strict=True)))
    return {
        "imports_s": imported - begin,
        "load_and_pack_s": time.perf_counter() - imported,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "rows": sum(map(len, splits)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HiNet")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given)))
        return
    with tempfile.TemporaryDirectory() as cache:
        for start in ("first start ", "second start"):
            done = subprocess.run(
                [sys.executable, os.path.abspath(__file__), "--measure", *sys.argv[1:]],
                env={**os.environ, "OMP_NUM_THREADS": "1", "RECBOLE_MSR_CACHE": cache},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(done.stderr)
            result = json.loads(done.stdout.splitlines()[-1])
            print(start, "  ".join(f"{key} {value:,.2f}" for key, value in result.items()))


if __name__ == "__main__":
    main()
