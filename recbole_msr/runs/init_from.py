"""Begin a training with the weights of an earlier run (`init_from`), whose data had other users, items and values."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_msr.errors import InputError, nearest
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.layers.scenario_axes import (
    HasScenarioAxes,
    for_scenarios,
    is_inside,
    parts_by_count,
    scenario_axes,
)
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.knowledge_features import KnowledgeFeatures
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.schema import as_token
from recbole_msr.training.optimizer_state import OptimizerState, read_optimizer_state

logger = logging.getLogger(__name__)

MEAN = "mean"
"""In the place of an earlier scenario: the mean of all."""
_TABLE = re.compile(r"features\.(table|tables\.\d+|seq_tables\.\d+)\.weight")
_OWN_BUFFERS = ("scenario_shares", "seen")
"""What the new data decide."""


@torch.no_grad()
def init_from(
    model: Any,
    dataset: Any,
    folder: str | Path,
    scenarios: Mapping[Any, Any] | None = None,
    learner: str | None = None,
) -> OptimizerState | None:
    """Give a new model the weights of an earlier run: those of embeddings by token, all others as they are.

    A token that the earlier run did not train on begins with its field's unknown vector; tokens that are not in the
    new data go. What belongs to one scenario (experts, gates, towers, norms, embeddings) goes by the scenario's name; a
    new scenario begins with the mean of the earlier ones, or with that of one of them. So do the entries of the
    optimiser's state, where it is asked for; those of new tokens are zeros.

    Args:
        model: the new model, on the CPU or a GPU; in place.
        dataset: the training split of the new data.
        folder: of the earlier run.
        scenarios: for scenarios of the new data the earlier one that they begin with, or "mean" (`init_scenarios`).
        learner: the optimiser whose state is taken over as well; None for none.

    Returns:
        The state with which the optimiser begins; None where none is asked for.

    Raises:
        InputError: the run cannot be read, or is of another architecture; the first difference is named.
    """
    run = SavedRun(folder)
    old = run.model
    _check_alike(model, old, run)
    shares = _scenario_shares(old.scenario_names, model.scenario_names, scenarios or {})
    earlier = for_scenarios(old, shares)
    left = _check_shapes(model, earlier, folder)
    ids = {field: _earlier_ids(old.features, dataset, run.dataset, field) for field in _token_fields(model)}
    known = sum(int((of_field[1:] > 0).sum()) for of_field in ids.values())
    new = sum(len(of_field) - 1 for of_field in ids.values()) - known
    model.features.take_over(old.features, ids)
    rows = {f"features.{name}": moved for name, moved in model.features.rows_in(old.features, ids).items()}
    for name, values in model.state_dict().items():
        if name not in rows and name in earlier and name.rsplit(".", 1)[-1] not in _OWN_BUFFERS:
            values.copy_(earlier[name])
    logger.info("init_from %s: %d of the values begin as they were, %d are new", folder, known, new)
    for line in _describe_scenarios(old.scenario_names, model.scenario_names, shares):
        logger.info("init_from: %s", line)
    if left:
        logger.info("init_from: %s begin anew: %d scenarios had none", ", ".join(left), len(old.scenario_names))
    if learner is None:
        return None
    state = read_optimizer_state(folder, learner)
    return _state_of(model, old, state, rows, shares)


def _check_alike(model: Any, old: Any, run: SavedRun) -> None:
    """Refuse another model, or other tasks and fields, by the first difference."""
    name, folder = type(model).__name__, run.folder
    if not isinstance(model, MultiScenarioRecommender) or not isinstance(
        getattr(model, "features", None), FeatureEmbedding
    ):
        raise InputError(f"init_from: {name} is not one of this package's models, whose vectors are known by token")
    if isinstance(model, LLM4MSR):
        raise InputError(
            "init_from: LLM4MSR reads vectors of its store, which another data set has not: take its backbone's model"
        )
    if isinstance(model.features, KnowledgeFeatures):
        raise InputError(
            "init_from: knowledge_features read vectors of a store, which another data set has not: leave them out in "
            "both runs"
        )
    if type(model) is not type(old):
        raise InputError(f"init_from: the run in {folder} is of {type(old).__name__}, and this one of {name}")
    if old.scenario_names != model.scenario_names and not any(
        isinstance(part, HasScenarioAxes) for part in old.modules()
    ):
        raise InputError(
            f"init_from: the run in {folder} has the scenarios {', '.join(old.scenario_names)}, and this one "
            f"{', '.join(model.scenario_names)}: {name} does not say which of its weights are a scenario's own "
            "(scenario_axes)"
        )
    pairs = (
        ("tasks", old.task_names, model.task_names),
        ("outputs", old.output_names, model.output_names),
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


def _scenario_shares(before: Sequence[str], now: Sequence[str], chosen: Mapping[Any, Any]) -> Tensor:
    """Return how much of each earlier scenario every scenario begins with (M', M); each row sums to 1."""
    begins = {str(as_token(name)): str(as_token(other)) for name, other in chosen.items()}
    for name, other in begins.items():
        for what, value, names in (("this run", name, now), ("the earlier run", other, [*before, MEAN])):
            if value not in names:
                listed = ", ".join(names)
                raise InputError(
                    f"init_scenarios: there is no scenario '{value}' in {what}{nearest(value, list(names)) or '.'} "
                    f"There are: {listed}."
                )
    places = {name: place for place, name in enumerate(before)}
    shares = torch.zeros(len(now), len(before))
    for row, name in zip(shares, now, strict=True):
        other = begins.get(name, name if name in places else MEAN)
        # A scenario may itself be called "mean".
        if other in places:
            row[places[other]] = 1.0
        else:
            row.fill_(1 / len(before))
    return shares


def _describe_scenarios(before: Sequence[str], now: Sequence[str], shares: Tensor) -> list[str]:
    """Say what scenarios begin with that do not go on as themselves, and which are gone."""
    lines = []
    for name, row in zip(now, shares, strict=True):
        of = [other for other, share in zip(before, row.tolist(), strict=True) if share]
        if of != [name]:
            lines.append(f"scenario '{name}' begins as " + (f"'{of[0]}'" if len(of) == 1 else "the mean of all"))
    gone = [name for name in before if name not in now]
    return lines + ([f"scenarios that are gone: {', '.join(gone)}"] if gone else [])


def _check_shapes(model: Any, earlier: Mapping[str, Tensor], folder: str | Path) -> list[str]:
    """Refuse weights of other sizes, by the first difference; return the parts that the earlier model had no need of.

    Args:
        model: the new model.
        earlier: the earlier weights, for the new model's scenarios.
        folder: of the earlier run.
    """
    state = model.state_dict()
    optional, left = parts_by_count(model), []
    for key in sorted({*state, *earlier}):
        before, now = (tuple(of[key].shape) if key in of else None for of in (earlier, state))
        if _TABLE.fullmatch(key) and before is not None and now is not None:  # a row a token
            before, now = before[1:], now[1:]
        if before == now or key.rsplit(".", 1)[-1] in _OWN_BUFFERS:
            continue
        part = next((path for path in optional if is_inside(path, key)), None)
        if part is not None and (before is None or now is None):
            left += [part] if before is None and part not in left else []
            continue
        raise InputError(
            f"init_from: {key} has the shape {before} in {folder}, and {now} here: give this run the sizes of that "
            "one, which are in its config.yaml"
        )
    return left


def _token_fields(model: Any) -> list[str]:
    return [*model.features.token_fields, *model.features.token_seq_fields]


def _earlier_ids(known: FeatureEmbedding, dataset: Any, before: Any, field: str) -> Tensor:
    """Return the earlier run's id of each of the new tokens (V,), 0 for one that it was not trained on."""
    earlier = before.field2token_id[field]
    tokens = dataset.field2id_token[field]
    ids = torch.tensor([0, *(int(earlier.get(str(token), 0)) for token in tokens[1:])])
    return torch.where(known.has_seen(field, ids.to(known.seen.device)).cpu(), ids, 0)


def _state_of(
    model: Any, old: Any, state: OptimizerState, rows: Mapping[str, tuple[Tensor, Tensor]], shares: Tensor
) -> dict[str, dict[str, Tensor]]:
    """Return an optimiser's state for the new model: that of a table by token, that of scenarios by scenario."""
    axes = scenario_axes(old, shares.shape[1])
    now, before = (dict(one.named_parameters()) for one in (model, old))
    found: dict[str, dict[str, Tensor]] = {}
    for name in now.keys() & before.keys() & state.keys():
        found[name] = {}
        for key, value in state[name].items():
            if value.shape == before[name].shape:  # else a number of steps
                if name in rows:
                    places, is_same = rows[name]
                    value = value[places] * is_same.unsqueeze(1)
                for axis in axes.get(name, ()):
                    value = axis.mix(value, shares)
            found[name][key] = value
    return found
