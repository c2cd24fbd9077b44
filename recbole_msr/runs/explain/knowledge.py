"""Read what a run makes of a language model's vectors, and what others in their place would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recbole_msr.data.packed import PackedTable
from recbole_msr.evaluation.cells import Cell, Evaluation, evaluate_cells
from recbole_msr.evaluation.metrics import headlines, metric_heading
from recbole_msr.evaluation.prediction_file import layout_of_split
from recbole_msr.evaluation.segments import Segments
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.knowledge_source import id_field
from recbole_msr.runs.explain.nearest import cosines, nearest_ids, nearest_items
from recbole_msr.runs.explain.permuted_vectors import permuted_vectors
from recbole_msr.runs.explain.scores import ChosenRows
from recbole_msr.runs.explain.sources import RunSources
from recbole_msr.runs.explain.training_rows import TrainingRows
from recbole_msr.runs.explain.vectors import vectors_read
from recbole_msr.runs.explain.views import KnowledgeView, LevelVectors, Matrix, Neighbours

ROWS = 20_000
"""Maximum number of validation rows of a scenario that are predicted with permuted vectors; they are spread evenly."""
AS_THEY_ARE = "as they are"


class KnowledgeReader:
    """Reads a run's vectors.

    Args:
        sources: the run's.
        rows: its training rows, or None.
        shown: the scenarios that are shown, counted from 0.
        chosen: the users and the items that are shown, by level.
    """

    def __init__(
        self, sources: RunSources, rows: TrainingRows | None, shown: Sequence[int], chosen: dict[str, list[str]]
    ) -> None:
        self._sources, self._rows, self._shown, self._chosen = sources, rows, shown, chosen
        self._vectors = vectors_read(sources.model)
        dataset = sources.dataset
        self._names = {
            level: [
                str(name)
                for name in (
                    dataset.scenario_names if level == "scenario" else dataset.field2id_token[id_field(dataset, level)]
                )
            ]
            for level in self._vectors
        }

    def view(self) -> KnowledgeView | None:
        """Return what there is to see; None of a model that reads no vectors."""
        model = self._sources.model
        if model is None or not self._vectors:
            return None
        changes, metrics = self._with_permuted(model)
        return KnowledgeView(self._levels(model), self._neighbours(), self._cosines(), changes, metrics)

    def _levels(self, model: MultiScenarioRecommender) -> list[LevelVectors]:
        where = {module: name for name, module in model.named_modules()}
        found = []
        for level, modules in self._vectors.items():
            places = [where[module] for module in modules]
            by = [
                "match" if ".match." in name else "features" if ".knowledge." in name else "meta layers"
                for name in places
            ]
            known = modules[0].known
            n_ids = len(known) - (level != "scenario")  # number 0 is the unknown id
            widths = [module.size for module in modules]
            found.append(LevelVectors(level, dict(zip(by, widths, strict=True)), int(known.sum()), n_ids))
        return found

    def _neighbours(self) -> list[Neighbours]:
        found = []
        for level in ("user", "item"):
            if level in self._vectors:
                near = nearest_ids(self._vectors[level][0], self._names[level], self._chosen[level])
                says = "By the cosine of the vectors that the model reads, scaled and reduced."
                found.append(Neighbours(level, level, says, near))
        store = self._sources.store
        names = {**self._chosen, "scenario": [self._sources.dataset.scenario_names[m] for m in self._shown]}
        for level in ("user", "scenario"):
            near = {} if store is None or level not in self._vectors else nearest_items(store, level, names[level])
            if near:
                assert store is not None
                says = f"By the cosine of the {level}'s vector and the item's in the store, each less its kind's mean."
                if store.parts(level):
                    says = (
                        f"By the cosine of 'liked' in the {level}'s profile and the item's vector, less the mean item."
                    )
                found.append(Neighbours(level, "item", says, near))
        items = {one.name for near in found if near.to == "item" for best in near.nearest.values() for one in best}
        titles = self._sources.titles(sorted(items))
        return [near.with_titles(titles) if near.to == "item" else near for near in found]

    def _cosines(self) -> Matrix | None:
        if "scenario" not in self._vectors or len(self._shown) < 2:
            return None
        names = [self._names["scenario"][m] for m in self._shown]
        return Matrix(
            "Scenarios: cosines of the vectors that the model reads",
            "How alike the vectors of two scenarios are, scaled and reduced: 1 where they point the same way.",
            "scenario \\ scenario",
            names,
            names,
            cosines(self._vectors["scenario"][0], self._shown),
            signed=True,
        )

    # Permuted vectors.

    @torch.no_grad()
    def _with_permuted(self, model: MultiScenarioRecommender) -> tuple[list[Matrix], list[Matrix]]:
        """Return the changes of predictions, and the metrics of validation rows, with permuted vectors."""
        levels = [level for level, modules in self._vectors.items() if int(modules[0].known.sum()) > 1]
        variants = {f"{level}s permuted": [level] for level in levels}
        if len(levels) > 1:
            variants["all permuted"] = levels
        if self._rows is None or not variants:
            return [], []
        batches, validation = self._batches(self._rows), _Validation(self._sources)
        before = [model.predict_tasks(batch) for batch in batches.values()]
        results = {AS_THEY_ARE: validation.evaluate(model)}
        changes: dict[str, np.ndarray] = {}
        seed = int(self._sources.config["knowledge_seed"])
        for name, dealt in variants.items():
            with permuted_vectors(model, dealt, self._names, seed):
                after = [model.predict_tasks(batch) for batch in batches.values()]
                results[name] = validation.evaluate(model)
            pairs = zip(before, after, strict=True)
            changes[name] = np.array([(new - old).abs().mean(dim=0).tolist() for old, new in pairs])
        by_task = [
            Matrix(
                f"Permuted vectors: mean change of {task}",
                "The mean |difference| of the predictions for training rows, in either direction.",
                "rows of \\ vectors of",
                list(batches),
                list(variants),
                [[float(changes[name][row, column]) for name in variants] for row in range(len(batches))],
            )
            for column, task in enumerate(model.predicted.names)
        ]
        return by_task, validation.matrices(results, self._shown)

    def _batches(self, rows: TrainingRows) -> dict[str, Any]:
        """Return the training rows of each scenario, user and item that is shown, by its name."""
        dataset = self._sources.dataset
        places = {f"scenario {dataset.scenario_names[m]}": rows.of_scenario[m] for m in self._shown}
        for level, tokens in self._chosen.items():
            of_token = dataset.field2token_id[id_field(dataset, level)]
            places |= {f"{level} {token}": np.flatnonzero(rows.ids(level) == of_token[token]) for token in tokens}
        return {name: rows.batch(own) for name, own in places.items() if len(own)}


class _Validation:
    """Evaluates a model on the run's validation rows, as long as the data are there.

    Args:
        sources: the run's.
    """

    def __init__(self, sources: RunSources) -> None:
        config, split = sources.config, sources.split("valid")
        self._least, self._size = config["min_scenario_rows"] or 1, int(config["eval_batch_size"])
        self._split, self._rows = split, ChosenRows(split, ROWS, self._least)
        self._table = PackedTable(split).part(torch.from_numpy(self._rows.places))
        segments = Segments.of_split(split, config)
        self._segments = None if segments is None else segments.at(self._rows.places)
        if len(self._rows.places) < len(split):
            sources.notes.append(
                f"metrics with permuted vectors are of {len(self._rows.places):,} of {len(split):,} validation rows: "
                f"at most {ROWS:,} of each scenario, spread evenly"
            )

    def evaluate(self, model: MultiScenarioRecommender) -> Evaluation:
        """Return the metrics that tasks are judged by."""
        starts = range(0, len(self._rows.places), self._size)
        parts = [model.predict_tasks(self._table.batch(slice(start, start + self._size))) for start in starts]
        predictions, rows = torch.cat(parts).numpy(), self._rows
        layout = layout_of_split(self._split, predictions.shape[1])
        return evaluate_cells(
            predictions, rows.labels(layout), rows.scenario, rows.users, rows.scenarios, list(layout.types),
            next(iter(layout.types)), self._least, list(headlines(layout.types)), dict(layout.types), layout.classes,
            segments=self._segments,
        )  # fmt: skip

    def matrices(self, results: dict[str, Evaluation], shown: Sequence[int]) -> list[Matrix]:
        """Return for every task a line for each scenario shown, for all rows, and for each segment."""
        first, scenarios = results[AS_THEY_ARE], [self._rows.scenarios[m] for m in shown]
        lines = [*(scenarios if len(self._rows.scenarios) > 1 else []), "all rows", *first.segments]
        return [
            Matrix(
                f"Validation rows: {metric_heading(metric)} of {task}",
                "With the vectors as they are, and permuted.",
                "rows \\ vectors",
                [f"{line} ({_row(first, line)[task].rows:,} rows)" for line in lines],
                list(results),
                [[_row(result, line)[task].value(metric) for result in results.values()] for line in lines],
            )
            for metric, tasks in headlines(first.types).items()
            for task in tasks
        ]


def _row(result: Evaluation, name: str) -> Mapping[str, Cell]:
    """Return the cells of a scenario, of all rows, or of a segment, by task."""
    return result.cells.get(name) or result.segments.get(name) or result.pooled
