"""A finished run's folder, and what it was made of as far as that is still there: store, model, training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_msr.config.build import build_config, reading_data
from recbole_msr.config.merge import absolute
from recbole_msr.data.cache import DAMAGE as VOCABULARY_DAMAGE
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError, nearest
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.prompts.store import RESERVED, Knowledge
from recbole_msr.runs.result_file import read_result
from recbole_msr.training.checkpoint import load_checkpoint, load_weights


class SavedRun:
    """A finished run, as its folder, its store and its data still are.

    Args:
        folder: the run's folder.
        knowledge_dir: where the knowledge is now, if it has moved.

    Attributes:
        summary: the content of result.json.
        config, dataset: RecBole's Config, and the vocabularies and tables the run has kept (without interactions).
        notes: what is not to be had any more, and why; every method adds to them.

    Raises:
        InputError: no finished run with tasks, or its files are damaged.
    """

    def __init__(self, folder: Path, knowledge_dir: str | Path | None) -> None:
        self.folder, self.notes = folder, list[str]()
        self.summary = _finished(folder)
        content = load_checkpoint(folder / "best.ckpt")
        self._keys = [value for name, value in content["state_dict"].items() if name.endswith(".key")]
        self._settings = dict(content["config"]) | {"strict": False, "use_gpu": False}
        self._names = (self._settings.pop("model"), self._settings.pop("dataset"))
        if knowledge_dir is not None:
            self._settings["knowledge_dir"] = absolute(knowledge_dir)
        self.config = build_config(*self._names, self._settings)
        try:
            self.dataset = ScenarioDataset.from_vocabulary(self.config, folder / "vocabulary")
        except VOCABULARY_DAMAGE as error:
            raise InputError(f"the vocabulary in {folder} is damaged: {error}") from error

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self._names[0])

    def facts(self, model: Any) -> dict[str, str]:
        found = {"Run": str(self.folder), "Model": self._names[0], "Dataset": self._names[1]}
        if isinstance(model, LLM4MSR):
            found |= {"Backbone": type(model.backbone).__name__}
        if self.config["knowledge"]:
            found |= {"Knowledge": str(self.config["knowledge"])}
        if isinstance(model, LLM4MSR) and model.scenario_level is not None:
            level = model.scenario_level
            alpha = "a gate for every row" if level.fusion == "gate" else f"{_number(level.alpha):.4f} ({level.fusion})"
            found |= {"alpha": alpha}
        return found | {
            "Scenarios": str(len(self.dataset.scenario_names)),
            "Tasks": ", ".join(self.summary["tasks"]),
            "Best epoch": str(self.summary["best_epoch"]),
            "Parameters": f"{self.summary['parameters']:,}",
        }

    def evaluation(self) -> Evaluation | None:
        test = self.summary.get("test") or {}
        if "cells" not in test:
            self.notes.append("RecBole's own trainer evaluated this run: there is no result by scenario")
            return None
        return Evaluation.from_dict(test)

    def check_users(self, users: Sequence[str]) -> None:
        known = self.dataset.field2token_id[self.dataset.uid_field]
        if not users:
            raise InputError("--users lists ids of users, separated by commas: --users=12,57")
        for token in users:
            if token not in known or known[token] == 0:
                # Among millions of ids only those that begin alike are compared.
                like = [t for t in known if known[t] and (len(known) < 20_000 or t[:3] == str(token)[:3])][:20_000]
                raise InputError(
                    f"there is no user '{token}' in this run{nearest(str(token), like) or ';'} it knows "
                    f"{len(known) - 1} users, by their ids as in the data, such as {', '.join(list(known)[1:4])}"
                )

    def store(self) -> tuple[Knowledge | None, str | None]:
        """The run's store, or None; and what is wrong, if the run reads one that is not to be had."""
        name = self.config["knowledge"]
        if not self._reads():
            return None, None
        if str(name) in RESERVED:
            why = {
                "none": "the run has no knowledge (knowledge: none): it is its backbone alone, without prompts and "
                "without meta layers",
                "random": "the run's vectors are drawn at random (knowledge: random): there are no prompts",
            }
            self.notes.append(why[str(name)])
            return None, None
        try:
            store = Knowledge.open(str(name), self.config["knowledge_dir"])
            store.check(self.dataset)
            key = _key_of(store)
            if any(not torch.equal(found.cpu(), key) for found in self._keys):
                raise InputError(
                    f"the knowledge '{name}' was built anew since the run, with another result: its prompts are not "
                    "those that the run was trained with"
                )
        except InputError as error:
            # The message of a missing store says how one is built; its dataset is known here.
            told = str(error).replace("--dataset=DATASET", f"--dataset={self._names[1]}")
            self.notes.append(f"no prompts: {told}. If it is elsewhere, say so with --knowledge_dir=DIR")
            return None, told
        missing = [level for level in self._reads() if level not in store.levels]
        for level in missing:
            self.notes.append(f"the knowledge '{name}' has no {level} prompts")
        for level in ("scenario", "user"):
            if level not in self._reads() and level in store.levels:
                self.notes.append(f"the store has {level} prompts, but this run reads no vectors of {level}s")
        return store, None

    def _reads(self) -> list[str]:
        """The levels whose vectors the run reads."""
        levels = list(np.atleast_1d(self.config["knowledge_features"] or []))
        if self._names[0] == "LLM4MSR":
            level = self.config["knowledge_level"]
            levels += {"both": ["scenario", "user"], "none": []}.get(level, [level])
        return [str(level) for level in dict.fromkeys(levels)]

    def model(self, store_is_there: bool) -> MultiScenarioRecommender | None:
        """The trained model; without its store the backbone of LLM4MSR alone; None where there is nothing to look into.

        Raises:
            InputError: the weights cannot be read.
        """
        from recbole.utils import get_model

        model_class = get_model(self.config["model"])
        if not issubclass(model_class, MultiScenarioRecommender):
            self.notes.append(
                f"{self._names[0]} is one of RecBole's models: its results by scenario are shown, but there is nothing "
                "between scenarios to look into. HiNet, LLM4MSR and models with gates over experts (PLE, MMoE, OMoE, "
                "HMoE) are explained"
            )
            return None
        if store_is_there or self.config["knowledge_bake"]:
            model: MultiScenarioRecommender = model_class(self.config, self.dataset)
            load_weights(model, self.folder / "best.ckpt")
            model.eval()
            return model
        if self.config["knowledge_features"]:
            self.notes.append("the model reads the store's vectors as features: nothing of it is shown without them")
            return None
        self.notes.append("without its store's vectors the model is shown without its meta layers")
        config = build_config(*self._names, self._settings | {"knowledge": "none"})
        model = model_class(config, self.dataset)
        state = load_checkpoint(self.folder / "best.ckpt")["state_dict"]
        try:
            model.load_state_dict({name: state[name] for name in model.state_dict() if name in state})
        except (KeyError, RuntimeError) as error:
            raise InputError(f"the weights in {self.folder / 'best.ckpt'} do not fit the backbone: {error}") from error
        model.eval()
        return model

    def training_rows(self) -> ScenarioDataset | None:
        """The training split, read again; None where it is gone or has changed since."""
        from recbole.data import create_dataset

        try:
            with reading_data(self.config):
                train = create_dataset(self.config).build()[0]
        except InputError as error:
            self.notes.append(f"no numbers of training rows (expert use, strengths, movement): {error}")
            return None
        before, now = self.dataset.field2id_token, train.field2id_token
        changed = [f for f in before if f not in now or not np.array_equal(before[f], now[f])]
        if not changed:
            changed = [f for table in ("user_feat", "item_feat") for f in _differing(self.dataset, train, table)]
        if changed or self.dataset.split_sizes != train.split_sizes:
            what = f"other values of {', '.join(changed)}" if changed else "another number of rows"
            self.notes.append(
                f"no numbers of training rows (expert use, strengths, movement): the data in {train.dataset_path} have "
                f"changed since the run ({what})"
            )
            return None
        split: ScenarioDataset = train
        return split


