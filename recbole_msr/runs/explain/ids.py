"""Choose users and items, and read what a model does for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError, nearest
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.knowledge_source import id_field
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.runs.explain.training_rows import TrainingRows
from recbole_msr.runs.explain.vectors import vectors_read
from recbole_msr.runs.explain.views import IdView, Prompt


def check_users(dataset: ScenarioDataset, users: Sequence[str]) -> None:
    """Refuse ids of users that a run does not know.

    Raises:
        InputError: there are none, or one is unknown; the message has the nearest one.
    """
    ids = dataset.field2token_id[dataset.uid_field]
    if not users:
        raise InputError("--users lists ids of users, separated by commas: --users=12,57")
    for token in users:
        if token not in ids or ids[token] == 0:
            # Among millions of ids only those that begin alike are compared.
            similar = [t for t in ids if ids[t] and (len(ids) < 20_000 or t[:3] == str(token)[:3])][:20_000]
            raise InputError(
                f"there is no user '{token}' in this run{nearest(str(token), similar) or ';'} it knows "
                f"{len(ids) - 1} users, by their ids as in the data, such as {', '.join(list(ids)[1:4])}"
            )


def spread_ids(dataset: ScenarioDataset, rows: TrainingRows | None, shown: list[int], n: int, level: str) -> list[str]:
    """Choose n users or items, spread over the scenarios, and in each over those with few and with many rows."""
    tokens = dataset.field2id_token[id_field(dataset, level)]
    if rows is None:
        places = np.unique(np.linspace(1, len(tokens) - 1, n).astype(np.int64))
        return [str(tokens[place]) for place in places]
    chosen: list[int] = []
    largest = sorted((m for m in shown if len(rows.of_scenario[m])), key=lambda m: -len(rows.of_scenario[m]))
    for place, m in enumerate(largest[:n]):
        ids, counts = np.unique(rows.ids(level)[rows.of_scenario[m]], return_counts=True)
        ids = ids[np.argsort(counts, kind="stable")]
        wanted = len(range(place, n, len(largest[:n])))
        free = ids[~np.isin(ids, chosen)]
        if len(free):
            picked = np.unique(((np.arange(wanted) + 0.5) / wanted * len(free)).astype(np.int64))
            chosen += free[picked].tolist()
    return [str(tokens[one]) for one in chosen]


@torch.no_grad()
def view_id(
    level: str,
    token: str,
    dataset: ScenarioDataset,
    model: MultiScenarioRecommender | None,
    rows: TrainingRows | None,
    prompt: Prompt | None,
    title: str | None = None,
) -> IdView:
    """Read what a model does for one user or item, as far as model and training rows are there.

    Args:
        level: "user" or "item".
        token: its raw id.
        dataset: knows the ids.
        model: the model, or None.
        rows: the training rows, or None.
        prompt: its prompt, or None.
        title: an item's title, or None.
    """
    number = dataset.field2token_id[id_field(dataset, level)][token]
    vectors = vectors_read(model).get(level)
    known = None if vectors is None else bool(vectors[0].known[number])
    if rows is None:
        return IdView(token, None, known, prompt, title=title)
    own = np.flatnonzero(rows.ids(level) == number)
    scenarios, counts = np.unique(rows.scenario[own], return_counts=True)
    by_scenario = {dataset.scenario_names[m]: int(count) for m, count in zip(scenarios, counts, strict=True)}
    bottom = getattr(model, f"{level}_level", None) if isinstance(model, LLM4MSR) else None
    if bottom is None or not len(own):
        return IdView(token, by_scenario, known, prompt, title=title)
    assert isinstance(model, LLM4MSR)
    batch = rows.batch(own)
    scenario = model.scenario_of(batch)
    x, moved = model.around(level, batch)
    movement = model.movement(batch, level)
    squares = (moved - x).double().square().sum(dim=0)
    total = float(squares.sum())
    fields = None
    if total:
        fields = {name: float(squares[part].sum()) / total for name, part in _field_slices(model.features)}
    with_level, without = model.embed(batch), model.embed_without(level, batch)
    after, before = (model.predictions(model.logits(inputs, scenario)) for inputs in (with_level, without))
    change = (after - before).mean(dim=0).tolist()
    return IdView(
        token, by_scenario, known, prompt, (float(movement.mean()), float(movement.max())), fields,
        dict(zip(model.predicted.names, change, strict=True)), title,
    )  # fmt: skip


def _field_slices(features: Any) -> list[tuple[str, slice]]:
    """Return the columns of x that each part of a `FeatureEmbedding` has, in their order."""
    ends = np.cumsum([part.width for part in features.columns]).tolist()
    return [(part.name, slice(end - part.width, end)) for part, end in zip(features.columns, ends, strict=True)]
