"""Evaluation by ranked lists (`eval_args: mode` full, uniN or popN) where tasks are declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_msr.errors import InputError, nearest
from recbole_msr.evaluation.ranking import LIST_METRICS
from recbole_msr.evaluation.ranking_mode import SAMPLED, ranks
from recbole_msr.schema import Schema

RANKING_DEFAULTS: dict[str, Any] = {
    "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
    "topk": [10],
    "valid_metric": "MRR@10",
}
"""RecBole's own defaults, where lists are ranked and nothing is said of metrics."""


def with_ranking_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of `metrics`, `topk` and `valid_metric` where a user's settings rank; else nothing.

    `valid_metric` follows the first of the metrics and cutoffs that are given.
    """
    mode = (settings.get("eval_args") or {}).get("mode") if isinstance(settings.get("eval_args"), Mapping) else None
    modes = list(mode.values()) if isinstance(mode, Mapping) else [mode]
    if not any(word == "full" or (isinstance(word, str) and SAMPLED.fullmatch(word)) for word in modes):
        return {}
    defaults = dict(RANKING_DEFAULTS)
    metrics, topk = settings.get("metrics"), settings.get("topk")
    if metrics or topk:
        first = metrics if isinstance(metrics, str) else (metrics or ["MRR"])[0]
        cutoff = topk[0] if isinstance(topk, (list, tuple)) and topk else topk or 10
        defaults["valid_metric"] = f"{first}@{cutoff}" if str(first).lower() in LIST_METRICS else str(first)
    return defaults


def check_metrics_fit(settings: Mapping[str, Any]) -> None:
    """Refuse metrics of labels where a user's settings rank, before RecBole does in words of its own.

    Raises:
        InputError: names the metric, and those that there are.
    """
    metrics = settings.get("metrics")
    if not with_ranking_defaults(settings) or not metrics:
        return
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        if str(metric).lower() not in LIST_METRICS:
            known = [one.heading for one in LIST_METRICS.values()]
            raise InputError(
                f"metrics: '{metric}' is none of ranked lists, which eval_args: mode: {settings['eval_args']['mode']} "
                f"asks for{nearest(str(metric), known) or '.'} There are {', '.join(known)}; AUC and LogLoss are for "
                "mode: labeled"
            )


def check_ranking(config: Any) -> None:
    """Refuse what ranked lists cannot be made of, or cannot give.

    Raises:
        InputError: names the key and what would be right.
    """
    modes = config["eval_args"]["mode"]
    if config["tasks"] is None:
        return
    if config["trainer"] == "recbole":
        if config["eval_type"].name == "RANKING" and hasattr(config.model_class, "predict_tasks"):
            raise InputError("RecBole's own trainer takes every row for a positive of its task: set trainer: lightning")
        return
    if not ranks(config):
        sampled = {word for word in modes.values() if word != "labeled"}
        if sampled:
            raise InputError(
                f"eval_args: mode: {', '.join(sorted(sampled))} ranks items, and the metrics are of labels "
                f"({', '.join(config['metrics'])}): set metrics: [NDCG, Recall] and topk: [10], or mode: labeled"
            )
        return
    if "labeled" in modes.values():
        raise InputError(
            f"metrics {', '.join(config['metrics'])} are of ranked lists, and eval_args: mode is "
            f"{modes}: set it to full, uniN or popN for both splits"
        )
    schema = Schema.from_config(config)
    assert schema is not None
    for task, kind in schema.types.items():
        if kind != "binary":
            raise InputError(
                f"eval_args: mode: {modes['test']} ranks items by the probability of a label 1, and task '{task}' is "
                f"of type {'number' if kind == 'number' else 'classes'}: leave that task out, or set mode: labeled"
            )
    for name in schema.weighted_types:
        raise InputError(
            f"task '{name}': weighted: true is of labelled rows, and eval_args: mode: {modes['test']} ranks items: "
            "leave 'weighted' out, or set mode: labeled"
        )
    if config["calibrate"] != "none":
        raise InputError(
            f"calibrate is of labelled rows, and eval_args: mode: {modes['test']} ranks items: set calibrate: none, or "
            "mode: labeled"
        )
