"""The trainings that first configurations are learnt from: the same settings of a model on every dataset.

Method. A model's settings are its defaults, deliberate changes of them (`VARIANTS`), and random points of its search
space. Each is trained once on each dataset, with one seed, by the package itself (`recbole_msr.run`); its value is the
macro AUC on the validation rows in its best epoch (the mean over scenario x task cells; for RecBole's models over the
main task's cells). Cut, because two cores are few: whole users with at most `rows` rows a dataset (twice as many of
amazon), 25 % of them for validation so that values are less noisy; at most `epochs` epochs, stopped after two
validations without gain. Batches are a quarter of what the settings say, so that an epoch of the few rows has as many
steps as one of four times the rows.
Settings that take more than `SLOWEST` times as long as the defaults on a dataset are given up.

Next is always the model that has had the least of its share of the time so far (`SHARES`), with its next settings on
all datasets: so that the results are of use whenever it stops. Started again, it goes on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import optuna

from benchmarks.outside_data import DATASETS, SOURCE, prepare, present
from recbole_msr.files.yaml import parse_yaml
from recbole_msr.registry import describe
from recbole_msr.tuning.space.space import Space

SHARES = {
    **{"SharedBottom": 3.0, "HiNet": 5.0, "MMoE": 2.0, "PLE": 2.0, "STAR": 2.0, "HMoE": 1.5, "AITM": 1.0},
    **{"FM": 1.0, "WideDeep": 1.0, "DeepFM": 2.0, "DCNV2": 1.5, "AutoInt": 1.5},
}
"""Shares of the time, relative to each other."""
_SMALL_STEPS = {"learning_rate": 0.0006, "train_batch_size": 1024, "batch_norm": True, "loss_weighting": "uncertainty"}
_COMMON: list[dict[str, Any]] = [
    {**_SMALL_STEPS},
    {"interaction": "fm"},
    {"learning_rate": 0.003},
    {"embedding_dropout": 0.3},
    {"weight_decay": 0.0003},
    {"learning_rate": 0.005, "weight_decay": 0.0005, "dropout": 0.4},
    {"interaction": "cross"},
    {"batch_norm": True, "dropout": 0.4, "learning_rate": 0.003},
    {"learning_rate": 0.003, "weight_decay": 0.0001, "embedding_size": 32},
]
_ONE_TASK: list[dict[str, Any]] = [
    {"weight_decay": 0.0001},
    {"learning_rate": 0.003, "weight_decay": 0.0001},
    {"weight_decay": 0.001},
    {"learning_rate": 0.005, "weight_decay": 0.001},
    {"embedding_size": 32, "weight_decay": 0.0001},
    {"mlp_hidden_size": [64], "dropout_prob": 0.4},
    {"learning_rate": 0.005},
]
_NARROW = {"expert_hidden_sizes": [64], "task_expert_hidden_sizes": [64], "tower_hidden_sizes": [32]}
_FEW = {"sub_experts": 3, "task_own_experts": 1, "task_shared_experts": 1}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "SharedBottom": [
        {"weight_decay": 0.0003},
        *(one for one in _COMMON if one != {"weight_decay": 0.0003}),
        {
            **{"bottom_hidden_sizes": [256, 64, 256], "towers_per": "task", "learning_rate": 0.0006},
            **{"weight_decay": 0.000003, "train_batch_size": 1024, "batch_norm": True, "loss_weighting": "uncertainty"},
        },
        {
            **{"bottom_hidden_sizes": [32], "tower_hidden_sizes": [128, 32], "towers_per": "task", "dropout": 0.4},
            **{"learning_rate": 0.007, "weight_decay": 0.0005, "train_batch_size": 8192},
            **{"loss_weighting": "uncertainty"},
        },
        {"embedding_learning_rate_factor": 3.0},
        {"learning_rate": 0.003, "learning_rate_schedule": "cosine", "schedule_epochs": 8, "warmup_epochs": 0.5},
        {"bottom_hidden_sizes": [128], "tower_hidden_sizes": [8], "towers_per": "scenario", "batch_norm": True},
        {"embedding_size": 32, "embedding_dropout": 0.3},
        {"dropout": 0.0},
        {"interaction": "fm", "embedding_dropout": 0.3, "learning_rate": 0.003},
        {"embedding_size": 8},
        {"towers_per": "task"},
        {"weight_decay": 0.001},
        {"train_batch_size": 1024},
    ],
    "HiNet": [
        {**_NARROW},
        {**_SMALL_STEPS},
        {**_NARROW, **_FEW, **_SMALL_STEPS},
        {**_NARROW, "interaction": "fm"},
        {**_NARROW, **_FEW, "learning_rate": 0.003, "weight_decay": 0.0003},
        {**_NARROW, "embedding_dropout": 0.3},
        {**_NARROW, **_FEW, "learning_rate": 0.005, "weight_decay": 0.0005, "dropout": 0.4},
        {**_NARROW, **_FEW, "embedding_learning_rate_factor": 3.0},
        {**_NARROW, **_FEW, "interaction": "cross"},
        {**_NARROW, "dropout": 0.0, "weight_decay": 0.0003},
        {"embedding_dropout": 0.2},
        {"learning_rate": 0.0005},
    ],
    "FM": [
        {"weight_decay": 0.0001},
        {"learning_rate": 0.003},
        {"learning_rate": 0.005, "weight_decay": 0.0001},
        {"learning_rate": 0.01},
        {"learning_rate": 0.01, "weight_decay": 0.0001, "embedding_size": 32},
        {"learning_rate": 0.005, "embedding_size": 32},
        {"learning_rate": 0.003, "train_batch_size": 1024},
        {"learning_rate": 0.01, "weight_decay": 0.001},
        {"learning_rate": 0.005, "embedding_size": 8},
    ],
    **dict.fromkeys(("MMoE", "PLE", "STAR", "AITM", "HMoE"), _COMMON),
    **dict.fromkeys(("DeepFM", "DCNV2", "WideDeep", "AutoInt"), _ONE_TASK),
}
"""Changes of a model's defaults that are tried before random points; a key that its space lacks is left out of them.
Those of SharedBottom with most keys stood out among random points (`benchmarks/fidelity.py`)."""
SLOWEST = 4.0
"""Settings that take so many times the defaults' processor time are given up."""
LEAST_LIMIT = 6.0
"""But never before so many seconds."""
BATCH_SHARE = 4
"""Batches are smaller than the settings say by this factor."""
SEED = 2022


