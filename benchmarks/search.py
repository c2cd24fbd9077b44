"""A search of this package beside RecBole's HyperTuning doing the same eight trials.

Method. Eight trials: all combinations of a few values, the same rows, split, epochs and thread total (the cores of the
machine) on every side, each side in a process of its own, one after the other:
    HyperTuning       RecBole's HyperTuning (hyperopt, exhaustive) over RecBole's own Trainer as published, one process
                      with all threads; the objective is RecBole's `objective_function`, the data are read by RecBole
                      as published. HiNet is the plain one there, on data read by this package, without its cache
    search, 1 worker  this package's, one process with all threads
    search, 2 workers two processes, half the threads each
    not fused         two workers, and never several trials in one batched model (a search does that where it pays)
None prunes. The wall time of the whole command is taken, imports and reading the data included; our runs begin with an
empty cache. What a trial costs depends on the model: where it is small, RecBole's time is that of reading the data anew
for every trial; where it is large, that of its arithmetic. Needs `pip install hyperopt`.

    python -m benchmarks.search --models LR HiNet --data_path=DIR --pruning

`--pruning` also measures trials an hour without and with the median pruner (after two trials, from the first epoch on).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, has_data, without_tasks
from benchmarks.process import measured

POINTS: dict[str, dict[str, list[float]]] = {
    "LR": {"learning_rate": [0.001, 0.003, 0.01, 0.03], "weight_decay": [0.0, 0.00001]},
    "DeepFM": {"learning_rate": [0.001, 0.003], "dropout_prob": [0.1, 0.3], "embedding_size": [8, 16]},
    "HiNet": {"learning_rate": [0.001, 0.003], "dropout": [0.1, 0.3], "sub_experts": [2, 4]},
}
_OURS = ("preset", "scenario", "tasks", "main_task")
DATASETS = {"LR": "ml-1m", "DeepFM": "ml-1m", "HiNet": "ml-100k"}
"""HiNet's trials are long enough on ml-100k to say what its arithmetic costs."""


def hyper_tuning(model: str, dataset: str, data_path: str | None, epochs: int) -> dict[str, Any]:
    """RecBole's search; for a process of its own."""
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import HyperTuning, Trainer
    from recbole.utils import get_model, init_seed

    from benchmarks.measure import as_recbole, configuration
    from recbole_msr.config.build import build_config

    case = Case(model, dataset, "RecBole, plain" if model == "HiNet" else "RecBole")
    scores: list[float] = []

    def prepared(own: dict[str, Any]) -> tuple[Any, Any]:
        if model == "HiNet":  # needs scenarios and tasks, and so this package's dataset
            config = configuration(case, data_path, own)
            data = create_dataset(config)
            return config, as_recbole(config, data, data.build())
        given = case.settings(data_path) | without_tasks(dataset, data_path) | {"checkpoint_dir": os.getcwd()} | own
        config = build_config(model, dataset, {k: v for k, v in given.items() if k not in _OURS})
        return config, create_dataset(config)

    def objective(config_dict: Any = None, config_file_list: Any = None) -> dict[str, Any]:
        # recbole.quick_start.objective_function, but for where the configuration comes from.
        own = {"epochs": epochs, "packed_cache": False, **config_dict}
        init_seed(2022, True)
        config, data = prepared(own)
        train, valid, test = data_preparation(config, data)
        init_seed(config["seed"], config["reproducibility"])
        trainer = Trainer(config, get_model(case.class_name)(config, train._dataset).to(config["device"]))
        score, result = trainer.fit(train, valid, verbose=False, saved=True, show_progress=False)
        tested = trainer.evaluate(test, load_best_model=True, show_progress=False)
        scores.append(float(score))
        return {
            "model": model,
            "best_valid_score": score,
            "valid_score_bigger": config["valid_metric_bigger"],
            "best_valid_result": result,
            "test_result": tested,
        }

    points = {"choice": POINTS[model]}
    HyperTuning(objective, params_dict=points, algo="exhaustive", max_evals=8, early_stop=100).run()
    return {"trials": len(scores), "best": max(scores)}


