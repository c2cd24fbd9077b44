"""Run training rows through a model scenario by scenario, and read what its gates and levels do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.runs.explain.training_rows import TrainingRows
from recbole_msr.runs.explain.views import Matrix
from recbole_msr.runs.explain.weights import inner_model, mean_fusion
from recbole_msr.runs.gate_use import GateUse, GateWatch


class ScenarioPass:
    """One pass of training rows through a model in evaluation mode; nothing is read where one of both is not there.

    Args:
        model: the model, or None.
        rows: the training rows, or None.
        shown: the scenarios that are shown, counted from 0.

    Attributes:
        movement: by scenario, see `ScenarioView`.
        strength: by scenario, see `ScenarioView`.
        gates: the use of experts, see `Explanation`.
        other_gates: the use of gates that weigh something other than experts.
        fusion: by "task, scenario" the mean of LLM4MSR's fusion gate.
        measures: the means by scenario of what the model measures of its rows (`MultiScenarioRecommender.measures`).
    """

    @torch.no_grad()
    def __init__(self, model: MultiScenarioRecommender | None, rows: TrainingRows | None, shown: list[int]) -> None:
        self._model, self._shown = model, shown
        self._added: dict[tuple[int, int], list[float]] = {}
        self.movement: dict[int, dict[str, float]] = {}
        self.strength: dict[int, dict[str, float]] = {}
        self.fusion: dict[str, float] = {}
        self.gates: list[GateUse] = []
        self.other_gates: list[GateUse] = []
        self.measures: list[Matrix] = []
        if model is None or rows is None:
            return
        inner = inner_model(model)
        watch = GateWatch(inner)
        has_gates = bool(watch.parts or watch.others)
        for m, of_scenario in enumerate(rows.of_scenario):
            # An expert may be used by a scenario that is not shown: gates see the rows of all.
            if not len(of_scenario) or not (m in shown or has_gates):
                continue
            batch = rows.batch(of_scenario)
            x, scenario = model.embed(batch), model.scenario_of(batch)
            if has_gates:
                with watch.scenario(m):
                    inner.logits(x, scenario)
            if m in shown:
                self._add_measures(inner, m, x, scenario)
            if isinstance(model, LLM4MSR) and m in shown:
                self._read_levels(model, m, batch, x)
                self.fusion |= mean_fusion(model, m, x, scenario)
        self.gates, self.other_gates = watch.use(shown), watch.use_of_others(shown)

    def _add_measures(self, inner: MultiScenarioRecommender, m: int, x: Tensor, scenario: Tensor) -> None:
        """Add a line of scenario m to the table of each measure."""
        for number, measure in enumerate(inner.measures(x, scenario)):
            if number == len(self.measures):
                self.measures.append(Matrix(measure.title, measure.says, "scenario", [], measure.columns, []))
            self.measures[number].rows.append(inner.scenario_names[m])
            self.measures[number].values.append(measure.values.mean(dim=0).tolist())

    def _read_levels(self, model: LLM4MSR, m: int, batch: Any, x: Tensor) -> None:
        levels = {"user": model.user_level, "item": model.item_level}
        self.movement[m] = {
            of: float(model.movement(batch, of).mean()) for of, level in levels.items() if level is not None
        }
        if model.scenario_level is None:
            return
        strengths = model.strengths(batch).abs().mean(dim=0).tolist()
        self.strength[m] = dict(zip(model.output_names, strengths, strict=True))
        for other in self._shown:
            added = model.scenario_level(x, torch.full((len(x),), other))
            self._added[m, other] = added.mean(dim=0).tolist()

    def added_logits(self) -> list[Matrix]:
        """Return for every task what the layers of each scenario would add to the logits of each scenario's rows."""
        if self._model is None or not self._added:
            return []
        names = [self._model.scenario_names[m] for m in self._shown]
        no_rows: list[float | None] = [None] * self._model.n_outputs
        return [
            Matrix(
                f"Scenario level: what is added to the logit of '{task}'",
                "The rows of a scenario (down) are put through the meta layers that were generated for a scenario "
                "(across): the mean of alpha r. On the diagonal stands what the model really adds; numbers "
                "that are alike along a line say that the scenarios' layers do the same.",
                "rows of \\ layers of",
                names,
                names,
                [[self._added.get((i, j), no_rows)[t] for j in self._shown] for i in self._shown],
                signed=True,
            )
            for t, task in enumerate(self._model.output_names)
        ]
