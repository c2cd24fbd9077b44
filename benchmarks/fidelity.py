"""What a rung of a search tells: its ranking of configurations beside that of full training, and what it costs.

    python -m benchmarks.fidelity --work=DIR                    30 configurations of SharedBottom on four datasets
    python -m benchmarks.fidelity --work=DIR --models=HiNet --datasets=kuairand,yelp --rows=60000
    python -m benchmarks.fidelity --work=DIR --defaults         the defaults of every model with several tasks

Method. The defaults and configurations drawn at random from the model's own space, one thread, seed 2020. Each is
trained in full (at most `EPOCHS` epochs, early stopping after two without gain; its value is the best epoch's macro AUC
on the validation split, which is never cut) and, anew, on shares of the training rows for `RUNG_EPOCHS` epochs. Seconds
are those of the processor, with building the model and validation. Every training ended is a line of
`DIR/fidelity.jsonl`; the same command goes on from there and prints tables:

    rank correlation    Spearman's, of the rung's values with those of full training
    best 3              how many of the three best stand in the rung's best third
    cost                seconds of the rung as a share of those of full training, means over all configurations
    ladder              the best value that random search with the median pruner finds on average in the time of five
                        or fifteen full trainings, minus that without rungs: `DRAWS` draws from the configurations; each
                        rung lets the best third of the values seen there so far pass
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

EPOCHS = 5
RUNG_EPOCHS = 2
SHARES = ("1/9", "1/3")
CONFIGURATIONS = 30
METRIC = "auc/macro"
SEED = 2020
DATASETS = {"kuairand": None, "yelp": 42_000, "frappe": 33_000, "ml-1m": 33_000}
"""Name -> most rows, of whole users; None for all."""
BUDGETS = (5, 15)
DRAWS, ETA = 500, 3
LADDERS: dict[str, tuple[str, ...]] = {
    "1/9": ("1/9 x 1",),
    "1/9 x 2": ("1/9 x 2",),
    "1/3": ("1/3 x 1",),
    "1/3 x 2": ("1/3 x 2",),
    "1/9, 1/3": ("1/9 x 1", "1/3 x 1"),
    "all x 1": ("all x 1",),
    "all x 2": ("all x 2",),
    "1/3, all x 1": ("1/3 x 1", "all x 1"),
    "1/9, 1/3, all x 1": ("1/9 x 1", "1/3 x 1", "all x 1"),
}

Record = Mapping[str, Any]
"""A configuration: dataset, model, number, settings, `full` and `shares` with value and seconds up to each epoch."""


class Bench:
    """Configurations on one dataset.

    Args:
        name: of the dataset.
        rows: most rows; None for all.
        folder: where data and results go.
        source: folder with the raw files.
    """

    def __init__(self, name: str, rows: int | None, folder: Path, source: Path) -> None:
        from benchmarks.outside_data import prepare

        self.dataset, config = prepare(name, folder / "data", rows, source)
        self._config = config | {
            **{"valid_metric": METRIC, "threads": 1, "use_gpu": False, "seed": SEED, "trainer": "lightning"},
            **{"epochs": EPOCHS, "stopping_step": 1, "show_progress": False, "state": "ERROR"},
            "checkpoint_dir": str(folder / "saved"),
        }
        self._splits: Any = None

    def _open(self, model: str) -> None:
        from recbole.data import create_dataset

        from recbole_msr.data.packed import PackedTable
        from recbole_msr.data.row_share import share_rows
        from recbole_msr.schema import SCENARIO_FIELD
        from recbole_msr.training.configure import training_config

        config = training_config(model, self.dataset, self._config)
        self._splits = create_dataset(config).build()
        self._tables = {"all": PackedTable(self._splits[0])}
        self._valid = PackedTable(self._splits[1])
        labels = self._splits[0].schema.label_fields
        for share in SHARES:
            rows = share_rows(self._tables["all"], float(Fraction(share)), SEED, "user_id", SCENARIO_FIELD, labels)
            self._tables[share] = self._tables["all"].part(rows)

    def measure(self, model: str, number: int, settings: Mapping[str, Any]) -> Record:
        """Train a configuration in full and on every share."""
        if self._splits is None:
            self._open(model)
        found = {"dataset": self.dataset, "model": model, "number": number, "settings": dict(settings)}
        found["rows"] = len(self._tables["all"])
        found["full"] = self._train(model, settings, "all", EPOCHS)
        found["shares"] = {share: self._train(model, settings, share, RUNG_EPOCHS) for share in SHARES}
        return found

    def _train(self, model: str, settings: Mapping[str, Any], share: str, epochs: int) -> list[dict[str, float]]:
        from recbole.utils import get_model, init_seed

        from recbole_msr.training.configure import training_config
        from recbole_msr.training.trainer import LightningTrainer

        begin = time.process_time()
        steps: list[dict[str, float]] = []
        config = training_config(model, self.dataset, {**self._config, **settings, "epochs": epochs})
        init_seed(config["seed"], config["reproducibility"])
        built = get_model(model)(config, self._splits[0])

        def after_epoch(epoch: int, score: float) -> None:
            steps.append({"value": score, "seconds": round(time.process_time() - begin, 3)})

        trainer = LightningTrainer(config, built)
        try:
            trainer.fit(self._tables[share], self._valid, verbose=False, saved=False, callback_fn=after_epoch)
        except ArithmeticError as error:
            steps.append({"value": 0.0, "seconds": round(time.process_time() - begin, 3)})
            print(f"{model} {dict(settings)}: {error}", flush=True)
        return steps


def configurations(model: str, count: int) -> list[dict[str, Any]]:
    """The defaults, and settings drawn at random from a model's space."""
    import optuna

    from recbole_msr.tuning.space.space import Space

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED))
    space = Space.of_model(model).resolve("none")
    return [{}, *(space.suggest(study.ask()) for _ in range(count - 1))]


