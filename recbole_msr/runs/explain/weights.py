"""Read the attentions, gates and fusion gates of a model as lines of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.layers.experts import ScenarioExtraction
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.hinet import HiNet
from recbole_msr.models.llm4msr import LLM4MSR, ScenarioLevel
from recbole_msr.runs.explain.training_rows import TrainingRows, largest_scenarios
from recbole_msr.runs.explain.views import Matrix
from recbole_msr.runs.gate_use import GateUse, GateWatch
from recbole_msr.runs.initial_weights import Weights


def weights_at(model: MultiScenarioRecommender, train: ScenarioDataset) -> list[Weights]:
    """Return the attentions and gates of a model as it is, over the training rows that an explanation looks at.

    Neither the model nor a random generator changes.
    """
    inner, shown = inner_model(model), largest_scenarios(train)
    attention, watch, was_training = attention_matrices(model, shown), GateWatch(inner), model.training
    fusion: dict[str, float] = {}
    if watch.parts or watch.others or _fusion_gate(model) is not None:
        rows, device = TrainingRows(train), next(model.parameters()).device
        model.eval()
        try:
            with torch.no_grad():
                for m in shown:
                    if len(rows.of_scenario[m]):
                        batch = rows.batch(rows.of_scenario[m]).to(device)
                        x, scenario = model.embed(batch), model.scenario_of(batch)
                        with watch.scenario(m):
                            inner.logits(x, scenario)
                        fusion |= mean_fusion(model, m, x, scenario)
        finally:
            model.train(was_training)
    return weight_lines(attention, [*watch.use(shown), *watch.use_of_others(shown)], fusion)


def inner_model(model: MultiScenarioRecommender | None) -> Any:
    """Return the backbone of LLM4MSR, any other model itself."""
    return model.backbone if isinstance(model, LLM4MSR) else model


def attention_matrices(model: MultiScenarioRecommender | None, shown: list[int]) -> list[Matrix]:
    """Return HiNet's SAN weights among the scenarios `shown`, a matrix a scenario layer; none of other models."""
    inner = inner_model(model)
    if not isinstance(inner, HiNet) or inner.n_scenarios == 1:
        return []
    names, matrices = [inner.scenario_names[m] for m in shown], []
    for number, layer in enumerate(inner.scenario_layers, start=1):
        with torch.no_grad():
            a = cast(ScenarioExtraction, layer).san.weights(inner.scenario_embedding).tolist()
        matrices.append(
            Matrix(
                f"HiNet: attention between scenarios, layer {number}",
                "How much a scenario (down) takes from the expert of each other scenario (across). The weights follow "
                "from the scenario alone, and those of all other scenarios sum to 1.",
                "scenario \\ takes from",
                names,
                names,
                [[None if i == j else a[i][j] for j in shown] for i in shown],
            )
        )
    return matrices


def attention_notes(model: MultiScenarioRecommender | None) -> list[str]:
    """Return why there is no attention to show, or none that was learnt, for HiNet of few scenarios."""
    inner = inner_model(model)
    notes = {
        1: "with one scenario HiNet has no attention between scenarios",
        2: "with two scenarios every attention weight is 1: there is nothing to learn",
    }
    return [notes[inner.n_scenarios]] if isinstance(inner, HiNet) and inner.n_scenarios in notes else []


def _fusion_gate(model: MultiScenarioRecommender) -> ScenarioLevel | None:
    """Return the scenario level of LLM4MSR if a gate decides how much of it is added."""
    level = model.scenario_level if isinstance(model, LLM4MSR) else None
    return level if level is not None and level.fusion == "gate" else None


def mean_fusion(model: MultiScenarioRecommender, m: int, x: Tensor, scenario: Tensor) -> dict[str, float]:
    """Average LLM4MSR's gate before the scenario level, for every task, over the rows x' (B, D) of scenario m."""
    level = _fusion_gate(model)
    if level is None:
        return {}
    alpha = level.gate(x, level.vectors(level.scenarios), scenario).mean(dim=0).tolist()
    return {f"{task}, {model.scenario_names[m]}": a for task, a in zip(model.output_names, alpha, strict=True)}


def weight_lines(attention: Sequence[Matrix], gates: Sequence[GateUse], fusion: Mapping[str, float]) -> list[Weights]:
    """Return all lines of weights in which there is a choice.

    Args:
        attention: matrices, of which each row is a line.
        gates: uses of gates, of which each gate is a line.
        fusion: by line the share of the scenario level that a fusion gate adds.
    """
    lines = []
    for matrix in attention:
        for row, values in zip(matrix.rows, matrix.values, strict=True):
            choices = [(name, value) for name, value in zip(matrix.columns, values, strict=True) if value is not None]
            lines.append(Weights(matrix.title, row, [name for name, _ in choices], [value for _, value in choices]))
    for use in gates:
        lines += [
            Weights(use.title, name, use.experts, values) for name, values in zip(use.gates, use.weights, strict=True)
        ]
    return [line for line in lines if len(line.choices) > 1] + [
        Weights("Fusion gate of the scenario level", line, ["added", "left out"], [a, 1 - a])
        for line, a in fusion.items()
    ]
