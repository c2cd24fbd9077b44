"""Whether one HiNet of the largest sizes, trained once, ranks the structures inside it as separate training does.

    python -m benchmarks.supernet --work=DIR --source=DATA --sets kuairand yelp
    python -m benchmarks.supernet --work=DIR --tables                             measures nothing

Method. `LARGEST` holds the largest sizes of a small space of structures: layers of both levels, sub-experts, experts,
depths and widths. A sub-network is the HiNet of a structure whose weights are the leading units, sub-experts and
experts of the largest one's (`Supernet`), as in Yu and Huang, Universally Slimmable Networks (ICCV 2019): every step
goes down the mean loss of the largest structure, the smallest and `RANDOM` random ones. Everything else is HiNet's
defaults, on at most `ROWS` rows of whole users. The supernet is validated on the largest structure and stopped by
HiNet's default rule. After each of its epochs every one of the structures to be ranked is evaluated with the shared
weights on the validation rows; its value is its best epoch's macro AUC, as it is in separate training. Each is also
trained alone from scratch with the defaults' stopping. One thread; seconds are those of the processor, with building
the models and validation. Every training ended is a line of `DIR/supernet.jsonl`; the same command goes on from there
and prints tables:

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
import copy
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fidelity import correlation, read
from recbole_msr.models.hinet import HiNet

ROWS = 37_000
STRUCTURES = 30
SEEDS = (2020, 2021)
RANDOM = 2
METRIC = "auc/macro"
DRAWS = 2000
WIDTHS = (8, 16, 32, 64)
LARGEST: dict[str, Any] = {
    **{"scenario_layers": 2, "sub_experts": 4, "expert_hidden_sizes": [64, 64]},
    **{"task_layers": 2, "task_own_experts": 3, "task_shared_experts": 3, "task_expert_hidden_sizes": [64, 64]},
    "tower_hidden_sizes": [64, 64],
}
SMALLEST: dict[str, Any] = {
    **{"scenario_layers": 1, "sub_experts": 1, "expert_hidden_sizes": [8]},
    **{"task_layers": 1, "task_own_experts": 1, "task_shared_experts": 0, "task_expert_hidden_sizes": [8]},
    "tower_hidden_sizes": [8],
}

Record = Mapping[str, Any]
"""A training: dataset, kind (alone, supernet), number of the structure, seed, epochs with values and seconds."""


def draw(random: np.random.Generator) -> dict[str, Any]:
    """A random structure between the smallest and the largest."""
    structure: dict[str, Any] = {}
    for key, most in LARGEST.items():
        if isinstance(most, list):
            structure[key] = random.choice(WIDTHS, random.integers(1, len(most) + 1)).tolist()
        else:
            structure[key] = int(random.integers(SMALLEST[key], most + 1))
    return structure


# The supernet.


class Structure(HiNet):
    """A HiNet without weights or features of its own: its layers are called with weights that it is given.

    Args:
        config, dataset: as of HiNet.
        input_size: width D of x.
    """

    forward = HiNet.logits

    def __init__(self, config: Any, dataset: Any, input_size: int) -> None:
        self._input_size = input_size
        with torch.device("meta"):
            super().__init__(config, dataset)

    def _add_features(self, config: Any, dataset: Any) -> None:
        self.features = SimpleNamespace(output_size=self._input_size)


class Supernet(HiNet):
    """The HiNet of the largest sizes, whose loss is the mean over the largest, the smallest and random structures.

    Args:
        config, dataset: as of HiNet.
        random: draws the structures of a step.
    """

    def __init__(self, config: Any, dataset: Any, random: np.random.Generator) -> None:
        super().__init__(config, dataset)
        self._parts = config, dataset
        self._random = random
        self._active: list[Structure] = []  # in a list, as it is no part of this module; empty for the largest

    def structure(self, settings: Mapping[str, Any]) -> Structure:
        """A structure for `using`."""
        config, dataset = self._parts
        config = copy.copy(config)
        config.final_config_dict = {**config.final_config_dict, **settings}
        return Structure(config, dataset, self.features.output_size)

    @contextmanager
    def using(self, structure: Structure | None) -> Iterator[None]:
        """Compute with a structure; None for the largest."""
        self._active = [] if structure is None else [structure]
        yield
        self._active = []

    def calculate_loss(self, interaction: Any) -> Tensor:
        losses = []
        for settings in (LARGEST, SMALLEST, *(draw(self._random) for _ in range(RANDOM))):
            with self.using(None if settings is LARGEST else self.structure(settings)):
                losses.append(super().calculate_loss(interaction))
        return torch.stack(losses).mean()

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        if not self._active:
            return super().logits(x, scenario)
        structure = self._active[0].train(self.training)
        logits: Tensor = torch.func.functional_call(structure, shared_weights(self, structure), (x, scenario))
        return logits


def shared_weights(large: HiNet, small: HiNet) -> dict[str, Tensor]:
    """Each of a smaller HiNet's tensors, cut from those of a larger one; not those of the features and the loss."""
    tensors = {**dict(large.named_parameters()), **dict(large.named_buffers())}
    found = {}
    for name, wanted in itertools.chain(small.named_parameters(), small.named_buffers()):
        if name.startswith(("scenario_", "task_layers.", "towers.")) and name != "scenario_shares":
            source = _last_layer(name, small, large)
            cut = tensors[source]
            sizes = zip(_blocks(large, source, cut.shape), _blocks(small, name, wanted.shape), strict=True)
            for dim, (most, some) in enumerate(sizes):
                if most != some:
                    cut = cut.index_select(dim, _leading(most, some))
            found[name] = cut
    return found


