"""The models of a search over several: which take part, which cannot and why, and what each reads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_msr import registry
from recbole_msr.config.build import plain_settings
from recbole_msr.config.keys import known_keys, refused_keys
from recbole_msr.config.ranking import with_ranking_defaults
from recbole_msr.data.cache import fingerprint
from recbole_msr.data.positives import ranks_items
from recbole_msr.errors import InputError, nearest
from recbole_msr.schema import Schema
from recbole_msr.training.configure import training_config

logger = logging.getLogger(__name__)

ROWS_MODEL = "SharedBottom"
"""A multi-task model: its splits keep rows that lack the main task's label, and its protocol is that of all trials."""
PROTOCOL = (
    "epochs",
    "stopping_step",
    "eval_step",
    "eval_args",
    "train_neg_sample_args",
    "min_scenario_rows",
    "segments",
    "metrics",
)
"""Keys that all trainings share, whatever their own model's defaults are."""
AUTO = (
    *("SharedBottom", "MMoE", "PLE", "STAR", "HMoE", "HiNet", "AITM"),
    *("FM", "WideDeep", "DeepFM", "DCNV2", "AutoInt"),
)
"""The models of `--models=auto`: each for another idea of what joins features, scenarios and tasks."""
RANKERS = ("BPR", "LightGCN", "NeuMF", "Pop", "SASRec")
"""RecBole's ranking models that have a search space."""
_NO_FIRST = "it has no first configurations yet, so that a search learns its settings from nothing"
_NOT_IN_AUTO = {
    "OMoE": "it is MMoE with one gate for all",
    **dict.fromkeys(("APG", "AdaSparse", "AdaptDHM", "AutoIFS", "HAMUR", "M2M", "M3oE", "PEPNet", "SARNet"), _NO_FIRST),
    "LLM4MSR": "it needs a language model's vectors of users and items",
    "LR": "it is FM without its interactions",
    "FNN": "it is DeepFM's network alone",
    "DSSM": "it keeps users and items apart, and fails where a float field is not among numerical_features",
    "NFM": "it is near to DeepFM",
    "AFM": "it is FM with attention, and dearer",
    "FwFM": "it is FM with a weight for each pair of fields, and dearer",
    "PNN": "it is near to DeepFM, and dearer",
    "DCN": "DCNV2 has taken its place",
    "xDeepFM": "it costs several times as much as DCNV2",
    "FFM": "it has a table of embeddings for each pair of fields: too large for most data",
    "FiGNN": "it costs many times as much as DeepFM",
    "EulerNet": "it costs many times as much as DeepFM",
    "KD_DAGFM": "it is the teacher of another model, and dear",
    **dict.fromkeys(RANKERS, "it learns from users and items alone, and is searched where it is named"),
}
"""Models with a search space that `--models=auto` leaves out on any data; a list may name them."""
_SEVERAL = "it differs from {other} where there are several {what}, and there is one"
_NEEDS_SCENARIOS = ("STAR", "HMoE", "HiNet")
_NEEDS_TASKS = ("AITM",)
_NEEDS_EITHER = ("MMoE", "OMoE", "PLE")


@dataclass(frozen=True)
class Participants:
    """The models of a search over several.

    Attributes:
        models: their names.
        left_out: why each other model is none of them.
        unread: keys of the configuration that a model does not read, by model.
        config: the configuration keys of all trials, with the protocol.
    """

    models: list[str]
    left_out: dict[str, str]
    unread: dict[str, list[str]]
    config: dict[str, Any]

    def config_of(self, model: str) -> dict[str, Any]:
        """Return the configuration keys of a model's trials: those that it reads."""
        unread = self.unread.get(model, ())
        return {key: value for key, value in self.config.items() if key not in unread}


def read_models(models: str | Sequence[str], dataset: str, config: Mapping[str, Any]) -> Participants:
    """Find the models that `--models` means.

    Args:
        models: "auto", or names: a list, or comma-separated.
        dataset: dataset name.
        config: configuration keys of all trials.

    Raises:
        InputError: there is no such model, it is named twice, it cannot be searched on these data, none is left, or a
            key is read by none of them.
    """
    names = _names(models)
    is_auto = names == ["auto"]
    if is_auto:
        names = list(AUTO)
    unread = _unread(names, dataset, config)
    config = _with_protocol(dataset, config, unread)
    check = _Check(dataset, config, unread)
    refused = {name: reason for name in names if (reason := check(name)) is not None}
    if refused and not is_auto:
        raise InputError("; ".join(f"--models: {name} cannot take part: {reason}" for name, reason in refused.items()))
    for name, reason in refused.items():
        logger.info("%s takes no part: %s", name, reason)
    taken = [name for name in names if name not in refused]
    if not taken:
        raise InputError(f"--models=auto: no model can be searched on '{dataset}': {_listed(refused)}")
    left_out = refused | (_NOT_IN_AUTO if is_auto else {})
    return Participants(taken, left_out, {name: unread[name] for name in (*taken, ROWS_MODEL) if unread[name]}, config)


def _names(models: str | Sequence[str]) -> list[str]:
    """Return the names that were given, each checked.

    Raises:
        InputError: none is given, one is given twice, or there is no such model.
    """
    listed = models.split(",") if isinstance(models, str) else list(models)
    names = [str(name).strip() for name in listed if str(name).strip()]
    if not names:
        raise InputError("no models given: --models=auto, or --models=A,B")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"--models: {', '.join(twice)} is named twice")
    if names == ["auto"]:
        return names
    if "auto" in names:
        raise InputError("--models: auto stands alone, or models are named: --models=A,B")
    spaces = sorted((path.stem for path in registry.search_spaces().glob("*.yaml")), key=str.lower)
    for name in names:
        registry.check_model_name(name)
        if name not in spaces:
            raise InputError(
                f"--models: there is no search space for '{name}'{nearest(name, spaces) or '.'} There are those of "
                f"{', '.join(spaces)}; --model={name} --space=FILE searches it alone"
            )
    return names


