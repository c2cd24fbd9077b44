"""Choose users, and read what a model does for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError, nearest
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.runs.explain.training_rows import TrainingRows
from recbole_msr.runs.explain.views import Prompt, UserView


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


def spread_users(dataset: ScenarioDataset, rows: TrainingRows | None, shown: list[int], n: int) -> list[str]:
    """Choose n users, spread over the scenarios, and in each over those with few and with many rows."""
    tokens = dataset.field2id_token[dataset.uid_field]
    if rows is None:
        places = np.unique(np.linspace(1, len(tokens) - 1, n).astype(np.int64))
        return [str(tokens[place]) for place in places]
    chosen: list[int] = []
    largest = sorted((m for m in shown if len(rows.of_scenario[m])), key=lambda m: -len(rows.of_scenario[m]))
    for place, m in enumerate(largest[:n]):
        users, counts = np.unique(rows.user[rows.of_scenario[m]], return_counts=True)
        users = users[np.argsort(counts, kind="stable")]
        wanted = len(range(place, n, len(largest[:n])))
        free = users[~np.isin(users, chosen)]
        if len(free):
            picked = np.unique(((np.arange(wanted) + 0.5) / wanted * len(free)).astype(np.int64))
            chosen += free[picked].tolist()
    return [str(tokens[user]) for user in chosen]


@torch.no_grad()
def view_user(
    token: str,
    dataset: ScenarioDataset,
    model: MultiScenarioRecommender | None,
    rows: TrainingRows | None,
    prompt: Prompt | None,
) -> UserView:
    """Read what a model does for one user, as far as model and training rows are there."""
    number = dataset.field2token_id[dataset.uid_field][token]
    level = model.user_level if isinstance(model, LLM4MSR) else None
    known = None if level is None else bool(level.vectors.known[number])
    if rows is None:
        return UserView(token, None, known, prompt)
    of_user = np.flatnonzero(rows.user == number)
    scenarios, counts = np.unique(rows.scenario[of_user], return_counts=True)
    by_scenario = {dataset.scenario_names[m]: int(count) for m, count in zip(scenarios, counts, strict=True)}
    if not isinstance(model, LLM4MSR) or level is None or not len(of_user):
        return UserView(token, by_scenario, known, prompt)
    batch = rows.batch(of_user)
    x, scenario = model.backbone.embed(batch), model.scenario_of(batch)
    moved = level(x, model.known_ids(model.user_field, batch))
    movement = model.movement(batch)
    squares = (moved - x).double().square().sum(dim=0)
    total = float(squares.sum())
    fields = None
    if total:
        fields = {name: float(squares[part].sum()) / total for name, part in _field_slices(model.features)}
    with_level, without = model.embed(batch), model.embed_without_user_level(batch)
    after, before = (model.predictions(model.logits(inputs, scenario)) for inputs in (with_level, without))
    change = (after - before).mean(dim=0).tolist()
    return UserView(
        token, by_scenario, known, prompt, (float(movement.mean()), float(movement.max())), fields,
        dict(zip(model.predicted.names, change, strict=True)),
    )  # fmt: skip


def _field_slices(features: Any) -> list[tuple[str, slice]]:
    """Return the columns of x that each part of a `FeatureEmbedding` has, in their order."""
    ends = np.cumsum([part.width for part in features.columns]).tolist()
    return [(part.name, slice(end - part.width, end)) for part, end in zip(features.columns, ends, strict=True)]
