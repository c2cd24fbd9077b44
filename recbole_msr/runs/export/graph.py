"""A trained model with all that stands between a row and its scores, as one module that can be exported."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.evaluation.calibration import EPSILON, Calibration, Temperature
from recbole_msr.layers.embedding import EXPORTED_MEANS, FeatureEmbedding
from recbole_msr.layers.tracing import count_below, is_exported, replace_rows
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.runs.export.embeddings import make_tables_small
from recbole_msr.runs.export.fields import Field
from recbole_msr.schema import SCENARIO_FIELD

_MOST_MEANS = 1 << 24
"""Numbers of the mean vectors of a field's sequences that a graph keeps at most."""


class ExportGraph(nn.Module):
    """Scores (B, C) of rows, as `SavedRun.predict` gives them, of one input a field.

    Ids are int64 (B,), of a token_seq (B, S); 0 is an unknown value, a negative id a missing one. Numbers are float64
    (B,) in the field's unit; NaN is a missing one. A history is int64 (B, L), L any number from 1, `padding` where
    there is none. For a missing value stands that of the user's or item's table, else
    the unknown id, or the mean of the training rows.

    Args:
        model: the trained model, which is left as it is.
        dataset: the run's vocabularies and tables.
        fields: what `model_fields` lists.
        calibration: the run's; None for none.
        embeddings: the numbers of its embedding tables, a word of `embeddings.KINDS`.
    """

    def __init__(
        self,
        model: MultiScenarioRecommender,
        dataset: ScenarioDataset,
        fields: Sequence[Field],
        calibration: Calibration | None,
        embeddings: str = "float32",
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval()
        for module in self.model.modules():
            if isinstance(module, FeatureEmbedding):
                module.fill_unseen()
        make_tables_small(self.model, embeddings)
        make_tables_of_knowledge(self.model)
        self.fields = list(fields)
        self.inputs = [field for field in fields if field.is_given]
        self.keys = {dataset.uid_field, dataset.iid_field}
        for place, field in enumerate(self.fields):
            self.register_buffer(f"table_{place}", field.table)
            means = self._stored_means(field) if embeddings == "float32" else None
            if means is not None:
                self.register_buffer(f"means_{place}", means)
        self.calibration = None if calibration is None else Calibrator(calibration)
        self.layout = self.model.predicted

    def forward(self, *values: Tensor) -> Tensor:
        """Return scores (B, C) float32 of the inputs' values, in the order of `inputs`."""
        given = {field.name: value for field, value in zip(self.inputs, values, strict=True)}
        row = {key: given[key].clamp(min=0) for key in self.keys}
        known = {key: self.model.features.known_ids(key, ids) for key, ids in row.items()}
        for place, field in enumerate(self.fields):
            if field.name not in self.keys:
                table = getattr(self, f"table_{place}")
                stored = None if table is None else table.index_select(0, known[str(field.key)])
                row[field.name] = _encode(field, given.get(field.name), stored)
                means = getattr(self, f"means_{place}", None)
                if means is not None and is_exported():
                    found = means.index_select(0, known[str(field.key)])
                    row[field.name + EXPORTED_MEANS] = self._means(field.name, given[field.name], found)
        if SCENARIO_FIELD not in row:
            row[SCENARIO_FIELD] = torch.ones_like(values[0])
        scores = self.model.predict_tasks(row).float()
        if self.calibration is not None:
            scores = self.calibration(scores, row[SCENARIO_FIELD])
        return self._with_expected(scores)

    @torch.no_grad()
    def _stored_means(self, field: Field) -> Tensor | None:
        """Return the mean vectors (ids, K) of the sequences of all users or items, of which requests seldom give other.

        None where there are none, or where they would make the graph much larger.
        """
        if field.kind != "token_seq" or field.table is None:
            return None
        features = [module for module in self.model.modules() if isinstance(module, FeatureEmbedding)]
        if len(features) > 1:
            return None
        width = next(part.width for part in self.model.features.columns if part.name == field.name)
        if len(field.table) * width > _MOST_MEANS:
            return None
        return torch.cat([self.model.features.mean_vectors(field.name, ids) for ids in field.table.split(8192)])

    def _means(self, field: str, given: Tensor, stored: Tensor) -> Tensor:
        """Return the mean vectors (B, K) of given ids (B, S), and the stored ones of rows that give none."""

        def of_given(rows: Tensor) -> Tensor:
            made: Tensor = self.model.features.mean_vectors(field, given.index_select(0, rows).clamp(min=0))
            return made

        return replace_rows(stored, given[:, 0] >= 0, of_given)

    def _with_expected(self, scores: Tensor) -> Tensor:
        """Add the expected values of ordered classes, each behind the probabilities of its task's classes."""
        if "ordered" not in self.layout.types.values():
            return scores
        parts = []
        for task, columns in self.layout.columns.items():
            parts.append(scores[:, columns])
            numbers = self.layout.class_values(task)
            if numbers is not None:
                expected = parts[-1].double() @ torch.from_numpy(numbers).unsqueeze(1)
                parts.append(expected.float())
        return torch.cat(parts, dim=1)


def _encode(field: Field, given: Tensor | None, stored: Tensor | None) -> Tensor:
    """Return a field as the model reads it (B, ...); of a number the scaled value and 1 (B, 2), as RecBole has it."""
    if given is None:
        assert stored is not None
        return stored
    if field.kind == "history":
        return given
    if field.kind == "number":
        scale = field.scale or {}
        missing = given.isnan()
        numbers = (torch.where(missing, scale["mean"], given) - scale["low"]) / scale["width"]
        value = torch.stack([numbers.float(), torch.ones_like(numbers).float()], dim=1)
        return value if stored is None else torch.where(missing.unsqueeze(1), stored, value)
    missing = given < 0
    if field.kind == "token_seq":
        missing = missing[:, :1]
    return torch.where(missing, 0 if stored is None else stored, given)


def make_tables_of_knowledge(model: MultiScenarioRecommender) -> None:
    """Put a table of what each id's come to in the place of a model's knowledge vectors."""
    for name, module in list(model.named_modules()):
        if isinstance(module, KnowledgeVectors):
            ids = torch.arange(len(module.known), device=module.known.device)
            with torch.no_grad():
                table = torch.cat([module(part) for part in ids.split(8192)]).float()
            parent, _, attribute = name.rpartition(".")
            owner: Any = model.get_submodule(parent)
            made = _KnowledgeTable.from_pretrained(table)  # type: ignore[no-untyped-call]
            owner.register_module(attribute, made)


class _KnowledgeTable(nn.Embedding):
    """Knowledge vectors by id, which no training row is left out of and no given profile stands in place of."""

    def forward(self, ids: Tensor, rows: None = None, given: None = None) -> Tensor:
        """Return the vectors (B, size) of ids (B,)."""
        return super().forward(ids)


class Calibrator(nn.Module):
    """The maps of a run's `Calibration`, in operations of a graph.

    Args:
        calibration: the run's.
    """

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self._columns, self._scenarios = dict(calibration.columns), calibration.scenarios
        self._maps: Mapping[str, Mapping[str, Any]] = calibration.maps

    def forward(self, scores: Tensor, scenario: Tensor) -> Tensor:
        """Return calibrated scores (B, C) of scores (B, C) and scenarios (B,), 1..M or 0."""
        columns = list(scores.unbind(dim=1))
        for task, maps in self._maps.items():
            place = self._columns[task]
            p = columns[place].double()
            inside = p.clamp(EPSILON, 1 - EPSILON)
            logit = inside.log() - (1 - inside).log()  # once for all maps: ONNX's optimiser breaks repeated clamps
            calibrated = _mapped(maps[""], p, logit) if "" in maps else p
            for number, name in enumerate(self._scenarios, start=1):
                if name in maps:
                    calibrated = torch.where(scenario == number, _mapped(maps[name], p, logit), calibrated)
            columns[place] = calibrated.float()
        return torch.stack(columns, dim=1)


def _mapped(fitted: Any, p: Tensor, logit: Tensor) -> Tensor:
    """Return what a map makes of probabilities and their logits (B,), float64."""
    if isinstance(fitted, Temperature):
        return (logit / fitted.t).sigmoid()
    x, y = (torch.tensor(values, dtype=torch.float64) for values in (fitted.x, fitted.y))
    if len(fitted.x) == 1:
        return torch.zeros_like(p) + y
    right = count_below(p, x).clamp(1, len(fitted.x) - 1)
    (x_left, x_right), (y_left, y_right) = ([of.index_select(0, at) for at in (right - 1, right)] for of in (x, y))
    return y_left + ((p - x_left) / (x_right - x_left)).clamp(0, 1) * (y_right - y_left)
