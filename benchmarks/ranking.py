"""Full-sort evaluation of ml-100k: (user, item) pairs a second of this package's models and of RecBole's evaluation.

    python -m benchmarks.ranking [MODEL ...]

One thread. Each evaluation of the test split is measured in turn for all, by processor time, and the median counts.
Both sides read the same fields and rank the same items; RecBole's model is DeepFM with its defaults.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

import recbole_msr  # noqa: F401  (lets RecBole run on today's stack)

MODELS = ("SharedBottom", "DeepFM")
ROUNDS = 3
RANKED = {
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "full"},
    "metrics": ["NDCG", "Recall"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "use_gpu": False,
    "state": "ERROR",
}
FIELDS = {
    "inter": ["user_id", "item_id", "rating", "timestamp"],
    "user": ["user_id", "age", "gender", "occupation"],
    "item": ["item_id", "release_year", "class"],
}


def of_recbole() -> tuple[Callable[[], Any], int]:
    """Return RecBole's evaluation of its DeepFM, and its number of pairs."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model

    drawn = {"distribution": "uniform", "sample_num": 1}
    given = RANKED | {"load_col": FIELDS, "train_neg_sample_args": drawn, "eval_batch_size": 8192}
    config = Config(model="DeepFM", dataset="ml-100k", config_dict=given)
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    trainer = Trainer(config, get_model("DeepFM")(config, train.dataset))
    trainer.eval_collector.data_collect(train)
    return lambda: trainer.evaluate(test, load_best_model=False), len(test.uid_list) * dataset.item_num


def of_ours(model: str, cache: str) -> tuple[Callable[[], Any], int]:
    """Return our evaluation of a model, and its number of pairs."""
    from recbole.data import create_dataset
    from recbole.utils import get_model

    from recbole_msr.config.build import build_config
    from recbole_msr.data.ranked_lists import RankedLists
    from recbole_msr.training.trainer import LightningTrainer

    given = RANKED | {"preset": "ml-100k", "eval_batch_size": 8192, "cache_dir": cache, "trainer": "lightning"}
    config = build_config(model, "ml-100k", given)
    train, _, test = create_dataset(config).build()
    trainer = LightningTrainer(config, get_model(model)(config, train))
    lists = RankedLists.of_split(test.every_label, config)
    return lambda: trainer.evaluate(test, load_best_model=False), len(lists) * lists.n_items


def measure(models: tuple[str, ...]) -> dict[str, float]:
    """Return the pairs a second, by what was evaluated."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        sides = {"RecBole, DeepFM": of_recbole()} | {f"ours, {model}": of_ours(model, cache) for model in models}
        for _ in range(ROUNDS + 1):
            for name, (evaluate, _) in sides.items():
                began = time.process_time()
                evaluate()
                seconds.setdefault(name, []).append(time.process_time() - began)
    return {name: sides[name][1] / statistics.median(times[1:]) for name, times in seconds.items()}


def main() -> None:
    """Print the rates as Markdown."""
    torch.set_num_threads(1)
    rates = measure(tuple(sys.argv[1:]) or MODELS)
    print("| evaluation | pairs a second | to RecBole |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates['RecBole, DeepFM']:.2f} |")


if __name__ == "__main__":
    main()
