"""What a search has found by when, beside what a person had before: the targets of the search.

Method. For each data set (`benchmarks/outside_data.py`, all rows) and repetition these sides take turns on the same
machine, each a command in a process of its own, with two workers (`--workers`) of one thread each, an objective of
auc/macro, and nothing else running on their cores:
    before       `search --model=HiNet` of another checkout (`--before`), or of this one with --fidelity=off and
                 --first=off: TPE and the median pruner from the defaults on. The budget is its trials';
                 its final test comes on top
    auto         `search --models=auto`: trials, confirmation, final test, ensemble and page within the budget
    HiNet        `search --model=HiNet`, likewise
    hypertuning  RecBole's HyperTuning (hyperopt's TPE) of DeepFM for each task, all tasks at once with one thread each
                 over the cores, for the whole budget, over RecBole's own Trainer; the best by validation is then
                 trained with three seeds and tested, on top of the budget. Early stopping has this package's patience
                 (2 epochs), not RecBole's 10. Needs `pip install hyperopt`
and once a data set, outside of any budget:
    defaults     `compare` of the defaults of all models that `auto` searched, three seeds

With `--portfolio` (folder of `benchmarks.portfolio collect`), `auto` and `HiNet` begin with first configurations that
were chosen without this data set; those that the package ships know samples of it.

The time to a value is read from the validated epochs and their times in the study; the ratio is the whole budget by the
time to the value that `before` had at its end. `--repeat` makes as many rounds, each with another seed; the table has
medians, and `--picture` draws the curves. What a search hands over is its ensemble, and one model where that has to be
enough: the table has the test of both; curves and times are those of single models. Every result is kept in `--work`,
and what is there is not measured anew: the same command goes on after an interruption.

    python -m benchmarks.anytime --work=DIR [--sets yelp kuairand] [--minutes 10] [--repeat 3] [--before CHECKOUT]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.anytime_picture import write_picture
from benchmarks.outside_data import SOURCE, AbsentDataError, prepare
from benchmarks.portfolio import choose_files
from benchmarks.portfolio_trials import SHARES, Results
from benchmarks.process import ROOT, machine, run_command

SETS = ("yelp", "kuairand", "ml-1m")
SIDES = ("before", "auto", "HiNet", "hypertuning")
OBJECTIVE = "auc/macro"
_OFF = ("--fidelity=off", "--first=off")


class Bench:
    """One data set with its sides.

    Args:
        name: of the data set.
        work: folder of all results.
        source: folder of the raw data.
        minutes: the budget.
        before: another checkout; None for this one with what is new turned off.
        workers: processes of each side, of one thread each.
        portfolio: results of `benchmarks/portfolio.py`; None for the first configurations that the package ships.
    """

    def __init__(
        self,
        name: str,
        work: Path,
        source: Path,
        minutes: float,
        before: Path | None,
        workers: int = 2,
        portfolio: Path | None = None,
    ) -> None:
        self.name, self.folder, self.minutes, self.before = name, work / name, minutes, before
        self.workers, self.portfolio = workers, portfolio
        self.dataset, self.config = prepare(name, work / "data", source=source)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = self.folder / "settings.yaml"
        self.config |= {"valid_metric": OBJECTIVE, "data_path": str((work / "data").resolve())}
        self.settings.write_text(yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")

    def result(self, side: str, repetition: int) -> dict[str, Any]:
        """Return what a side found, from its file or by measuring it."""
        file = self.folder / f"{side}-{repetition}.json"
        if not file.is_file():
            begin = time.perf_counter()
            found = self._defaults() if side == "defaults" else self._measure(side, repetition)
            found |= {"wall_seconds": round(time.perf_counter() - begin, 1), "budget": 60 * self.minutes}
            temporary = file.with_suffix(".part")
            temporary.write_text(json.dumps(found), encoding="utf-8")
            temporary.rename(file)
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result

    def _measure(self, side: str, repetition: int) -> dict[str, Any]:
        seed = 2020 + 100 * repetition
        if side == "hypertuning":
            return hyper_tuning(self.dataset, self.config, self.folder / f"{side}-{repetition}", self.minutes, seed)
        output = self.folder / f"{side}-{repetition}"
        shutil.rmtree(output, ignore_errors=True)  # a search that was cut off would have had more time than the others
        what = ["--models=auto"] if side == "auto" else ["--model=HiNet"]
        first = _OFF if side == "before" and self.before is None else ()
        if side != "before" and self.portfolio is not None:
            first = (f"--first={self._first_configurations()}",)
        root = self.before if side == "before" and self.before is not None else ROOT
        arguments = [
            "search", *what, f"--dataset={self.dataset}", f"--config_files={self.settings}", f"--seed={seed}",
            f"--timeout={self.minutes * 60:g}", f"--workers={self.workers}", "--threads=1", f"--output={output}",
            "--wandb=disabled", f"--objectives={OBJECTIVE}", *first,
        ]  # fmt: skip
        self._command(root, arguments, output.with_suffix(".log"))
        return of_search(output)

    def _first_configurations(self) -> Path:
        """Return a folder of first configurations that were chosen without this dataset."""
        folder = self.folder / "first"
        if not folder.is_dir():
            assert self.portfolio is not None
            choose_files(Results(self.portfolio), list(SHARES), folder, self.name)
        return folder

    def _defaults(self) -> dict[str, Any]:
        """Return the test values of the defaults of all models that `auto` searched, three seeds each."""
        models = sorted(self.result("auto", 0)["models"])
        output = self.folder / "defaults"
        arguments = [
            "compare", f"--models={','.join(models)}", f"--dataset={self.dataset}", f"--config_files={self.settings}",
            "--seeds=3", f"--workers={self.workers}", "--threads=1", f"--output={output}", "--wandb=disabled",
        ]  # fmt: skip
        self._command(ROOT, arguments, output.with_suffix(".log"))
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        return {
            "test": {
                entry["label"]: entry["test"][OBJECTIVE]["mean"] for entry in summary["entries"] if entry.get("test")
            }
        }

    def _command(self, root: Path, arguments: Sequence[str], log: Path) -> None:
        run_command(arguments, log, self.folder, cache=self.folder.parent / "cache", root=root)


def of_search(folder: Path) -> dict[str, Any]:
    """Return the curve, the counts and the final test of a search."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

    from recbole_msr.report.tuning.progress import best_so_far, looks

    journal = folder / "study.journal"
    backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
    (study,) = optuna.get_all_study_summaries(JournalStorage(backend))
    trials = optuna.load_study(study_name=study.study_name, storage=JournalStorage(backend)).get_trials(deepcopy=False)
    found = looks(trials, OBJECTIVE, "HiNet")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    final = summary.get("final")
    return {
        "curve": best_so_far(found, bigger=True),
        "trials": summary["trials"],
        "models": sorted(summary.get("models") or {summary["model"]: None}),
        "best": summary["best"] and summary["best"]["values"][0],
        "test": final and _macro(final["test"]["cells"]),
        "ensemble": _of_ensemble(summary.get("ensemble")),
        "seconds": summary["seconds"],
    }