def ours(
    model: str, dataset: str, data_path: str | None, epochs: int, workers: int, fused: str = "auto",
    pruner: Any = "none",
) -> dict[str, Any]:  # fmt: skip
    """This package's search; for a process of its own."""
    from recbole_msr.tuning.run import search

    config = Case(model, dataset, "ours").settings(data_path) | {"epochs": epochs}
    config = {key: value for key, value in config.items() if key not in POINTS[model]}  # else they would be fixed
    found = search(
        model, dataset, space={"model": model, "search": POINTS[model]}, sampler="grid", config=config,
        output=Path("search"), workers=workers, pruner=pruner, fused=fused, final_seeds=0, wandb="disabled",
        progress=False,
    )  # fmt: skip
    return {"trials": int((found.trials["state"] == "complete").sum()), "best": found.best_value}


def sides(model: str, threads: int, only: bool) -> Iterator[tuple[str, str, dict[str, Any], int]]:
    """Name, function, its arguments and the threads of each process; `only` the two of the target."""
    half = max(1, threads // 2)
    if find_spec("hyperopt") is not None:
        yield "HyperTuning", "search.hyper_tuning", {}, threads
    if not only:
        yield "search, 1 worker", "search.ours", {"workers": 1}, threads
    yield "search, 2 workers", "search.ours", {"workers": 2}, half
    if not only:
        yield "search, not fused", "search.ours", {"workers": 2, "fused": "off"}, half


def compare(model: str, data_path: str | None, folder: Path, epochs: int = 1, only: bool = False) -> dict[str, Any]:
    """Wall seconds of every side on a model's eight trials, and what they found; empty where the data are not there."""
    found: dict[str, Any] = {}
    dataset, threads = DATASETS[model], len(os.sched_getaffinity(0))
    if not has_data(dataset, data_path):
        return found
    common = {"model": model, "dataset": dataset, "data_path": data_path, "epochs": epochs}
    for name, function, own, each in sides(model, threads, only):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            begin = time.perf_counter()
            result = measured(
                function,
                common | own,
                Path(work),
                recbole=name == "HyperTuning",
                threads=each,
                cache=Path(work, "cache"),
            )
            found[name] = {"seconds": time.perf_counter() - begin, **result}
        print(
            f"  {model} on {dataset}: {name:<18} {found[name]['seconds']:7.1f} s, best {result['best']:.4f}", flush=True
        )
    return found


def pruning(model: str, data_path: str | None, folder: Path, epochs: int) -> None:
    """Trials an hour of two workers, without and with the median pruner."""
    half = max(1, len(os.sched_getaffinity(0)) // 2)
    for pruner in ("none", {"name": "median", "n_startup_trials": 2, "n_warmup_steps": 0}):
        own = {"model": model, "dataset": DATASETS[model], "data_path": data_path, "epochs": epochs}
        with tempfile.TemporaryDirectory(dir=folder) as work:
            begin = time.perf_counter()
            arguments = own | {"workers": 2, "pruner": pruner}
            measured("search.ours", arguments, Path(work), threads=half, cache=Path(work, "cache"))
            taken = time.perf_counter() - begin
        print(f"  {model}, pruner {pruner}: {8 * 3600 / taken:.0f} trials an hour ({taken:.1f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=POINTS, default=["LR", "HiNet"])
    parser.add_argument("--data_path", help="the folder with ml-1m; models that need it are left out else")
    parser.add_argument("--epochs", type=int, default=1, help="of every trial")
    parser.add_argument("--pruning", action="store_true", help="also what pruning brings")
    parser.add_argument("--pruned_epochs", type=int, default=4, help="of every trial there")
    given = parser.parse_args()
    data_path = str(Path(given.data_path).resolve()) if given.data_path else None
    with tempfile.TemporaryDirectory() as name:
        for model in given.models:
            found = compare(model, data_path, Path(name), given.epochs)
            if not found:
                print(f"{model}: left out, there is no {DATASETS[model]} (--data_path)")
            for side, result in found.items():
                if "HyperTuning" in found:
                    ratio = found["HyperTuning"]["seconds"] / result["seconds"]
                    print(f"{model}: HyperTuning / {side}: {ratio:.2f}")
            if given.pruning and found:
                pruning(model, data_path, Path(name), given.pruned_epochs)


if __name__ == "__main__":
    main()