def _finished(folder: Path) -> dict[str, Any]:
    """The content of a finished run's result.json.

    Raises:
        InputError: the folder is no run's, or the run is not finished, or had no tasks.
    """
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}")
    if not (folder / "config.yaml").is_file():
        below = sorted(str(found.parent) for found in folder.glob("*/result.json"))[:5]
        hint = f"; there are runs in {', '.join(below)}" if below else ": it has no config.yaml"
        raise InputError(f"{folder} is no run's folder{hint}")
    try:
        summary = read_result(folder / "result.json")
    except FileNotFoundError as error:
        raise InputError(
            f"the run in {folder} has not come to its end (run_recbole --resume --output_dir={folder} goes on with it)"
        ) from error
    except OSError as error:
        raise InputError(f"{folder / 'result.json'} cannot be read: {error.strerror or error}") from error
    if not summary.get("tasks"):
        raise InputError(
            f"the run in {folder} ({summary.get('model')}) was made without scenarios and tasks: there is nothing to "
            "explain. Runs of HiNet, LLM4MSR and the other multi-scenario models are explained"
        )
    return summary


def _differing(before: ScenarioDataset, now: ScenarioDataset, table: str) -> list[str]:
    """The fields of a user or item table that do not hold what they held."""
    old, new = getattr(before, table), getattr(now, table)
    if old is None or new is None:
        return [] if old is new else [table.removesuffix("_feat")]
    return [field for field in old.columns if field not in new or not torch.equal(old[field], new[field])]


def _key_of(store: Knowledge) -> Tensor:
    """What `KnowledgeVectors` keeps of a store's key (16,)."""
    return torch.tensor(list(hashlib.blake2b(store.key.encode(), digest_size=16).digest()), dtype=torch.uint8)


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else value