def _of_ensemble(ensemble: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the ensemble's values on both splits, its members and the ratio of its parameters to a single model's."""
    if ensemble is None or ensemble["test"] is None:
        return None
    parameters = ensemble["cost"]["parameters"]
    return {
        "validation": ensemble["valid"]["value"],
        "test": ensemble["test"]["value"],
        "members": len(ensemble["members"]),
        "parameters": parameters["ensemble"] / parameters["single"],
        "gain": {name: of and of["differences"].get(OBJECTIVE) for name, of in (ensemble["gain"] or {}).items()},
    }


def _macro(cells: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean AUC over cells, from their means over seeds."""
    values = [cell["auc"]["mean"] for cell in cells if cell.get("auc") and cell["auc"]["mean"] is not None]
    return statistics.fmean(values)


# RecBole's HyperTuning.

_SPACE = {
    "learning_rate": ("loguniform", [-9.2, -4.6]),
    "embedding_size": ("choice", [8, 10, 16, 32, 64]),
    "mlp_hidden_size": ("choice", ["[64,64]", "[128,64]", "[128,128,128]", "[256,128]", "[256,256,256]"]),
    "dropout_prob": ("choice", [0.0, 0.1, 0.2, 0.3, 0.5]),
    "weight_decay": ("choice", [0.0, 1e-6, 1e-5, 1e-4]),
    "train_batch_size": ("choice", [1024, 2048, 4096]),
}
"""The space of search_spaces/DeepFM.yaml as a `hyper.test` file says it."""


def hyper_tuning(dataset: str, config: Mapping[str, Any], folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Search DeepFM for each task with RecBole's HyperTuning, all tasks at once, and test the best with three seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = {}
    for task in config["tasks"]:
        given = {
            "dataset": dataset, "seed": seed, "out": str(folder / f"{task}.jsonl"),
            # RecBole's trainer knows no other AUC; with its own patience of 10 epochs it would end few trainings.
            "config": {**config, "main_task": task, "valid_metric": "AUC", "epochs": 30, "stopping_step": 2},
        }  # fmt: skip
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment |= {"PYTHONPATH": str(ROOT), "RECBOLE_MSR_NO_SPEEDUPS": "1"}
        with open(folder / f"{task}.log", "wb") as log:
            processes[task] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.anytime", "--hypertuning-worker", json.dumps(given)],
                env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
    deadline = time.monotonic() + 60 * minutes
    for process in processes.values():
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    best, trials = {}, 0
    for task in processes:
        file = folder / f"{task}.jsonl"
        if not file.is_file():
            raise RuntimeError(f"HyperTuning ended no training of {task} in {minutes:g} minutes: {folder / task}.log")
        tried = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        trials += len(tried)
        best[task] = max(tried, key=lambda row: row["value"])
    return {"trials": {"complete": trials}, "best": best, "test": _tested(dataset, config, folder, best)}


def _tested(dataset: str, config: Mapping[str, Any], folder: Path, best: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the macro test AUC of the best settings of every task, the mean over three seeds."""
    from recbole_msr import run

    cells: list[float] = []
    for task, row in best.items():
        for seed in (1, 2, 3):
            settings = {**config, **row["settings"], "main_task": task, "seed": seed, "show_progress": False}
            settings |= {"threads": 1, "output_dir": str(folder / f"{task}-{seed}"), "wandb": "disabled"}
            shutil.rmtree(settings["output_dir"], ignore_errors=True)
            result = run("DeepFM", dataset, config=settings)
            assert result.test is not None
            cells += [cell[task].auc for cell in result.test.cells.values() if cell[task].auc is not None]
    return statistics.fmean(cells)


def hyper_tuning_worker(given: Mapping[str, Any]) -> None:
    """Run RecBole's HyperTuning until the process is ended; a line of JSON for every training that ends."""
    import numpy as np
    import torch
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import HyperTuning, Trainer
    from recbole.utils import get_model, init_seed

    from recbole_msr.config.build import build_config

    torch.set_num_threads(1)
    np.random.seed(given["seed"])

    def objective(config_dict: Any = None, config_file_list: Any = None) -> dict[str, Any]:
        settings = {key: _literal(value) for key, value in config_dict.items()}
        config = build_config("DeepFM", given["dataset"], {**given["config"], **settings, "seed": given["seed"]})
        init_seed(config["seed"], True)
        train, valid, _ = data_preparation(config, create_dataset(config))
        model = get_model("DeepFM")(config, train._dataset).to(config["device"])
        trainer = Trainer(config, model)
        score, result = trainer.fit(train, valid, verbose=False, saved=False, show_progress=False)
        with open(given["out"], "a", encoding="utf-8") as file:
            file.write(json.dumps({"value": float(score), "settings": settings, "time": time.time()}) + "\n")
        return {
            **{"model": "DeepFM", "best_valid_score": score, "valid_score_bigger": True},
            **{"best_valid_result": result, "test_result": {}},
        }

    points: dict[str, dict[str, Any]] = {}
    for key, (kind, values) in _SPACE.items():
        points.setdefault(kind, {})[key] = values
    HyperTuning(objective, params_dict=points, algo="bayes", max_evals=100_000, early_stop=100_000).run()


def _literal(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


# The table.


def time_to(curve: Sequence[Sequence[float]], value: float) -> float | None:
    """Return the seconds after which a curve had reached a value; None if it never did."""
    return next((seconds for seconds, reached in curve if reached >= value), None)


def rows_of(results: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Iterator[str]:
    """Yield a Markdown table of all sets that were measured."""
    yield (
        "| data | side | trials | seconds to the value of `before` | ratio | validation | test: one model | - best "
        "default | ensemble | - best default |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name, sides in results.items():
        best_default = max((sides.get("defaults") or [{"test": {"": float("nan")}}])[0]["test"].values())
        for side, repetitions in sides.items():
            if side == "defaults":
                continue
            yield _row(name, side, repetitions, sides, best_default)


def _row(
    name: str, side: str, repetitions: list[dict[str, Any]], sides: Mapping[str, list[dict[str, Any]]], default: float
) -> str:
    trials = statistics.median(sum(found["trials"].values()) for found in repetitions)
    tests = [found["test"] if found["test"] is not None else float("nan") for found in repetitions]
    test = statistics.median(tests)
    if side == "hypertuning":
        return f"| {name} | {side} | {trials:g} | | | | {test:.4f} | {test - default:+.4f} | | |"
    times, ratios = [], []
    for found, before in zip(repetitions, sides.get("before", []), strict=False):
        value = before["curve"][-1][1] if before["curve"] else float("inf")
        ours = time_to(found["curve"], value)
        times.append(float("inf") if ours is None else ours)
        ratios.append(0.0 if ours is None else before["budget"] / ours)
    best = statistics.median(found["best"] or 0.0 for found in repetitions)
    when = f"{statistics.median(times):.0f}" if times else ""
    ratio = f"{statistics.median(ratios):.1f}" if ratios else ""
    averaged = [found["ensemble"]["test"] for found in repetitions if found.get("ensemble")]
    of_ensemble = (
        f"{statistics.median(averaged):.4f} | {statistics.median(averaged) - default:+.4f}" if averaged else "|"
    )
    line = f"| {name} | {side} | {trials:g} | {when} | {ratio} | {best:.4f} | {test:.4f} | {test - default:+.4f} |"
    return f"{line} {of_ensemble} |"


def main() -> None:
    """Measure what is missing, and print the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hypertuning-worker", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=Path("anytime"), help="where all results are kept")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["yelp", "kuairand"])
    parser.add_argument("--sides", nargs="+", choices=(*SIDES, "defaults"), default=[*SIDES, "defaults"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repeat", type=int, default=3, help="repetitions")
    parser.add_argument("--workers", type=int, default=2, help="processes of each side")
    parser.add_argument("--portfolio", type=Path, help="first configurations without the dataset, from these results")
    parser.add_argument("--picture", type=Path, help="SVG file for the curves")
    parser.add_argument("--before", type=Path, help="the checkout of the version before")
    given = parser.parse_args()
    if given.hypertuning_worker:
        hyper_tuning_worker(json.loads(given.hypertuning_worker))
        return
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    print(json.dumps(machine()), flush=True)
    for name in given.sets:
        try:
            bench = Bench(
                name, given.work.resolve(), given.source, given.minutes, given.before, given.workers, given.portfolio
            )
        except AbsentDataError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        found = results.setdefault(name, {})
        for repetition in range(given.repeat):
            for side in given.sides:
                if side != "defaults" or repetition == 0:
                    found.setdefault(side, []).append(bench.result(side, repetition))
                    print(f"{name}: {side}, repetition {repetition + 1}: done", flush=True)
    for line in rows_of(results):
        print(line)
    if given.picture is not None:
        write_picture(results, given.picture)


if __name__ == "__main__":
    main()
