"""The members of an ensemble as one graph, which averages what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.runs.ensemble import SavedEnsemble
from recbole_msr.runs.export.fields import Field
from recbole_msr.runs.export.graph import ExportGraph
from recbole_msr.runs.member_mean import MemberMean


class EnsembleGraph(nn.Module):
    """Scores (B, C) of rows, the weighted means of those of several graphs, as `MemberMean` has them.

    Args:
        members: the members' graphs.
        mean: what averages their scores.

    Attributes:
        inputs: the fields that any member reads, each once.
    """

    def __init__(self, members: Sequence[ExportGraph], mean: MemberMean) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.inputs: list[Field] = shared_inputs([graph.inputs for graph in members])
        self._names, self._conditionals = mean.names, mean.conditionals
        self._of_members = mean.of_members
        for number, shares in enumerate(mean.shares):
            self.register_buffer(f"shares_{number}", torch.from_numpy(shares))

    def forward(self, *values: Tensor) -> Tensor:
        """Return scores (B, C) float32 of the inputs' values, in the order of `inputs`."""
        given = {field.name: value for field, value in zip(self.inputs, values, strict=True)}
        scores, shares = [], []
        for number, graph in enumerate(self.members):
            assert isinstance(graph, ExportGraph)
            scores.append(graph(*(given[field.name] for field in graph.inputs)).double())
            shares.append(getattr(self, f"shares_{number}"))
        means = torch.stack([one @ share for one, share in zip(scores, shares, strict=True)]).sum(dim=0)
        if not self._conditionals:
            return means.float()
        columns = list(means.unbind(dim=1))
        for name, parent in self._conditionals.items():
            place = self._names.index(name)
            columns[place] = self._conditional(name, parent, columns[place], scores, shares)
        return torch.stack(columns, dim=1).float()

    def _conditional(
        self, name: str, parent: str, mean: Tensor, scores: Sequence[Tensor], shares: Sequence[Tensor]
    ) -> Tensor:
        """Return sum_j w_j p_j(parent) p_j(name) / sum_j w_j p_j(parent) (B,), and the mean where that is 0 / 0."""
        column, before = self._names.index(name), self._names.index(parent)
        weight, weighted = torch.zeros_like(mean), torch.zeros_like(mean)
        for one, own, share in zip(scores, self._of_members, shares, strict=True):
            if name in own:
                of_member = (share[own.index(name), column] > 0) * share[own.index(parent), before]
                of_member = of_member * one[:, own.index(parent)]
                weight, weighted = weight + of_member, weighted + of_member * one[:, own.index(name)]
        return torch.where(weight > 0, weighted / torch.where(weight > 0, weight, 1.0), mean)


def shared_inputs(inputs: Sequence[Sequence[Field]]) -> list[Field]:
    """Return the fields that members read, each once: the keys and then the others, the scenario last."""
    found = {field.name: field for own in inputs for field in own}
    return sorted(found.values(), key=lambda field: field.kind == "scenario")


def check_one_vocabulary(ensemble: SavedEnsemble, inputs: Sequence[Sequence[Field]]) -> None:
    """Refuse members that do not read a value as the same id or number.

    Args:
        ensemble: the ensemble.
        inputs: the fields that each member reads.

    Raises:
        InputError: a member differs; the field is named.
    """
    first, fields = ensemble.members[0], {field.name: field for field in inputs[0]}
    for run, own in zip(ensemble.members[1:], inputs[1:], strict=True):
        for field in own:
            other = fields.setdefault(field.name, field)
            alike = replace(field, table=None) == replace(other, table=None)
            if alike and field.vocabulary:
                before, now = (of.dataset.field2id_token for of in (first, run))
                name = field.vocabulary
                alike = name in before and list(before[name]) == list(now[name])
            if not alike:
                raise InputError(
                    f"{run.folder} and {first.folder} read '{field.name}' otherwise (other data, or another kind of "
                    "field): one graph of an ensemble has one vocabulary; export its members one by one"
                )
        if list(run.dataset.scenario_names) != list(first.dataset.scenario_names):
            raise InputError(f"{run.folder} and {first.folder} have other scenarios: export them one by one")