def _last_layer(name: str, small: HiNet, large: HiNet) -> str:
    """The name in the larger model: a tower's output layer comes after its hidden layers, however many."""
    before, _, place = name.rpartition(".")
    is_output = before.startswith("towers.") and int(place) == small.towers.n_hidden
    return f"{before}.{large.towers.n_hidden}" if is_output else name


_READS_C = re.compile(  # C_i = concat[G, S_i, A_i], of the scenario layer before
    r"scenario_layers\.[1-9]\d*\.experts\.(sub_experts\.weights\.0|gates\.weight)"
    r"|task_layers\.0\.(experts\.weights\.0|gates\.weights\.0|shared_gate\.weight)"
)

Blocks = list[tuple[int, ...]]
"""A dimension: blocks side by side, each a product of factors."""


def _blocks(model: HiNet, name: str, shape: Sequence[int]) -> list[Blocks]:
    """What the dimensions of a tensor are made of."""
    blocks: list[Blocks] = [[(size,)] for size in shape]
    layer: Any = model.get_submodule(".".join(name.split(".")[:2])) if "_layers." in name else None
    if name.startswith("scenario_layers.") and ".experts." in name:
        blocks[0] = [layer.experts.shape]  # experts x sub-experts
    elif name.startswith("task_layers."):
        all_experts: Blocks = [(layer.n_tasks, layer.n_own), (layer.n_shared,)]
        if ".gates." in name:  # (T, own and shared, ...)
            blocks[1] = [(layer.n_own,), (layer.n_shared,)]
        else:
            blocks[0] = all_experts
    if _READS_C.fullmatch(name):
        parts = 3 if model.n_scenarios > 1 else 2
        blocks[-1] = [(parts, shape[-1] // parts)]
    return blocks


def _leading(large: Blocks, small: Blocks) -> Tensor:
    """Places of the first entries along every factor of every block."""
    places, begin = [], 0
    for most, some in zip(large, small, strict=True):
        size = int(np.prod(most))
        block = torch.arange(begin, begin + size).reshape(most)
        places.append(block[tuple(slice(n) for n in some)].flatten())
        begin += size
    return torch.cat(places)


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

    def supernet(self, seed: int) -> Record:
        """Train the supernet, and evaluate every structure after every epoch."""
        began = time.process_time()
        epochs: list[dict[str, Any]] = []
        config = self._config({**LARGEST, "seed": seed})
        model = self._built(config, lambda: Supernet(config, self._splits[0], np.random.default_rng(seed)))
        structures = [model.structure(settings) for settings in self.structures]

        def after_epoch(_: int, score: float) -> None:
            values = [self.value(model, structure) for structure in structures]
            seconds = round(time.process_time() - began, 3)
            epochs.append({"value": score, "values": values, "seconds": seconds})

        self._fit(config, model, after_epoch)
        return self._record("supernet", -1, seed, epochs)

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
    found = {
        "another seed": (_values(alone, lambda epochs: _best(epochs)), _seconds(alone, lambda epochs: epochs[-1])),
        "its epoch 1": (_values(alone, lambda epochs: epochs[0]["value"]), _seconds(alone, lambda epochs: epochs[0])),
        "its epochs 1, 2": (
            _values(alone, lambda epochs: _best(epochs[:2])),
            _seconds(alone, lambda epochs: epochs[:2][-1]),
        ),
        "number of parameters": ({-1: [r["parameters"] for r in next(iter(alone.values()))]}, 0.0),
    }
    nets = [r for r in records if r["kind"] == "supernet"]
    if nets:
        seconds = float(np.mean([net["epochs"][-1]["seconds"] for net in nets]))
        every = {net["seed"]: np.array([epoch["values"] for epoch in net["epochs"]]) for net in nets}
        best = {net["seed"]: int(np.argmax([epoch["value"] for epoch in net["epochs"]])) for net in nets}
        found["supernet"] = ({seed: values.max(axis=0).tolist() for seed, values in every.items()}, seconds)
        own = {seed: values[best[seed]].tolist() for seed, values in every.items()}
        found["supernet, the largest's best epoch"] = (own, seconds)
        found["supernet, mean of epochs"] = ({s: values.mean(axis=0).tolist() for s, values in every.items()}, seconds)
    return found


def _by_seed(records: Sequence[Record]) -> dict[int, list[Record]]:
    most = 1 + max(r["number"] for r in records)
    by_seed: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda r: r["number"]):
        by_seed.setdefault(record["seed"], []).append(record)
    return {seed: group for seed, group in sorted(by_seed.items()) if len(group) == most}


def _best(epochs: Sequence[Mapping[str, Any]]) -> float:
    return max(float(epoch["value"]) for epoch in epochs)


def _values(alone: Mapping[int, Sequence[Record]], of: Callable[[Any], float]) -> dict[int, list[float]]:
    return {seed: [of(record["epochs"]) for record in group] for seed, group in alone.items()}


def _seconds(alone: Mapping[int, Sequence[Record]], of: Callable[[Any], Mapping[str, float]]) -> float:
    return float(np.mean([sum(of(record["epochs"])["seconds"] for record in group) for group in alone.values()]))


def correlations(
    values: Mapping[int, Sequence[float]], finals: Mapping[int, Sequence[float]], apart: bool
) -> tuple[float, float, tuple[float, float]]:
    """Mean rank correlation with one training and with the mean of several, and the latter's interval.

    Args:
        values: the predictor's, by its seed.
        finals: those of separate training, by seed.
        apart: whether equal seeds mean the same training, which is left out.
    """
    against_mean = []
    single = []
    for seed, own in values.items():
        others = [list(final) for other, final in finals.items() if not (apart and other == seed)]
        single += [correlation(own, other) for other in others]
        against_mean.append((np.array(own), np.mean(others, axis=0)))
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        places = random.integers(0, len(against_mean[0][0]), len(against_mean[0][0]))
        drawn.append(np.mean([correlation(own[places], mean[places]) for own, mean in against_mean]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    whole = float(np.mean([correlation(own.tolist(), mean.tolist()) for own, mean in against_mean]))
    return float(np.mean(single)), whole, (float(low), float(high))


def table(records: Sequence[Record]) -> Iterator[str]:
    """Markdown: what each predictor says of one dataset's structures."""
    found = predictors(records)
    finals, whole = found["another seed"]
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
    best = set(np.argsort(mean)[::-1][:3].tolist())
    for name, (values, seconds) in found.items():
        apart = name in ("another seed", "its epoch 1", "its epochs 1, 2")
        if apart and len(finals) < 2:
            continue
        one, all_of_them, (low, high) = correlations(values, finals, apart)
        kept = np.mean([len(best & set(np.argsort(own)[::-1][:10].tolist())) for own in values.values()])
        yield (
            f"| {name} | {one:.2f} | {all_of_them:.2f} | {low:.2f} to {high:.2f} | {kept:.1f} | {seconds / whole:.2f} |"
        )


def main() -> None:
    """Measure what is missing, and print the tables."""
    from benchmarks.outside_data import SOURCE, missing

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and results")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder with the raw files")
    parser.add_argument("--sets", nargs="+", default=["kuairand", "yelp"])
    parser.add_argument("--rows", type=int, default=ROWS, help="most rows of each dataset")
    parser.add_argument("--structures", type=int, default=STRUCTURES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    given = parser.parse_args()
    for name in given.sets if not given.tables else []:
        if (why := missing(name, given.source)) is not None:
            print(why)
            continue
        _measure(name, given)
    records = read(given.work / "supernet.jsonl")
    for dataset in dict.fromkeys(record["dataset"] for record in records):
        print("\n".join(table([record for record in records if record["dataset"] == dataset])))


def _measure(name: str, given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    bench = Bench(name, given.rows, [draw(random) for _ in range(given.structures)], given.work, given.source)
    path = given.work / "supernet.jsonl"
    done = {(r["dataset"], r["number"], r["seed"]) for r in read(path)}
    for seed, number in itertools.product(given.seeds, range(-1, given.structures)):
        if (bench.dataset, number, seed) in done:
            continue
        record = bench.supernet(seed) if number < 0 else bench.alone(number, seed)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        epochs = record["epochs"]
        told = f"{_best(epochs):.4f} in {len(epochs)} epochs, {epochs[-1]['seconds']:.1f} s"
        print(f"{bench.dataset} {record['kind']} {number}, seed {seed}: {told}", flush=True)


if __name__ == "__main__":
    main()
