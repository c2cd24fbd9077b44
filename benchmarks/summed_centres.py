"""AdaptDHM's clusters on MovieLens-1M where a centre moves by the sum of a batch's rows, as Scenario-Wise-Rec's do.

    recbole-msr data ml-1m RAW_DIR DIR
    python -m benchmarks.summed_centres --data_path=DIR [--epochs 2]

Method. The preset ml-1m-AdaptDHM, but for the rule: c_k <- normalised(rho c_k + (1 - rho) sum_b r_bk v_b), with
r_bk = softmax_k(c_k . v_b) of the rows v as they are. Prints, after some training steps, the least cosine of any two
centres, and how many rows of the batch each cluster has.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import recbole_msr
from recbole_msr.files.yaml import read_yaml
from recbole_msr.models.adaptdhm import AdaptDHM
from recbole_msr.registry import properties

SHOWN = (1, 2, 3, 5, 10, 20, 50, 100, 200, 300)
"""Training steps that are printed."""


class SummedCentres(AdaptDHM):
    """AdaptDHM whose centres move by sums."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self._steps = 0

    @torch.no_grad()
    def _move_centres(self, v: Tensor) -> None:
        v = v.to(self.centres.dtype)
        for _ in range(self.iterations):
            sums = (v @ self.centres.t()).softmax(dim=1).t() @ v
            self.centres.copy_(F.normalize(self.momentum * self.centres + (1 - self.momentum) * sums, dim=1))
        self._steps += 1
        if self._steps in SHOWN:
            cosine = float((self.centres @ self.centres.t()).min())
            rows = torch.bincount(self._cluster(v), minlength=self.n_clusters).tolist()
            print(f"| {self._steps} | {cosine:.6f} | {rows} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2022)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    recbole_msr.register(SummedCentres, read_yaml(properties("model", "AdaptDHM.yaml")))
    print("| step | least cosine of two centres | rows of each cluster |\n|---:|---:|---|", flush=True)
    config = {"preset": "ml-1m-AdaptDHM", "threads": 1, "use_gpu": False, "show_progress": False, "state": "ERROR"}
    config |= {"data_path": given.data_path, "epochs": given.epochs, "seed": given.seed, "data_seed": given.seed}
    with tempfile.TemporaryDirectory() as folder:
        recbole_msr.run("SummedCentres", "ml-1m", config=config | {"output_dir": f"{folder}/run"})


if __name__ == "__main__":
    main()