def _unread(models: Iterable[str], dataset: str, config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the keys of the configuration that each model does not read.

    Raises:
        InputError: none of them reads a key.
    """
    by_model = {name: _unread_by(name, dataset, config) for name in dict.fromkeys([*models, ROWS_MODEL])}
    if config.get("strict") is not False:
        reasons = [by_model[name][0] for name in models]
        known = {key for name in models for key in by_model[name][1]}
        for key, why in reasons[0].items():
            if all(key in others for others in reasons):
                hint = nearest(key, known) if why is None else None
                told = f"{key} {why}" if why is not None else f"no model of the search reads '{key}'{hint or ''}"
                raise InputError(f"{told} (--strict=False passes keys through unchecked)")
    return {name: list(reasons) for name, (reasons, _) in by_model.items()}


def _unread_by(model: str, dataset: str, config: Mapping[str, Any]) -> tuple[dict[str, str | None], set[str]]:
    """Return the keys that a model does not read, with reasons (None: unknown to it), and all keys that it knows."""
    full = training_config(model, dataset, {**config, "strict": False})
    known = known_keys(registry.model_class(model)) | set(full.internal_config_dict)
    unknown: dict[str, str | None] = {key: None for key in config if key not in known}
    return unknown | refused_keys({key: config[key] for key in config if key not in unknown}, full), known


def _with_protocol(dataset: str, config: Mapping[str, Any], unread: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Add what all trials share to the configuration: epochs, stopping, evaluation, metrics, seeds.

    Raises:
        InputError: no tasks are declared, or a key cannot be used.
    """
    read = {key: value for key, value in config.items() if key not in unread[ROWS_MODEL]}
    full = training_config(ROWS_MODEL, dataset, read)
    protocol = plain_settings(full)
    shared = {key: protocol[key] for key in PROTOCOL if key in protocol}
    seeds = {key: full[key] for key in ("seed", "data_seed")}
    return {
        **config,
        **shared,
        **seeds,
        "valid_metric": _valid_metric(config.get("valid_metric"), with_ranking_defaults(config)),
    }


def _valid_metric(configured: Any, ranking: Mapping[str, Any]) -> str:
    """Choose the metric that judges epochs and trials: one that single-task models have as well.

    Args:
        configured: the user's; None for the default.
        ranking: the defaults of a search by ranked lists; empty for one by labelled rows.

    Raises:
        InputError: it is of one task or one scenario.
    """
    default = f"{ranking['valid_metric'].lower()}/macro" if ranking else "auc/macro"
    return check_quality(default if configured is None else str(configured).lower())


def check_quality(metric: str) -> str:
    """Return a metric that judges models of one task and of several alike.

    Raises:
        InputError: it is of a part of the results.
    """
    if metric.split("/")[1:] not in (["macro"], ["worst"]):
        raise InputError(
            f"a search over several models cannot be judged by '{metric}', which is of a part of the results: it takes "
            "a metric of all scenarios and tasks, such as auc/macro, auc/worst, logloss/macro or gauc/macro, and of "
            "ranked lists ndcg@10/macro"
        )
    return metric


@dataclass(frozen=True)
class _Check:
    """Finds the reason why a model cannot be searched on these data, as far as the configuration tells."""

    dataset: str
    config: Mapping[str, Any]
    unread: Mapping[str, Sequence[str]]

    def __call__(self, model: str) -> str | None:
        try:
            config = self._full(model)
            rows = self._full(ROWS_MODEL)
        except InputError as error:
            return " ".join(str(error).split())
        schema = Schema.from_config(config)
        if schema is None:  # refused for the search as a whole
            return None
        data_path = rows["data_path"]
        if fingerprint(config, data_path, self.dataset) != fingerprint(rows, data_path, self.dataset):
            return "its settings lead to other rows, fields, labels or another split than the others'"
        if config["MODEL_TYPE"].name in ("GENERAL", "TRADITIONAL", "SEQUENTIAL") and not ranks_items(config):
            return "it ranks items, and rows are evaluated by their labels: set eval_args: {mode: full}, or uniN"
        not_binary = [task for task, kind in schema.types.items() if kind != "binary"]
        if not_binary and not hasattr(registry.model_class(model), "predict_tasks"):
            return f"it learns labels of 0 and 1, and task '{not_binary[0]}' is of type {schema.types[not_binary[0]]}"
        if schema.weight_fields and not hasattr(registry.model_class(model), "predict_tasks"):
            return f"it counts every row once, and task '{next(iter(schema.weight_fields))}' has a weight"
        return _structure(model, schema)

    def _full(self, model: str) -> Any:
        left_out = self.unread[model]
        return training_config(
            model, self.dataset, {key: value for key, value in self.config.items() if key not in left_out}
        )


def _structure(model: str, schema: Schema) -> str | None:
    """Return why a model is nothing of its own on these scenarios and tasks."""
    one_task, one_scenario = len(schema.tasks) == 1, schema.scenario.field is None
    if one_task and model in _NEEDS_TASKS:
        return _SEVERAL.format(other="SharedBottom", what="tasks")
    if one_scenario and model in _NEEDS_SCENARIOS:
        return _SEVERAL.format(other="the other models", what="scenarios")
    if one_scenario and one_task and model in _NEEDS_EITHER:
        return "it differs from SharedBottom where there are several scenarios or tasks, and there is one of each"
    return None


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
