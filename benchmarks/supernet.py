"""Whether one HiNet of the largest sizes, trained once, ranks the structures inside it as separate training does.

    python -m benchmarks.supernet --work=DIR --source=DATA --sets kuairand yelp
    python -m benchmarks.supernet --work=DIR --tables                             measures nothing

Method. `benchmarks/supernet_model.py` holds a small space of structures (layers of both levels, sub-experts, experts,
depths and widths) and the HiNet of its largest sizes with the smaller ones inside it. Every step of its training goes
down the mean loss of the largest structure, the smallest and two random ones (the sandwich rule), or that of one random
structure. Everything else is HiNet's defaults, stopping (by the largest structure) among them, save for what
`SUPERNETS` says, on at most `ROWS` rows of whole users. After each epoch all structures to be ranked are evaluated with
the shared weights on the validation rows; a structure's value is its best epoch's macro AUC, as in separate training,
or that of the last epoch. Each is also trained alone from scratch. One thread; seconds are those of the processor, with
building the models and validation. Every training ended is a line of `DIR/supernet.jsonl`; the same command goes on
from there and prints tables:

    one training       Spearman's rank correlation with the values of one separate training: mean over seeds, where a
                       separate training is the predictor over pairs of different seeds. That of `another seed` is the
                       ceiling: what a predictor reaches that is as good as training itself
    their mean         the same with the structure's mean over all seeds (for a separate training: over the others)
    interval           of `their mean`, 95 %, from 2,000 draws of the structures with replacement
    best 3             how many of the three structures that are best on average stand in the predictor's best ten
    cost               seconds as a share of training every structure once
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.fidelity import correlation, read
from benchmarks.supernet_model import LARGEST, Structure, Supernet, draw
from recbole_msr.models.hinet import HiNet

ROWS = 37_000
STRUCTURES = 30
SEEDS = (2020, 2021)
METRIC = "auc/macro"
DRAWS = 2000
SUPERNETS: dict[str, tuple[bool, dict[str, Any]]] = {
    "sandwich": (True, {}),
    "sandwich, batches of 512": (True, {"train_batch_size": 512, "epochs": 10, "stopping_step": 10}),
    "single, batches of 512": (False, {"train_batch_size": 512, "epochs": 10, "stopping_step": 10}),
}
"""Name -> whether the sandwich rule holds (else each step trains one random structure), settings of the training."""
FIFTH = 0.2
ITSELF = "another seed"
FIRST_EPOCHS = {"its epoch 1": 1, "its epochs 1, 2": 2}

Record = Mapping[str, Any]
"""A training: dataset, kind ("alone" or one of `SUPERNETS`), structure, seed, epochs with values and seconds."""


# Trainings.


class Bench:
    """Structures on one dataset.

    Args:
        name: of the dataset.
        rows: most rows.
        structures: those to be ranked.
        work: where data and results go.
        source: folder with the raw files.
    """

    def __init__(self, name: str, rows: int, structures: Sequence[Mapping[str, Any]], work: Path, source: Path) -> None:
        from recbole.data import create_dataset

        from benchmarks.outside_data import prepare
        from recbole_msr.data.packed import PackedTable

        self.structures = structures
        self.dataset, settings = prepare(name, work / "data", rows, source)
        self._settings = settings | {
            **{"valid_metric": METRIC, "threads": 1, "use_gpu": False, "trainer": "lightning"},
            **{"show_progress": False, "state": "ERROR", "checkpoint_dir": str(work / "saved")},
        }
        self._splits = create_dataset(self._config({})).build()
        self._train, self._valid = PackedTable(self._splits[0]), PackedTable(self._splits[1])

    def _config(self, settings: Mapping[str, Any]) -> Any:
        from recbole_msr.training.configure import training_config

        return training_config("HiNet", self.dataset, {**self._settings, **settings})

    def alone(self, number: int, seed: int) -> Record:
        """Train a structure from scratch."""
        began = time.process_time()
        epochs: list[dict[str, float]] = []
        config = self._config({**self.structures[number], "seed": seed})
        model = self._built(config, lambda: HiNet(config, self._splits[0]))

        def after_epoch(_: int, score: float) -> None:
            epochs.append({"value": score, "seconds": round(time.process_time() - began, 3)})

        self._fit(config, model, after_epoch)
        parameters = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("features."))
        return self._record("alone", number, seed, epochs) | {"parameters": parameters}

    def supernet(self, name: str, seed: int) -> Record:
        """Train a supernet, and evaluate every structure after every epoch."""
        sandwich, training = SUPERNETS[name]
        began = time.process_time()
        epochs: list[dict[str, Any]] = []
        config = self._config({**LARGEST, **training, "seed": seed})
        model = self._built(config, lambda: Supernet(config, self._splits[0], np.random.default_rng(seed), sandwich))
        structures = [model.structure(settings) for settings in self.structures]

        def after_epoch(_: int, score: float) -> None:
            values = [self.value(model, structure) for structure in structures]
            seconds = round(time.process_time() - began, 3)
            epochs.append({"value": score, "values": values, "seconds": seconds})

        self._fit(config, model, after_epoch)
        return self._record(name, -1, seed, epochs)

    def _record(self, kind: str, number: int, seed: int, epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        rows = {"rows": len(self._train), "valid_rows": len(self._valid)}
        return {"dataset": self.dataset, "kind": kind, "number": number, "seed": seed, **rows, "epochs": epochs}

    @staticmethod
    def _built(config: Any, build: Callable[[], Any]) -> Any:
        from recbole.utils import init_seed

        init_seed(config["seed"], config["reproducibility"])
        return build()

    def _fit(self, config: Any, model: nn.Module, after_epoch: Callable[[int, float], None]) -> None:
        from recbole_msr.training.trainer import LightningTrainer

        trainer = LightningTrainer(config, model)
        trainer.fit(self._train, self._valid, verbose=False, saved=False, callback_fn=after_epoch)

    @torch.no_grad()
    def value(self, model: Supernet, structure: Structure | None) -> float:
        """A structure's macro AUC on the validation rows, with the supernet's weights."""
        from recbole_msr.evaluation.cells import evaluate_cells
        from recbole_msr.schema import SCENARIO_FIELD

        was_training = model.training
        rows = self._valid.batch(slice(None))
        model.eval()
        with model.using(structure):
            scores = model.predict_tasks(rows).numpy()
        model.train(was_training)
        labels, scenario = model.labels_of(rows).numpy(), rows[SCENARIO_FIELD].numpy()
        names, tasks = model.scenario_names, model.task_names
        found = evaluate_cells(scores, labels, scenario, None, names, tasks, tasks[0], metrics=["auc"])
        return float(found.flat()[METRIC])


# What the records say.


def predictors(records: Sequence[Record]) -> dict[str, tuple[dict[int, list[float]], float]]:
    """By name: the values of the structures by seed (-1: of none), and the mean seconds.

    Args:
        records: of one dataset; only seeds with which every structure was trained count.
    """
    alone = _by_seed([r for r in records if r["kind"] == "alone"])
    found = {}
    for name, n in {ITSELF: None, **FIRST_EPOCHS}.items():
        values = {seed: [_best(record["epochs"][:n]) for record in group] for seed, group in alone.items()}
        found[name] = (values, _seconds(alone, n))
    found["number of parameters"] = ({-1: [r["parameters"] for r in next(iter(alone.values()))]}, 0.0)
    whole = found[ITSELF][1]
    for name in SUPERNETS:
        nets = [r for r in records if r["kind"] == name]
        cheap = [[epoch for epoch in net["epochs"] if epoch["seconds"] <= FIFTH * whole] for net in nets]
        for kept, told in ((cheap, "to a fifth"), ([net["epochs"] for net in nets], "in full")):
            if kept and all(kept):
                seconds = float(np.mean([epochs[-1]["seconds"] for epochs in kept]))
                values = [np.array([epoch["values"] for epoch in epochs]) for epochs in kept]
                seeds = [net["seed"] for net in nets]
                best = {seed: v.max(axis=0).tolist() for seed, v in zip(seeds, values, strict=True)}
                last = {seed: v[-1].tolist() for seed, v in zip(seeds, values, strict=True)}
                found[f"{name}, {told}"] = (best, seconds)
                found[f"{name}, {told}, last epoch"] = (last, seconds)
    return found


def _by_seed(records: Sequence[Record]) -> dict[int, list[Record]]:
    most = 1 + max(r["number"] for r in records)
    by_seed: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda r: r["number"]):
        by_seed.setdefault(record["seed"], []).append(record)
    return {seed: group for seed, group in sorted(by_seed.items()) if len(group) == most}


def _best(epochs: Sequence[Mapping[str, Any]]) -> float:
    return max(float(epoch["value"]) for epoch in epochs)


def _seconds(alone: Mapping[int, Sequence[Record]], n: int | None) -> float:
    """Seconds of the first n epochs of every structure once; None for all."""
    return float(np.mean([sum(r["epochs"][:n][-1]["seconds"] for r in group) for group in alone.values()]))


class Said(NamedTuple):
    """What a predictor says; see the table at the top."""

    one: float
    mean: float
    low: float
    high: float
    best: float


def judged(values: Mapping[int, Sequence[float]], finals: Mapping[int, Sequence[float]], apart: bool) -> Said:
    """Compare a predictor with separate training.

    Args:
        values: the predictor's, by its seed.
        finals: those of separate training, by seed.
        apart: whether equal seeds mean the same training, which is left out.
    """
    pairs, single, kept = [], [], []
    for seed, own in values.items():
        others = [list(final) for other, final in finals.items() if not (apart and other == seed)]
        mean = np.mean(others, axis=0)
        pairs.append((np.array(own), mean))
        single += [correlation(own, other) for other in others]
        kept.append(len({*np.argsort(mean)[::-1][:3].tolist()} & {*np.argsort(own)[::-1][:10].tolist()}))
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        places = random.integers(0, len(pairs[0][0]), len(pairs[0][0]))
        drawn.append(np.mean([correlation(own[places], mean[places]) for own, mean in pairs]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    whole = np.mean([correlation(own.tolist(), mean.tolist()) for own, mean in pairs])
    return Said(float(np.mean(single)), float(whole), float(low), float(high), float(np.mean(kept)))


def table(records: Sequence[Record]) -> Iterator[str]:
    """Markdown: what each predictor says of one dataset's structures."""
    found = predictors(records)
    finals, whole = found[ITSELF]
    mean = np.mean(list(finals.values()), axis=0)
    noise = float(np.sqrt(np.mean(np.var(list(finals.values()), axis=0, ddof=1)))) if len(finals) > 1 else float("nan")
    epochs = np.mean([len(r["epochs"]) for r in records if r["kind"] == "alone"])
    yield (
        f"\n{records[0]['dataset']}: {len(mean)} structures, {records[0]['rows']:,} training and "
        f"{records[0]['valid_rows']:,} validation rows, {len(finals)} seeds, {epochs:.1f} epochs on average, "
        f"{whole:.0f} s for every structure once. Means over seeds {min(mean):.4f} to {max(mean):.4f}, standard "
        f"deviation {np.std(mean, ddof=1):.4f}; of one structure between seeds {noise:.4f}.\n"
    )
    yield "| predictor | one training | their mean | interval | best 3 | cost |"
    yield "|---|---|---|---|---|---|"
    for name, (values, seconds) in found.items():
        apart = name in (ITSELF, *FIRST_EPOCHS)
        if apart and len(finals) < 2:
            continue
        one, all_of_them, low, high, best = judged(values, finals, apart)
        yield (
            f"| {name} | {one:.2f} | {all_of_them:.2f} | {low:.2f} to {high:.2f} | {best:.1f} | {seconds / whole:.2f} |"
        )


