"""The parts of a finished run that are still there: its store, its model, its training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.dataset
import torch
from torch import Tensor

from recbole_msr.config.build import reading_data
from recbole_msr.data.dataset import SPLITS, ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.knowledge_source import stored_key
from recbole_msr.models.llm4msr import LEVELS, LLM4MSR
from recbole_msr.prompts.facts import item_titles
from recbole_msr.prompts.store import RESERVED, Knowledge
from recbole_msr.runs.explain.views import Prompt
from recbole_msr.runs.run_files import RunFiles
from recbole_msr.training.checkpoint import apply_weights


class RunSources:
    """The store, the model and the training rows of a run.

    Args:
        files: the run's files.

    Attributes:
        config: RecBole's Config of the run, on the CPU.
        dataset: the vocabularies and tables that the run kept.
        notes: what is no longer there, and why; reading a source adds to them.
    """

    def __init__(self, files: RunFiles) -> None:
        self._files, self.dataset, self.notes = files, files.dataset, list[str]()
        self.config = files.build_config(_ON_CPU)
        self._checkpoint = files.take_checkpoint()

    @property
    def _name(self) -> str:
        return str(self._files.config["model"])

    # The store.

    @cached_property
    def _store(self) -> tuple[Knowledge | None, bool]:
        """The run's store, or None; and whether the run reads one that is not there."""
        name, levels = str(self.config["knowledge"]), self._levels_read()
        if not levels:
            return None, False
        if name in RESERVED:
            reasons = {
                "none": "the run has no knowledge (knowledge: none): it is its backbone alone, without prompts and "
                "without meta layers",
                "random": "the run's vectors are drawn at random (knowledge: random): there are no prompts",
            }
            self.notes.append(reasons[name])
            return None, False
        control = self.config["knowledge_control"]
        if control != "none":
            self.notes.append(
                f"the run's vectors are a control's (knowledge_control: {control}), not those of the prompts: there "
                "are no prompts"
            )
            return None, False
        try:
            store = self._open_store(name)
        except InputError as error:
            # The message of a missing store says how one is built; its dataset is known here.
            reason = str(error).replace("--dataset=DATASET", f"--dataset={self._files.config['dataset']}")
            self.notes.append(f"no prompts: {reason}. If it is elsewhere, say so with --knowledge_dir=DIR")
            return None, True
        absent = [level for level in levels if level not in store.levels]
        self.notes += [f"the knowledge '{name}' has no {level} prompts" for level in absent]
        self.notes += [
            f"the store has {level} prompts, but this run reads no vectors of {level}s"
            for level in ("scenario", "user")
            if level not in levels and level in store.levels
        ]
        return store, False

    @property
    def store(self) -> Knowledge | None:
        """The run's store; None where it has none, or it is gone."""
        return self._store[0]

    def _open_store(self, name: str) -> Knowledge:
        store = Knowledge.open(name, self.config["knowledge_dir"])
        store.check(self.dataset)
        state = self._checkpoint["state_dict"]
        keys = [bytes(value.tolist()) for entry, value in state.items() if entry.endswith(".key")]
        parts = [str(part) for part in np.atleast_1d(self.config["knowledge_parts"] or [])]
        expected = stored_key(store, parts, control="none", seed=0)
        if any(key != expected for key in keys):
            raise InputError(
                f"the knowledge '{name}' was built anew since the run, with another result: its prompts are not "
                "those that the run was trained with"
            )
        return store

    def _levels_read(self) -> list[str]:
        """Return the levels whose vectors the run reads."""
        levels = list(np.atleast_1d(self.config["knowledge_features"] or []))
        if self._name == "LLM4MSR":
            levels += sorted(LEVELS[self.config["knowledge_level"]])
        return [str(level) for level in dict.fromkeys(levels)]

    def prompts(self, level: str, tokens: list[str]) -> dict[str, Prompt]:
        """Read the prompts of some scenarios or users, without all others."""
        store, _ = self._store
        if store is None or level not in store.levels:
            return {}
        rows: dict[str, dict[str, Any]] = {}
        try:
            for suffix in ("", "_texts"):
                table = pyarrow.dataset.dataset(store.path / f"{level}{suffix}.parquet", format="parquet")
                wanted = pyarrow.dataset.field("token").isin([str(token) for token in tokens])
                for row in table.to_table(filter=wanted).to_pylist():
                    rows[row["token"]] = rows.get(row["token"], {}) | row
            prompts = {
                token: Prompt(row["prompt"], row["answer"], int(row["n_tokens"]), bool(row["truncated"]))
                for token, row in rows.items()
            }
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among them
            self.notes.append(f"no {level} prompts: the knowledge in {store.path} is damaged ({error})")
            return {}
        missing = [token for token in tokens if token not in prompts]
        if missing:
            what = "text" if level == "item" else "training row"
            self.notes.append(
                f"the knowledge '{store.name}' has no prompt of {level} {', '.join(missing)}: only what has a {what} "
                "has one"
            )
        return prompts

    def titles(self, items: Sequence[str]) -> dict[str, str]:
        """Return the titles of some items, by their ids; of those that have one."""
        found = {item: self._item_titles.get(item) for item in items}
        return {item: title for item, title in found.items() if title}

    @cached_property
    def _item_titles(self) -> Mapping[str, str]:
        try:
            return item_titles(self.dataset)
        except InputError as error:
            self.notes.append(f"no titles of items: {error}")
            return {}

    # The model.

    @cached_property
    def model(self) -> MultiScenarioRecommender | None:
        """The trained model; without its store the backbone of LLM4MSR alone; None where there is nothing to look into.

        Raises:
            InputError: the weights do not fit.
        """
        from recbole.utils import get_model

        _, store_missing = self._store
        model_class = get_model(self._name)
        if not issubclass(model_class, MultiScenarioRecommender):
            self.notes.append(
                f"{self._name} is one of RecBole's models: its results by scenario are shown, but there is nothing "
                "between scenarios to look into. HiNet, LLM4MSR, PEPNet, M2M, AdaSparse, SARNet, APG, M3oE, HAMUR, "
                "AdaptDHM, AutoIFS and models with gates over experts (PLE, MMoE, OMoE, HMoE) are explained"
            )
            return None
        if not store_missing or self.config["knowledge_bake"]:
            model: MultiScenarioRecommender = model_class(self.config, self.dataset)
            apply_weights(model, self._checkpoint, self._files.checkpoint_path)
        elif self.config["knowledge_features"]:
            self.notes.append("the model reads the store's vectors as features: nothing of it is shown without them")
            return None
        else:
            model = self._backbone_alone(model_class)
        model.eval()
        return model

    def _backbone_alone(self, model_class: type[MultiScenarioRecommender]) -> MultiScenarioRecommender:
        self.notes.append("without its store's vectors the model is shown without its meta layers")
        model = model_class(self._files.build_config(_ON_CPU | {"knowledge": "none"}), self.dataset)
        state = self._checkpoint["state_dict"]
        try:
            model.load_state_dict({name: state[name] for name in model.state_dict() if name in state})
        except (KeyError, RuntimeError) as error:
            path = self._files.checkpoint_path
            raise InputError(f"the weights in {path} do not fit the backbone: {error}") from error
        return model

    # The training rows.

    @cached_property
    def _splits(self) -> list[ScenarioDataset] | str:
        """The splits, read again; or why they are not there."""
        try:
            splits = _read_splits(self.config)
        except InputError as error:
            return str(error)
        change = data_changes(self.dataset, splits[0])
        if change is not None:
            return f"the data in {splits[0].dataset_path} have changed since the run ({change})"
        return splits

    def training_split(self) -> ScenarioDataset | None:
        """Read the training split again; None where it is gone or has changed since."""
        if isinstance(self._splits, str):
            self.notes.append(f"no numbers of training rows (expert use, strengths, movement): {self._splits}")
            return None
        return self._splits[0]

    def split(self, name: str) -> ScenarioDataset:
        """Read a split again: "train", "valid" or "test".

        Raises:
            InputError: the data are gone or have changed since.
        """
        if isinstance(self._splits, str):
            raise InputError(self._splits)
        return self._splits[SPLITS.index(name)]

    def users_and_items(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of the user and of the item of every row of the run's data, (N,) each.

        They are those of every scenario, with the labels of the run's tasks or without, and before `rows_after` too.

        Raises:
            InputError: the data are gone or have changed since, or the rows before `rows_after` cannot be read.
        """
        last = self.split(SPLITS[-1])
        if self.config["rows_after"] is not None:  # ids are those of all rows
            every = self._files.build_config(_ON_CPU | {"rows_after": None, "only_new": False})
            try:
                last = _read_splits(every)[-1]
            except InputError as error:
                raise InputError(f"the rows before rows_after cannot be read: {error}") from error
        whole = (last.all_scenarios or last).every_label
        assert whole is not None
        assert whole.earlier is not None
        parts = (whole.earlier, whole.inter_feat)
        users, items = (torch.cat([part[key] for part in parts]).numpy() for key in (whole.uid_field, whole.iid_field))
        return users, items

    def facts(self) -> dict[str, str]:
        """Return the run in a few words, by name."""
        result, model = self._files.result, self.model
        facts = {"Run": str(self._files.folder), "Model": self._name, "Dataset": str(self._files.config["dataset"])}
        if isinstance(model, LLM4MSR):
            facts |= {"Backbone": type(model.backbone).__name__}
        if self.config["knowledge"]:
            facts |= {"Knowledge": str(self.config["knowledge"])}
        level = model.scenario_level if isinstance(model, LLM4MSR) else None
        if level is not None:
            alpha = level.alpha.item() if isinstance(level.alpha, Tensor) else level.alpha
            facts |= {"alpha": "a gate for every row" if level.fusion == "gate" else f"{alpha:.4f} ({level.fusion})"}
        return facts | {
            "Scenarios": str(len(self.dataset.scenario_names)),
            "Tasks": ", ".join(result["tasks"]),
            "Best epoch": str(result["best_epoch"]),
            "Parameters": f"{result['parameters']:,}",
        }


_ON_CPU = {"use_gpu": False}


def _read_splits(config: Any) -> list[ScenarioDataset]:
    from recbole.data import create_dataset

    with reading_data(config):
        splits: list[ScenarioDataset] = create_dataset(config).build()
    return splits


def data_changes(before: ScenarioDataset, now: ScenarioDataset) -> str | None:
    """Say how a training split differs from the data that a run kept; None if it does not."""
    ids_before, ids_now = before.field2token_id, now.field2token_id
    changed = [f for f in ids_before if f not in ids_now or not np.array_equal(ids_before[f], ids_now[f])]
    if not changed:
        changed = [field for table in ("user_feat", "item_feat") for field in _changed_fields(before, now, table)]
    if changed:
        return f"other values of {', '.join(changed)}"
    return "another number of rows" if before.split_sizes != now.split_sizes else None


def _changed_fields(before: ScenarioDataset, now: ScenarioDataset, table: str) -> list[str]:
    """Return the fields of a user or item table that do not hold what they held."""
    old, new = getattr(before, table), getattr(now, table)
    if old is None or new is None:
        return [] if old is new else [table.removesuffix("_feat")]
    return [field for field in old.columns if field not in new or not torch.equal(old[field], new[field])]