class Results:
    """What was planned and trained so far, as JSON lines in a folder.

    Args:
        folder: the folder.
        fidelity: `fidelity.jsonl` of `benchmarks/fidelity.py`, whose full trainings count, too: random points of a
            space, on datasets that are named with their rows.
    """

    def __init__(self, folder: Path, fidelity: Path | None = None) -> None:
        self._plan, self._done = folder / "settings.jsonl", folder / "trainings.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, list[dict[str, Any]]] = {}
        for line in _lines(self._plan):
            self.settings.setdefault(line["model"], []).append(line)
        self.trainings: list[dict[str, Any]] = list(_lines(self._done))

        self._others = [_of_fidelity(line) for line in _lines(fidelity)] if fidelity is not None else []
        for line in self._others:  # settings that were planned here as well, up to their numbers' first digits
            model, same = line["model"], differing(line["model"], line["settings"], 1)
            for planned in self.settings.get(model, []):
                if differing(model, planned["settings"], 1) == same:
                    line["number"] = planned["number"]

    def values(self, model: str) -> dict[int, dict[str, float]]:
        """Settings' numbers -> dataset -> value, of those that were trained on all datasets."""
        own = [line for line in self.trainings if line["model"] == model]
        others = [line for line in self._others if line["model"] == model]
        found: dict[int, dict[str, float]] = {}
        for lines in (own, others):
            for number, values in _complete(lines).items():
                found.setdefault(number, {}).update(values)
        return dict(sorted(found.items()))

    def of(self, model: str) -> dict[int, dict[str, Any]]:
        """Settings by number, each with `settings` and `origin`."""
        found = dict(enumerate(self.settings.get(model, [])))
        return {line["number"]: line for line in self._others if line["model"] == model} | found

    def random(self, model: str) -> list[int]:
        """Numbers of the settings that are random points of the model's space."""
        others = {line["number"] for line in self._others if line["model"] == model and line["number"]}
        return sorted(others | {number for number, one in self.of(model).items() if one["origin"] == "random"})

    def plan(self, model: str, count: int) -> None:
        """Make a model's settings at least so many: the defaults, the variants, then random points of its space."""
        planned = self.settings.setdefault(model, [])
        if not planned:
            self._add(model, "defaults", {})
            keys = Space.of_model(model).keys
            for variant in VARIANTS.get(model, []):
                if known := {key: value for key, value in variant.items() if key in keys}:
                    self._add(model, "variant", known)
        if count > len(planned):
            space = Space.of_model(model).resolve("ml-100k")
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED + len(planned)))
            while len(planned) < count:
                self._add(model, "random", space.suggest(study.ask()))

    def _add(self, model: str, origin: str, settings: dict[str, Any]) -> None:
        planned = self.settings[model]
        line = {"model": model, "number": len(planned), "origin": origin, "settings": settings}
        planned.append(line)
        _append(self._plan, line)

    def seconds(self, model: str) -> float:
        """Processor time of a model's trainings."""
        return sum(line["seconds"] for line in self.trainings if line["model"] == model)

    def limit(self, model: str, data: str) -> float | None:
        """Seconds that settings may take on a dataset; None for the defaults."""
        for line in self.trainings:
            if (line["model"], line["number"], line["data"]) == (model, 0, data):
                return max(LEAST_LIMIT, SLOWEST * line["seconds"])
        return None

    def left(self, models: list[str], settings: int, data: list[str]) -> dict[str, list[tuple[int, str]]]:
        """What is not trained yet, by model: numbers of settings and datasets, in their order."""
        done = {(line["model"], line["number"], line["data"]) for line in self.trainings}
        return {
            model: [(n, one) for n in range(settings) for one in data if (model, n, one) not in done]
            for model in models
        }  # fmt: skip

    def add(self, line: dict[str, Any]) -> None:
        """Keep a training."""
        self.trainings.append(line)
        _append(self._done, line)


