"""Measure how much a model's gates use each of their experts, and find dead experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.layers.cgc import CGC
from recbole_msr.layers.experts import SubExpertIntegration
from recbole_msr.layers.gates import GateBank
from recbole_msr.layers.groups import Groups
from recbole_msr.layers.towers import Towers
from recbole_msr.layers.transfer import InformationTransfer

NEVER = 0.01
"""An expert is dead if no row gives it at least this weight."""


@dataclass(frozen=True)
class GateUse:
    """The mean weight that gates give their experts.

    Attributes:
        title: the part of the model.
        gates: names of the lines (R): a gate, and the scenario whose rows went through it.
        experts: names of the experts (E).
        weights: mean weights (R, E); a line sums to 1.
        dead: the experts that no row uses, by name and reason.
    """

    title: str
    gates: list[str]
    experts: list[str]
    weights: list[list[float]]
    dead: list[str]


class GateWatch:
    """Watches the gates of a model while rows go through it.

    It covers HiNet's sub-experts (`SubExpertIntegration`), `CGC` in HiNet and PLE, and the gates of MMoE, OMoE, HMoE.
    An expert is dead if its weight stays below `NEVER` on every row that could use it, or if its output is 0 on every
    row (all its ReLUs are shut).

    Args:
        model: a `MultiScenarioRecommender`, in evaluation mode.

    Attributes:
        parts: the parts with gates over experts.
        others: the gates over something else: PLE's gate that is passed on, HMoE's relations, AITM's transfer.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._scenario = model, 0
        self.parts = list(_parts(model))
        self.others = list(_others(model))

    @contextmanager
    def scenario(self, number: int) -> Iterator[None]:
        """Count all rows that go through the model for this scenario (0-based)."""
        self._scenario = number
        hooks = [hook for part in (*self.parts, *self.others) for hook in part.hooks(lambda: self._scenario)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def use(self, shown: list[int] | None = None) -> list[GateUse]:
        """Return the use of experts in the scenarios `shown` (all by default) of which rows went through."""
        return [part.use(shown) for part in self.parts if part.rows]

    def use_of_others(self, shown: list[int] | None = None) -> list[GateUse]:
        """Return the same of `others`."""
        return [part.use(shown) for part in self.others if part.rows]


@dataclass(frozen=True)
class _Line:
    """Gate `gate` for the rows of a scenario."""

    name: str
    gate: int
    scenario: int


class _Part:
    """Some gates over some experts.

    Args:
        title: the part of the model.
        gates: the module whose input decides the weights.
        weigh: takes its input and output to weights (P, B, E).
        bank: the module that gives all experts' outputs (X, B, H); None where no experts are weighed.
        experts: names of the E columns.
        place: takes (gate, column) to the number of one of the X experts.
        expert_names: names of the X experts.
        lines: the gates with the scenarios whose rows go through them.
    """

    def __init__(
        self, title: str, gates: nn.Module, weigh: Callable[[Any, Tensor], Tensor], bank: nn.Module | None,
        experts: list[str], place: Callable[[int, int], int], expert_names: list[str], lines: list[_Line],
    ) -> None:  # fmt: skip
        self.title, self._gates, self._weigh, self._bank = title, gates, weigh, bank
        self._experts, self._place, self._expert_names, self._lines = experts, place, expert_names, lines
        self._sums: dict[int, Tensor] = {}
        self._peaks: dict[int, Tensor] = {}
        self.rows: dict[int, int] = {}
        self._is_active = torch.full((len(expert_names),), bank is None)

    def hooks(self, scenario: Callable[[], int]) -> list[Any]:
        """Register hooks that count rows for the scenario that is asked for at each batch."""

        def add_weights(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            w = self._weigh(inputs[0] if len(inputs) == 1 else inputs, output).double().cpu()
            m, peak = scenario(), w.amax(dim=1)
            self._sums[m] = self._sums.get(m, 0.0) + w.sum(dim=1)
            self._peaks[m] = torch.maximum(self._peaks[m], peak) if m in self._peaks else peak
            self.rows[m] = self.rows.get(m, 0) + w.shape[1]

        def note_outputs(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            self._is_active |= (output != 0).any(dim=2).any(dim=1).cpu()

        hooks = [self._gates.register_forward_hook(add_weights)]
        return hooks if self._bank is None else [*hooks, self._bank.register_forward_hook(note_outputs)]

    def use(self, shown: list[int] | None) -> GateUse:
        """Return the mean weights in the scenarios `shown` (all if None); experts are dead by the rows of all."""
        lines = [line for line in self._lines if line.scenario in self.rows]
        peak = [0.0] * len(self._expert_names)
        for line in lines:
            for column, value in enumerate(self._peaks[line.scenario][line.gate].tolist()):
                place = self._place(line.gate, column)
                peak[place] = max(peak[place], value)
        seen = {self._place(line.gate, column) for line in lines for column in range(len(self._experts))}
        dead = []
        for place in sorted(seen):
            if not self._is_active[place]:
                dead.append(f"{self._expert_names[place]}: its output is 0 on every row")
            elif peak[place] < NEVER:
                dead.append(f"{self._expert_names[place]}: no row gives it more weight than {peak[place]:.2g}")
        if shown is not None:
            lines = [line for line in lines if line.scenario in shown]
        weights = [(self._sums[line.scenario][line.gate] / self.rows[line.scenario]).tolist() for line in lines]
        return GateUse(self.title, [line.name for line in lines], self._experts, weights, dead)


def _parts(model: Any) -> Iterator[_Part]:
    counts = {SubExpertIntegration: 0, CGC: 0}
    for module in model.modules():
        if isinstance(module, SubExpertIntegration):
            counts[SubExpertIntegration] += 1
            yield _sub_experts(module, model, counts[SubExpertIntegration])
        elif isinstance(module, CGC):
            counts[CGC] += 1
            yield _cgc(module, model, counts[CGC])
    gate = getattr(model, "gates", None) if hasattr(model, "gates") else getattr(model, "gate", None)
    if isinstance(gate, GateBank) and hasattr(model, "experts"):
        yield _mixture(gate, model)


def _others(model: Any) -> Iterator[_Part]:
    by_scenario = [_Line(name, 0, m) for m, name in enumerate(model.scenario_names)]
    level = 0
    for module in model.modules():
        if isinstance(module, CGC):
            level += 1
            if module.shared_gate is not None:
                columns = [f"own expert {n + 1}" for n in range(module.n_tasks * module.n_own)]
                columns += [f"shared expert {n + 1}" for n in range(module.n_shared)]
                title = f"Gate passed on, level {level}"
                yield _other(title, module.shared_gate, _softmax_of_one, columns, by_scenario)
        elif isinstance(module, InformationTransfer):
            columns = ["handed over", "own tower"]
            yield _other("Information transfer", module, lambda u, _: _of_transfer(model, u), columns, by_scenario)
    relations = getattr(model, "relation_weights", None)
    if isinstance(relations, GateBank):
        columns = _group_names(Groups(model.relations, model.n_scenarios, model.n_outputs), model)
        lines = _lines(model.groups, model)
        yield _other("Relations", relations, lambda _, scores: scores.softmax(dim=-1), columns, lines)


def _other(title: str, gates: nn.Module, weigh: Any, columns: list[str], lines: list[_Line]) -> _Part:
    return _Part(title, gates, weigh, None, columns, lambda gate, column: column, columns, lines)


def _softmax_of_one(_: Any, scores: Tensor) -> Tensor:
    return scores.softmax(dim=-1).unsqueeze(0)


def _of_transfer(model: Any, u: tuple[Tensor, Tensor]) -> Tensor:
    weights: Tensor = model.transfer.weights(torch.stack(u))
    return weights.t().unsqueeze(0)


def _sub_experts(module: SubExpertIntegration, model: Any, number: int) -> _Part:
    scenarios, (n_experts, k) = model.scenario_names, module.shape
    owners = [*(f"expert of {name}" for name in scenarios), "shared expert"][-n_experts:]
    lines = [_Line(owner, m, m) for m, owner in enumerate(owners[:-1])]
    lines += [_Line(f"shared expert, {name}", n_experts - 1, m) for m, name in enumerate(scenarios)]
    columns = [f"sub-expert {i + 1}" for i in range(k)]
    return _Part(
        f"Scenario layer {number}", module, lambda x, _: module.gate(x).transpose(1, 2), module.sub_experts, columns,
        lambda gate, column: gate * k + column, [f"{owner}, {column}" for owner in owners for column in columns], lines,
    )  # fmt: skip


def _cgc(module: CGC, model: Any, number: int) -> _Part:
    towers = getattr(model, "towers", None)
    groups = towers.inputs if isinstance(towers, Towers) and towers.inputs else _by_task(model)
    own = [f"own expert {i + 1}" for i in range(module.n_own)]
    shared = [f"shared expert {i + 1}" for i in range(module.n_shared)]
    names = _group_names(groups, model)

    def place(gate: int, column: int) -> int:
        first_shared = module.n_tasks * module.n_own
        return gate * module.n_own + column if column < module.n_own else first_shared + column - module.n_own

    return _Part(
        f"{'Task layer' if groups.per == 'task' else 'Level'} {number}", module,
        lambda x, _: module.gate(x).transpose(1, 2), module.experts, own + shared, place,
        [f"{expert} of {name}" for name in names for expert in own] + shared, _lines(groups, model),
    )  # fmt: skip


def _mixture(gate: GateBank, model: Any) -> _Part:
    columns = [f"expert {i + 1}" for i in range(model.experts.n_mlps)]
    # HMoE has groups of its own, MMoE those of its towers, and OMoE one gate.
    groups = getattr(model, "groups", None) or getattr(model.towers, "inputs", None)
    lines = _lines(groups, model) if groups else [_Line(name, 0, m) for m, name in enumerate(model.scenario_names)]
    return _Part(
        "Experts", gate, lambda _, scores: scores.softmax(dim=-1), model.experts, columns, lambda gate, column: column,
        columns, lines,
    )  # fmt: skip


def _by_task(model: Any) -> Groups:
    return Groups("task", model.n_scenarios, model.n_outputs)


def _group_names(groups: Groups, model: Any) -> list[str]:
    if groups.per == "task":
        return list(model.output_names)
    if groups.per == "scenario":
        return list(model.scenario_names)
    return [f"{task}, {scenario}" for task in model.output_names for scenario in model.scenario_names]


def _lines(groups: Groups, model: Any) -> list[_Line]:
    """List each group's gate with every scenario whose rows go through it."""
    scenarios = model.scenario_names
    if groups.per == "scenario":
        return [_Line(name, m, m) for m, name in enumerate(scenarios)]
    lines = []
    for t, task in enumerate(model.output_names):
        for m, scenario in enumerate(scenarios):
            gate = t if groups.per == "task" else t * len(scenarios) + m
            lines.append(_Line(f"{task}, {scenario}" if len(scenarios) > 1 else task, gate, m))
    return lines
