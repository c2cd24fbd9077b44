"""Record what plain RecBole computes on the stack it was written for: the reference of `tests/test_compat.py`.

Run with a Python 3.10 or 3.11 that has RecBole 1.2.1, NumPy 1.26, pandas 2, SciPy 1.12, setuptools < 81 and
ray 2.6.3; ``recbole_msr`` is not used::

    python tests/reference/record_recbole.py

It writes ``recbole_old_stack.json`` beside itself. The test takes :data:`RUNS` and :func:`train` from here:
both sides do the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).with_name("recbole_old_stack.json")

COMMON: dict[str, Any] = {
    "dataset": "ml-100k",
    "epochs": 2,
    "seed": 2020,
    "reproducibility": True,
    "use_gpu": False,
    "worker": 0,
    "show_progress": False,
    "metric_decimal_place": 12,
    "train_batch_size": 2048,
    "eval_batch_size": 40960,
}

# ml-100k comes with RecBole, whose settings for it turn ratings of 4 and more into the label.
LABELLED: dict[str, Any] = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender", "occupation"],
        "item": ["item_id", "release_year", "class"],
    },
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    "train_neg_sample_args": None,
    "metrics": ["AUC", "LogLoss"],
    "valid_metric": "AUC",
}

RANKED: dict[str, Any] = {
    "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
    "topk": [10],
    "valid_metric": "MRR@10",
}

RUNS: dict[str, dict[str, Any]] = {
    "DeepFM": LABELLED,
    "DCNV2": {**LABELLED, "mlp_hidden_size": [128, 128]},
    "AutoInt": LABELLED,
    "BPR": RANKED,
    "LightGCN": RANKED,
    # Small, because attention over 100,000 sequences would be the slowest run by far.
    "SASRec": {
        **RANKED,
        "train_neg_sample_args": None,
        "user_inter_num_interval": "[20,80]",
        "MAX_ITEM_LIST_LENGTH": 10,
        "n_layers": 1,
        "hidden_size": 16,
        "inner_size": 32,
    },
    "CFKG": RANKED,
}


def train(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train as ``run_recbole`` does, in the current folder, and return losses and metrics.

    ``torch.set_num_threads(1)`` is the caller's: sums in another order have other last digits.
    """
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    arguments, sys.argv = sys.argv, sys.argv[:1]  # Config would read this program's as its own
    try:
        config = Config(model=model, config_dict={**COMMON, **settings})
    finally:
        sys.argv = arguments
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    net = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, net)
    _, valid = trainer.fit(train_data, valid_data, show_progress=False)
    test = trainer.evaluate(test_data, show_progress=False)
    losses = [trainer.train_loss_dict[epoch] for epoch in sorted(trainer.train_loss_dict)]
    return {
        "train_loss": [[float(x) for x in loss] if isinstance(loss, tuple) else float(loss) for loss in losses],
        "valid": {name: float(value) for name, value in valid.items()},
        "test": {name: float(value) for name, value in test.items()},
    }


def arithmetic() -> str:
    """A fingerprint of this machine's floating-point kernels.

    Another processor sums in another order: last bits differ, and after two epochs the metrics by up to 3e-4.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 512, 512, generator=generator)
    z = torch.softmax(x @ y.T, dim=-1).log_softmax(dim=0)
    parts = (z, z.sum(dim=0), z.mean(), torch.sigmoid(x).exp().tanh(), x[:, :7] @ y[:7], (x * y).norm(dim=1))
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()


def main() -> None:
    # RecBole calls torch.load without weights_only, whose default is True since torch 2.6.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    import numpy
    import pandas
    import recbole
    import scipy
    import torch

    if int(numpy.__version__.split(".")[0]) > 1 or int(pandas.__version__.split(".")[0]) > 2:
        raise SystemExit("The reference is recorded on NumPy 1 and pandas 2, where RecBole needs no change.")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    results = {}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes log, log_tensorboard and saved into the current folder
        try:
            for model, settings in RUNS.items():
                result = train(model, settings)
                results[model] = {"config": {**COMMON, **settings}, **result}
                print(model, result, flush=True)
        finally:
            os.chdir(here)
    versions = {
        "python": platform.python_version(),
        **{m.__name__: m.__version__ for m in (numpy, pandas, recbole, scipy, torch)},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "arithmetic": arithmetic(),
    }
    REFERENCE.write_text(json.dumps({"versions": versions, "runs": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