# What the records say.


def value_at(record: Record, rung: str) -> float:
    """A configuration's value at a rung, such as "1/9 x 1"; where it stopped earlier, its best up to then."""
    share, epochs = rung.split(" x ")
    steps = record["full"] if share == "all" else record["shares"][share]
    return float(steps[int(epochs) - 1]["value"]) if int(epochs) <= len(steps) else final(record)


def seconds_at(record: Record, rung: str) -> float:
    """Seconds up to a rung from the beginning of its training."""
    share, epochs = rung.split(" x ")
    steps = record["full"] if share == "all" else record["shares"][share]
    return float(steps[min(int(epochs), len(steps)) - 1]["seconds"])


def final(record: Record) -> float:
    """The value of full training."""
    return max(float(step["value"]) for step in record["full"])


def full_seconds(record: Record) -> float:
    """Seconds of full training."""
    return float(record["full"][-1]["seconds"])


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


RUNGS = (*(f"{share} x {n}" for share in SHARES for n in (1, 2)), *(f"all x {n}" for n in (1, 2, 3)))


def rung_rows(records: Sequence[Record]) -> Iterator[tuple[str, float, int, float]]:
    """For each rung: its name, rank correlation, how many of the best three survive, cost."""
    finals = [final(record) for record in records]
    best = set(np.argsort(finals)[::-1][:3].tolist())
    whole = sum(map(full_seconds, records))
    for rung in RUNGS:
        values = [value_at(record, rung) for record in records]
        third = set(np.argsort(values)[::-1][: -(-len(values) // ETA)].tolist())
        cost = sum(seconds_at(record, rung) for record in records) / whole
        yield rung, correlation(values, finals), len(best & third), cost


def random_search(records: Sequence[Record], ladder: Sequence[str], budget: float, draws: int = DRAWS) -> float:
    """The mean best value of random search in the time of some full trainings, with a ladder and the median pruner.

    Args:
        records: the configurations, drawn with replacement.
        ladder: its rungs.
        budget: mean full trainings.
        draws: searches.
    """
    random = np.random.default_rng(SEED)
    trials = [_Trial.of(record, ladder) for record in records]
    seconds = budget * float(np.mean([trial.ends[-1] for trial in trials]))
    orders = random.integers(0, len(trials), (draws, 40 * int(budget)))
    orders[:, 0] = 0  # the defaults
    return float(np.mean([_one_search(order.tolist(), trials, seconds) for order in orders]))


class _Trial(NamedTuple):
    """A configuration in a search: values and seconds of its rungs below full training, and of its epochs on all rows.

    Attributes:
        values, seconds: of each rung of the ladder on a share of the rows.
        judged: the epochs on all rows at which the ladder has a rung.
        epochs, ends: value and seconds up to the end of each epoch on all rows.
    """

    values: list[float]
    seconds: list[float]
    judged: list[int]
    epochs: list[float]
    ends: list[float]

    @classmethod
    def of(cls, record: Record, ladder: Sequence[str]) -> _Trial:
        low = [rung for rung in ladder if not rung.startswith("all")]
        return cls(
            [value_at(record, rung) for rung in low],
            [seconds_at(record, rung) for rung in low],
            [int(rung.split(" x ")[1]) for rung in ladder if rung.startswith("all")],
            [float(step["value"]) for step in record["full"]],
            [float(step["seconds"]) for step in record["full"]],
        )


def _one_search(order: Sequence[int], trials: Sequence[_Trial], budget: float) -> float:
    """The best value of one search; the first trial is trained in full."""
    seen: dict[str, list[float]] = {}
    complete: list[_Trial] = []
    spent, best = 0.0, 0.0

    def passes(rung: str, value: float) -> bool:
        values = seen.setdefault(rung, [])
        values.append(value)
        return len(values) == 1 or sum(other > value for other in values) < -(-len(values) // ETA)

    for number in order:
        trial, first = trials[number], not complete
        goes_on = True
        for rung, value in enumerate(trial.values):
            spent += trial.seconds[rung]
            goes_on = passes(f"low {rung}", value) or first
            if not goes_on:
                break
        last = _last_epoch(trial, complete, passes, first) if goes_on else 0
        for value, end in zip(trial.epochs[:last], trial.ends, strict=False):
            best = max(best, value) if spent + end <= budget else best
        spent += trial.ends[last - 1] if last else 0.0
        if spent > budget:
            break
        if last == len(trial.epochs):
            complete.append(trial)
    return best


def _last_epoch(trial: _Trial, complete: Sequence[_Trial], passes: Callable[[str, float], bool], first: bool) -> int:
    """The epoch on all rows after which a trial ends: pruned by a rung or the median pruner, or by itself."""
    for epoch in range(1, len(trial.epochs)):
        so_far = max(trial.epochs[:epoch])
        if epoch in trial.judged and not (passes(f"all {epoch}", so_far) or first):
            return epoch
        others = [other.epochs[epoch - 1] for other in complete if len(other.epochs) >= epoch]
        if epoch >= 2 and len(others) >= 5 and so_far < float(np.median(others)):
            return epoch
    return len(trial.epochs)


def tables(records: Sequence[Record]) -> Iterator[str]:
    """Markdown: of every model, what the rungs tell and what ladders gain, a column a dataset."""
    for model in dict.fromkeys(record["model"] for record in records):
        groups: dict[str, list[Record]] = {}
        for record in records:
            if record["model"] == model:
                groups.setdefault(record["dataset"], []).append(record)
        sizes = (
            f"{name}: {len(group)} configurations, {group[0]['rows']:,} training rows" for name, group in groups.items()
        )
        yield f"\n{model}. {'; '.join(sizes)}. Rank correlation, and how many of the best 3 are kept.\n"
        yield from _rung_table(groups)
        yield f"\nMean best value with as much time as {' / '.join(map(str, BUDGETS))} full trainings take.\n"
        yield from _ladder_table(groups)


def _rung_table(groups: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    found = [list(rung_rows(group)) for group in groups.values()]
    yield f"| rung | {' | '.join(groups)} | cost |"
    yield "|---|" + "---|" * len(groups) + "---|"
    for rows in zip(*found, strict=True):
        cells = [f"{rank:.2f}, {kept}" for _, rank, kept, _ in rows]
        yield f"| {rows[0][0]} | {' | '.join(cells)} | {np.mean([row[3] for row in rows]):.2f} |"


def _ladder_table(groups: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    plain = {name: [random_search(group, (), budget) for budget in BUDGETS] for name, group in groups.items()}
    yield f"| ladder | {' | '.join(groups)} |"
    yield "|---|" + "---|" * len(groups)
    yield "| none | " + " | ".join(" / ".join(f"{value:.4f}" for value in values) for values in plain.values()) + " |"
    for name, ladder in LADDERS.items():
        cells = []
        for dataset, group in groups.items():
            found = [random_search(group, ladder, budget) for budget in BUDGETS]
            cells.append(
                " / ".join(f"{value - before:+.4f}" for value, before in zip(found, plain[dataset], strict=True))
            )
        yield f"| {name} | {' | '.join(cells)} |"


def read(path: Path) -> list[dict[str, Any]]:
    """The records so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def main() -> None:
    """Measure what is missing, and print the tables."""
    from benchmarks.outside_data import SOURCE, present

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and results")
    parser.add_argument("--models", default="SharedBottom")
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--rows", type=int, help="most rows of each dataset")
    parser.add_argument("--count", type=int, default=CONFIGURATIONS)
    parser.add_argument("--defaults", action="store_true", help="the defaults of all models with several tasks")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--source", type=Path, default=SOURCE)
    given = parser.parse_args()
    path = given.work / "fidelity.jsonl"
    for name in present(given.datasets.split(",") if not given.tables else (), given.source):
        _measure(name, given, path)
    print("\n".join(tables(read(path))))


def _measure(name: str, given: argparse.Namespace, path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    bench = Bench(name, given.rows or DATASETS.get(name), given.work, given.source)
    wanted = _defaults() if given.defaults else _drawn(given.models.split(","), given.count)
    done = {(r["dataset"], r["model"], r["number"]) for r in read(path)}
    for group, model, number, settings in wanted:
        if (bench.dataset, group, number) in done:
            continue
        record = {**bench.measure(model, number, settings), "model": group}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{bench.dataset} {model} {number}: {final(record):.4f} in {full_seconds(record):.1f} s", flush=True)


def _drawn(models: Sequence[str], count: int) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    for model in models:
        for number, settings in enumerate(configurations(model, count)):
            yield model, model, number, settings


def _defaults() -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    from recbole_msr.registry import registered_models

    for number, model in enumerate(sorted(registered_models())):
        if model != "LLM4MSR":  # needs knowledge
            yield "defaults", model, number, {}


if __name__ == "__main__":
    main()
