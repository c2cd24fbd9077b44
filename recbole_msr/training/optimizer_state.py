"""An optimiser's state by the names of the weights, as a later run can take it over (`save_optimizer`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.training.checkpoint import load_plain

OPTIMIZER = "optimizer.ckpt"
"""The file, beside the weights of the same epoch."""
OptimizerState = Mapping[str, Mapping[str, Tensor]]
"""By the name of a weight: the entries of its state, such as Adam's moments and its number of steps."""
_FORMAT = "recbole-msr/optimizer/1"
_SHAPE = {"format": str, "learner": str, "state": {str: {str: torch.Tensor}}}


def state_by_name(optimizer: torch.optim.Optimizer, model: nn.Module, learner: str) -> dict[str, Any]:
    """Return the content of `OPTIMIZER`.

    Args:
        optimizer: of the model's parameters.
        model: the model.
        learner: the name of the optimiser.
    """
    state = {
        name: {key: torch.as_tensor(value).detach().cpu() for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }
    return {"format": _FORMAT, "learner": str(learner).lower(), "state": state}


def read_optimizer_state(folder: str | Path, learner: str) -> OptimizerState:
    """Read the state that a run has kept.

    Args:
        folder: of the run.
        learner: the optimiser that it is for.

    Raises:
        InputError: there is none, it is damaged, or it is of another optimiser.
    """
    path = Path(folder, OPTIMIZER)
    if not path.is_file():
        raise InputError(
            f"init_optimizer: the run in {folder} has kept no {OPTIMIZER}: a run with save_optimizer: True does"
        )
    content = load_plain(path, _SHAPE)
    if content["format"] != _FORMAT:
        raise InputError(f"{path} is not of the format {_FORMAT}")
    if content["learner"] != str(learner).lower():
        raise InputError(
            f"init_optimizer: the run in {folder} was trained by {content['learner']}, and this one is by "
            f"{str(learner).lower()}: take the same learner, or leave init_optimizer out"
        )
    state: OptimizerState = content["state"]
    return state


def apply_optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module, state: OptimizerState) -> None:
    """Let an optimiser begin with a state; a weight that has none begins anew."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    content = optimizer.state_dict()
    places = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    content["state"] = {
        place: dict(state[names[parameter]]) for place, parameter in enumerate(places) if names.get(parameter) in state
    }
    optimizer.load_state_dict(content)