def differing(model: str, settings: Mapping[str, Any], digits: int = 3) -> dict[str, Any]:
    """The keys in which settings differ from a model's defaults, numbers rounded to some digits."""
    known = {"learning_rate": 0.001, "train_batch_size": 2048, "weight_decay": 0.0} | _defaults(
        model
    )  # RecBole's, ours
    rounded = {
        key: float(f"{value:.{digits}g}") if isinstance(value, float) else value for key, value in settings.items()
    }
    return {key: value for key, value in rounded.items() if known.get(key, math.nan) != value}


@cache
def _defaults(model: str) -> dict[str, Any]:
    return parse_yaml(describe(model), model) or {}


def _complete(lines: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Numbers of settings -> dataset -> value, on the datasets that most have, of those that have them all."""
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        value = line["value"] if line["value"] is not None else -math.inf
        found.setdefault(line["number"], {})[line["data"]] = value
    counts = Counter(data for values in found.values() for data in values)
    every = [data for data, count in counts.items() if 2 * count >= max(counts.values())]
    return {
        number: {data: values[data] for data in every}
        for number, values in found.items()
        if all(data in values for data in every)
    }


def _of_fidelity(line: dict[str, Any]) -> dict[str, Any]:
    """A line of `fidelity.jsonl` as one of a training; 0 are the defaults there, too."""
    name = next(name for name in DATASETS if line["dataset"] == name or line["dataset"].startswith(f"{name}-"))
    return {
        **{"model": line["model"], "number": line["number"] and 1000 + line["number"], "origin": "random"},
        **{"data": f"{name} ({line['rows']:,} rows)", "settings": line["settings"]},
        "value": max(epoch["value"] for epoch in line["full"]),
    }


def collect(
    folder: Path, models: list[str], settings: int, rows: int, epochs: int, seconds: float | None, source: Path = SOURCE
) -> None:
    """Train, until everything is or the time is up.

    Args:
        folder: where the results are, and the datasets.
        models: names of models.
        settings: how many settings of each model.
        rows: rows of each dataset.
        epochs: of each training.
        seconds: time limit.
        source: the folder with the raw data.
    """
    started = time.monotonic()
    results = Results(folder)
    prepared = {}
    for name in present(DATASETS, source):
        prepared[name] = prepare(name, folder / "data", 2 * rows if name == "amazon" else rows, source)
    for model in models:
        results.plan(model, settings)
    left = results.left(models, settings, list(prepared))
    while any(left.values()) and (seconds is None or time.monotonic() - started < seconds):
        model = min((one for one in models if left[one]), key=lambda one: results.seconds(one) / SHARES.get(one, 0.3))
        number = left[model][0][0]
        limit = None
        while left[model] and left[model][0][0] == number:
            data = left[model].pop(0)[1]
            if limit is not None and limit <= 0:  # too slow on a dataset before
                line: dict[str, Any] = {"value": None, "reason": "too slow on another dataset", "seconds": 0.0}
            else:
                limit = results.limit(model, data)
                chosen = results.settings[model][number]["settings"]
                line = train(model, chosen, *prepared[data], epochs=epochs, limit=limit)
                limit = 0.0 if "reason" in line else limit
            results.add({"model": model, "number": number, "data": data, **line})
            print(model, number, data, json.dumps(line), flush=True)


def train(
    model: str, settings: dict[str, Any], dataset: str, data: dict[str, Any], epochs: int, limit: float | None
) -> dict[str, Any]:
    """One training: its value, best epoch, and seconds of processor time; or the reason why it has none."""
    from recbole_msr import run

    fixed = {
        **data,
        "eval_args": {**data["eval_args"], "split": {"RS": [0.7, 0.25, 0.05]}},
        **{"epochs": epochs, "stopping_step": 1, "threads": 1, "seed": SEED, "data_seed": SEED},
        **{"valid_metric": "auc/macro", "show_progress": False, "wandb": "disabled", "state": "ERROR"},
    }
    batch = int(settings.get("train_batch_size", _defaults(model).get("train_batch_size", 2048)))
    scaled = {**fixed, **settings, "train_batch_size": batch // BATCH_SHARE}
    output = tempfile.mkdtemp(prefix="portfolio-")
    began = time.process_time()
    line: dict[str, Any] = {"value": None}
    try:
        with _limited(limit):
            result = run(model, dataset, config={**scaled, "output_dir": f"{output}/run"})
        line |= {"value": round(result.summary["best_valid_score"], 6), "best_epoch": result.summary["best_epoch"]}
    except Exception as error:
        line["reason"] = f"{type(error).__name__}: {error}"[:300]
    finally:
        shutil.rmtree(output, ignore_errors=True)
        gc.collect()
    return line | {"seconds": round(time.process_time() - began, 2)}


@contextlib.contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError after so many seconds of processor time."""

    def end(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s of processor time")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last one, cut off
                yield json.loads(line)


def _append(path: Path, line: dict[str, Any]) -> None:
    with open(path, "a+b") as file:
        cut_off = file.tell() > 0 and file.seek(-1, 2) >= 0 and file.read() != b"\n"
        file.write((b"\n" if cut_off else b"") + json.dumps(line).encode() + b"\n")
