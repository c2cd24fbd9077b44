"""Begin a training with the weights of an earlier run (`init_from`), whose data had other users, items and values."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_msr.errors import InputError
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.runs.saved_run import SavedRun

logger = logging.getLogger(__name__)

_OWN_BUFFERS = ("scenario_shares", "seen")
"""What the new data decide."""


@torch.no_grad()
def init_from(model: Any, dataset: Any, folder: str | Path) -> None:
    """Give a new model the weights of an earlier run: those of embeddings by token, all others as they are.

    A token that the earlier run did not train on begins with its field's unknown vector; tokens that are not in the
    new data go. The optimiser begins anew.

    Args:
        model: the new model, on the CPU or a GPU; in place.
        dataset: the training split of the new data.
        folder: of the earlier run.

    Raises:
        InputError: the run cannot be read, or is of another architecture; the first difference is named.
    """
    run = SavedRun(folder)
    old = run.model
    _check_alike(model, old, dataset, run)
    own, other = model.features, old.features
    known = new = 0
    for field in (*own.token_fields, *own.token_seq_fields):
        ids = _earlier_ids(dataset, run.dataset, field)
        ids = torch.where(other.has_seen(field, ids.to(other.seen.device)).cpu(), ids, 0)
        own.take_over(other, field, ids)
        known, new = known + int((ids[1:] > 0).sum()), new + int((ids[1:] == 0).sum())
    tables = _table_names(model)
    state, earlier = model.state_dict(), old.state_dict()
    for name, values in state.items():
        if name not in tables and name.rsplit(".", 1)[-1] not in _OWN_BUFFERS:
            values.copy_(earlier[name])
    logger.info("init_from %s: %d of the values begin as they were, %d are new", folder, known, new)


def _check_alike(model: Any, old: Any, dataset: Any, run: SavedRun) -> None:
    """Refuse another architecture, by the first difference."""
    name, folder = type(model).__name__, run.folder
    if not isinstance(model, MultiScenarioRecommender) or not isinstance(
        getattr(model, "features", None), FeatureEmbedding
    ):
        raise InputError(f"init_from: {name} is not one of this package's models, whose vectors are known by token")
    if isinstance(model, LLM4MSR):
        raise InputError(
            "init_from: LLM4MSR reads vectors of its store, which another data set has not: take its backbone's model"
        )
    if type(model) is not type(old):
        raise InputError(f"init_from: the run in {folder} is of {type(old).__name__}, and this one of {name}")
    pairs = (
        ("scenarios", run.dataset.scenario_names, dataset.scenario_names),
        ("tasks", old.task_names, model.task_names),
        ("token fields", old.features.token_fields, model.features.token_fields),
        ("token_seq fields", old.features.token_seq_fields, model.features.token_seq_fields),
        ("number fields", old.features.float_fields, model.features.float_fields),
    )
    for what, of_run, of_this in pairs:
        if list(of_run) != list(of_this):
            raise InputError(
                f"init_from: the run in {folder} has the {what} {', '.join(of_run) or 'none'}, and this one "
                f"{', '.join(of_this) or 'none'}: weights are taken over by the same model of the same"
            )
    tables = _table_names(model)
    state, earlier = model.state_dict(), old.state_dict()
    for key in sorted({*state, *earlier}):
        before, now = (tuple(of[key].shape) if key in of else None for of in (earlier, state))
        if key in tables and before is not None and now is not None:
            before, now = before[1:], now[1:]
        if before != now and key.rsplit(".", 1)[-1] != "seen":
            raise InputError(
                f"init_from: {key} has the shape {before} in {folder}, and {now} here: give this run the sizes of that "
                "one, which are in its config.yaml"
            )


def _table_names(model: Any) -> set[str]:
    """Return the names of the weights that have a row a token."""
    features, found = model.features, set()
    tables = [features.table] if features.tables is None and features.token_fields else list(features.tables or ())
    for table in (*tables, *features.seq_tables):
        found |= {name for name, weight in model.named_parameters() if weight is table.weight}
    return found


def _earlier_ids(dataset: Any, before: Any, field: str) -> Tensor:
    """Return the earlier run's id of each of the new tokens (V,), 0 for one that it did not know."""
    earlier = before.field2token_id[field]
    tokens = dataset.field2id_token[field]
    return torch.tensor([0, *(int(earlier.get(str(token), 0)) for token in tokens[1:])])