def main() -> None:
    """Measure what is missing, and print the tables."""
    from benchmarks.outside_data import SOURCE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and results")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder with the raw files")
    parser.add_argument("--sets", nargs="+", default=["kuairand", "yelp"])
    parser.add_argument("--rows", type=int, default=ROWS, help="most rows of each dataset")
    parser.add_argument("--structures", type=int, default=STRUCTURES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    given = parser.parse_args()
    if not given.tables:
        benches = list(_benches(given))
        for seed, bench in itertools.product(given.seeds, benches):
            _measure(bench, seed, given.work / "supernet.jsonl")
    records = read(given.work / "supernet.jsonl")
    for dataset in dict.fromkeys(record["dataset"] for record in records):
        print("\n".join(table([record for record in records if record["dataset"] == dataset])))


def _benches(given: argparse.Namespace) -> Iterator[Bench]:
    from benchmarks.outside_data import present

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    structures = [draw(random) for _ in range(given.structures)]
    for name in present(given.sets, given.source):
        yield Bench(name, given.rows, structures, given.work, given.source)


def _measure(bench: Bench, seed: int, path: Path) -> None:
    """Train the supernet and every structure with a seed, unless that is done."""
    done = {(r["dataset"], r["kind"], r["number"], r["seed"]) for r in read(path)}
    trainings = [*((name, -1) for name in SUPERNETS), *(("alone", n) for n in range(len(bench.structures)))]
    for kind, number in trainings:
        if (bench.dataset, kind, number, seed) in done:
            continue
        record = bench.alone(number, seed) if kind == "alone" else bench.supernet(kind, seed)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        epochs = record["epochs"]
        told = f"{_best(epochs):.4f} in {len(epochs)} epochs, {epochs[-1]['seconds']:.1f} s"
        print(f"{bench.dataset} {record['kind']} {number}, seed {seed}: {told}", flush=True)


if __name__ == "__main__":
    main()
