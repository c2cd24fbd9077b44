"""What tasks share: found from a model's structure, number by number."""

import pytest
import torch

from recbole_msr.registry import BUILT_IN_MODELS
from recbole_msr.training.weighting.task_dependence import task_parameter_mask

SETTINGS = {
    "HiNet": {"expert_hidden_sizes": [8, 4], "task_expert_hidden_sizes": [6], "tower_hidden_sizes": [5]},
    "PLE": {"batch_norm": True},
    "MMoE": {"towers_per": "scenario"},
    "HMoE": {"relations": "scenario_task", "stop_gradient": False},
    "SharedBottom": {"towers_per": "task"},
    "STAR": {"output_norm": "batch_norm"},
    "LLM4MSR": {"knowledge": "random", "fusion": "gate"},
}


@pytest.mark.parametrize("name", BUILT_IN_MODELS)
def test_no_task_has_a_gradient_where_it_is_said_not_to_reach(name, make_model):
    model, rows = make_model(3, name, **SETTINGS.get(name, {}))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    random = torch.get_rng_state()
    reached = task_parameter_mask(model, rows, parameters)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    losses = model.task_losses(rows)
    for t, loss in enumerate(losses):
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        assert not ((torch.cat([part.flatten() for part in parts]) != 0) & ~reached[t]).any()
    assert reached.all(dim=0).any()


def reach_by_name(model, rows):
    """For every parameter, which of its numbers tasks 0 and 1 reach."""
    named = dict(model.named_parameters())
    parts = task_parameter_mask(model, rows, list(named.values())).split([p.numel() for p in named.values()], dim=1)
    return {name: part.view(2, *named[name].shape) for name, part in zip(named, parts, strict=True)}


def test_what_tasks_share_is_found_inside_banks(make_model):
    """HiNet: experts of a task's own and shared ones are one tensor, and so are the towers."""
    model, rows = make_model(3, "HiNet", **SETTINGS["HiNet"])
    reach = reach_by_name(model, rows)
    assert reach["features.table.weight"].all()
    assert reach["scenario_layers.0.experts.gates.weight"].all()
    experts = reach["task_layers.0.experts.weights.0"]  # two experts of each task's own, then two shared ones
    assert experts.flatten(2).all(2).tolist() == [[True] * 2 + [False] * 2 + [True] * 2, [False] * 2 + [True] * 4]
    assert experts.flatten(2).any(2).tolist() == experts.flatten(2).all(2).tolist()
    for name in ("towers.weights.0", "towers.biases.1", "task_layers.0.gates.weights.0"):
        assert reach[name].flatten(2).all(2).tolist() == [[True, False], [False, True]], name
        assert reach[name].flatten(2).any(2).tolist() == [[True, False], [False, True]], name


def test_a_loss_reaches_what_its_calibrator_reads(make_model):
    """AITM's calibrator compares a task with the one before."""
    for weight, reads in ((0.6, True), (0.0, False)):
        model, rows = make_model(3, "AITM", calibrator_weight=weight)
        output = reach_by_name(model, rows)["outputs.0.weights.0"]  # of the first task
        assert output[0].all()
        assert output[1].all() if reads else not output[1].any()


def test_moving_averages_that_silence_a_unit_change_nothing(make_model):
    model, rows = make_model(3, "PLE", batch_norm=True)
    fresh = reach_by_name(model, rows)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(1e6)
    assert all(torch.equal(part, fresh[name]) for name, part in reach_by_name(model, rows).items())


@pytest.mark.parametrize("name", ["SharedBottom", "AITM", "HiNet"])
def test_a_task_after_another_reaches_the_parameters_of_both(name, make_model):
    tasks = {
        "buy": {"field": "rating", "at_least": 5, "after": "click"},
        "click": {"field": "rating", "at_least": 3},
        "like": {"field": "rating", "at_least": 4},
    }
    model, rows = make_model(3, name, tasks=tasks)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buy, click, like = task_parameter_mask(model, rows, parameters)
    assert (buy | ~click).all()
    assert (buy & ~click).any()
    assert (like & ~buy).any()
