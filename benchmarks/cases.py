"""What is measured: models, datasets, and the sides that do the same work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import synthetic
from recbole_msr.files.yaml import read_yaml
from recbole_msr.registry import properties

MODELS = ("LR", "DeepFM", "DCNV2", "MMoE", "HiNet", "LLM4MSR")
DATASETS = ("ml-100k", "ml-1m", synthetic.NAME)
STEPS = {"LR": 40, "DeepFM": 30, "DCNV2": 25, "MMoE": 20, "HiNet": 6, "LLM4MSR": 15}
"""Batches of one stretch. All sides of a model train on the same ones."""
BATCH = {"ml-100k": 2048, "ml-1m": 4096, synthetic.NAME: 4096}
DROPOUT = ("DeepFM", "DCNV2")
"""RecBole's models that have dropout: `fast_dropout` is about those."""


@dataclass(frozen=True)
class Side:
    """One way to train a model.

    Attributes:
        name: as the tables have it.
        recbole: under RecBole's Trainer, loaders and optimiser, without this package's speed-ups of RecBole.
        plain: the plain HiNet, instead of this package's.
        settings: configuration keys besides those that all sides share.
    """

    name: str
    recbole: bool = False
    plain: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


SIDES = {
    side.name: side
    for side in (
        Side("RecBole", recbole=True),
        Side("RecBole, plain", recbole=True, plain=True),
        Side("ours"),
        Side("ours, fast", settings={"fast_dropout": True}),
        Side("ours, sparse", settings={"embedding_gradients": "sparse"}),
        Side("ours, sparse, fast", settings={"embedding_gradients": "sparse", "fast_dropout": True}),
        Side(
            "ours, sparse, fast, bf16",
            settings={"embedding_gradients": "sparse", "fast_dropout": True, "precision": "bf16-mixed"},
        ),
        Side("ours, bf16", settings={"precision": "bf16-mixed"}),
        Side("ours, fast, bf16", settings={"fast_dropout": True, "precision": "bf16-mixed"}),
        Side("ours, compiled", settings={"compile": True}),
    )
}


def sides_of(model: str, dataset: str) -> list[Side]:
    """The sides that are measured for a model on a dataset, in their order."""
    names = ["RecBole", "ours"]
    if dataset == "ml-1m":
        if model == "HiNet":
            names = ["RecBole, plain", "RecBole", "ours"]
        names += ["ours, fast"] if model in DROPOUT else []
        names += ["ours, bf16"] if model in ("DeepFM", "HiNet") else []
        # Of HiNet, compiling alone takes minutes.
        names += ["ours, fast, bf16", "ours, compiled"] if model == "DeepFM" else []
    elif dataset == synthetic.NAME:
        names += ["ours, sparse"]
        names += ["ours, sparse, fast", "ours, sparse, fast, bf16"] if model == "DeepFM" else []
    return [SIDES[name] for name in names]


@dataclass(frozen=True)
class Case:
    """One measurement: a model on a dataset, one side."""

    model: str
    dataset: str
    side: str

    @property
    def under(self) -> Side:
        return SIDES[self.side]

    @property
    def class_name(self) -> str:
        return "PlainHiNet" if self.under.plain else self.model

    def settings(self, data_path: str | None, batch: int | None = None, gpu: bool = False) -> dict[str, Any]:
        """Its configuration; the folders are the caller's."""
        own = data_settings(self.dataset, data_path)
        own |= {"train_batch_size": batch or BATCH[self.dataset], "eval_batch_size": 65536, "seed": 2022}
        own |= {"weight_decay": 0.0, "use_gpu": gpu, "show_progress": False, "state": "ERROR", "stopping_step": 100}
        own |= {"backbone": "STAR", "knowledge": "random"} if self.model == "LLM4MSR" else {}
        return own | self.under.settings


def data_settings(dataset: str, data_path: str | None) -> dict[str, Any]:
    """What a configuration says of a dataset, its scenarios and its tasks."""
    if dataset == synthetic.NAME:
        return {**synthetic.SETTINGS, "data_path": data_path}
    own: dict[str, Any] = {"preset": dataset, "metrics": ["AUC", "LogLoss"], "valid_metric": "AUC"}
    own |= {"train_neg_sample_args": None}
    own |= {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"}}
    return own if dataset == "ml-100k" else {**own, "data_path": data_path}


def without_tasks(dataset: str, data_path: str | None) -> dict[str, Any]:
    """The same files, columns and split as RecBole alone knows them: one label, and no scenarios."""
    own = data_settings(dataset, data_path)
    preset = own.pop("preset", None)
    for key in ("scenario", "tasks", "main_task"):
        own.pop(key, None)
    if preset is None:
        return own | {"LABEL_FIELD": synthetic.TASKS[0], "threshold": None}
    declared = read_yaml(properties("dataset", f"{preset}.yaml"))
    kept = ("load_col", "numerical_features", "normalize_field")
    own |= {key: declared[key] for key in kept if key in declared}
    return own | {"LABEL_FIELD": "label", "threshold": {"rating": 4}}


def has_data(dataset: str, data_path: str | None) -> bool:
    """Whether a dataset's files are there; ml-100k comes with RecBole."""
    return dataset == "ml-100k" or (data_path is not None and Path(data_path, dataset, f"{dataset}.inter").is_file())


MEMORY = (
    ("DeepFM", "ml-1m", ("RecBole", "ours")),
    ("DeepFM", synthetic.NAME, ("RecBole", "ours, sparse")),
)
"""Where it is measured what a process gains by how it gets its memory: model, dataset, sides."""


def memory_ways(side: str) -> dict[str, dict[str, str]]:
    """Environments that a side is measured in, its usual one first."""
    if SIDES[side].recbole:
        return {"as it is": {}, "large pages": {"THP_MEM_ALLOC_ENABLE": "1"}}
    small = {"THP_MEM_ALLOC_ENABLE": "0"}
    back = {"MALLOC_PERTURB_": "0"}  # malloc's own value; where any is set, this package leaves malloc as it is
    return {"as it is": {}, "small pages": small, "memory given back": back, "both": small | back}
