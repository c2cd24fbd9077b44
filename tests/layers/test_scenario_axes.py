"""Weights for other scenarios: a scenario's own go with it, and a new one begins as one of the others or their mean."""

import pytest
import torch

from recbole_msr.layers.scenario_axes import for_scenarios
from recbole_msr.registry import BUILT_IN_MODELS

BATCH_NORM = {"batch_norm": True}
CASES = [
    ("AITM", BATCH_NORM | {"towers_per": "scenario_task"}),
    ("AITM", {"towers_per": "task"}),
    ("APG", BATCH_NORM | {"towers_per": "scenario"}),
    ("AdaSparse", BATCH_NORM | {"towers_per": "scenario_task"}),
    ("AdaptDHM", BATCH_NORM),
    ("AutoIFS", BATCH_NORM),
    ("HAMUR", BATCH_NORM | {"adapters": 2, "towers_per": "scenario_task"}),
    ("HMoE", BATCH_NORM | {"gate_batch_norm": True, "relations": "scenario"}),
    ("HMoE", {"relations": "task"}),
    ("HMoE", {"relations": "scenario_task"}),
    ("HiNet", BATCH_NORM | {"tower_per_scenario": True, "scenario_layers": 2, "san_hidden_sizes": [4]}),
    ("HiNet", {"tower_per_scenario": False}),
    ("HiNet", BATCH_NORM | {"expert_sharing": "low_rank", "expert_rank": 2, "san_top_k": 1}),
    ("M2M", BATCH_NORM),
    ("M3oE", BATCH_NORM),
    ("MMoE", {"gates_per": "scenario", "towers_per": "task"}),
    ("MMoE", BATCH_NORM | {"gates_per": "scenario_task", "towers_per": "scenario_task", "gate_batch_norm": True}),
    ("OMoE", {"towers_per": "scenario"}),
    ("PEPNet", BATCH_NORM | {"towers_per": "scenario_task"}),
    ("PEPNet", {"towers_per": "scenario", "networks": "ppnet"}),
    ("PEPNet", {"networks": "epnet"}),
    ("PLE", BATCH_NORM | {"experts_per": "scenario_task", "levels": 2, "own_experts": 2, "gate_batch_norm": True}),
    ("PLE", {"experts_per": "scenario", "towers_per": "scenario_task"}),
    ("PLE", {"experts_per": "task"}),
    ("SARNet", BATCH_NORM | {"expert_input_norm": True, "own_experts": 2}),
    ("STAR", BATCH_NORM | {"specific_per": "scenario_task", "output_norm": "batch_norm"}),
    ("STAR", {"specific_per": "scenario"}),
    ("SharedBottom", BATCH_NORM | {"towers_per": "scenario_task"}),
    ("SharedBottom", {"towers_per": "scenario"}),
]
READS_OTHERS = ("HiNet", "HMoE", "M3oE")
"""Models in which a scenario's prediction depends on what belongs to the others."""


def test_every_model_is_tried():
    assert {name for name, _ in CASES} == {name for name in BUILT_IN_MODELS if name != "LLM4MSR"}


@pytest.fixture
def scored(make_model):
    """scored(names, model, settings, state) -> logits (M, B, C) of the same rows in every scenario, and the model."""

    def score(names, model, settings, state=None):
        bins = [18 + 5 * number for number in range(len(names) - 1)]
        scenario = {"field": "age", "bins": bins, "names": names}
        made, _ = make_model(3, model, scenario=scenario, min_scenario_rows=1, **settings)
        if state is None:
            torch.manual_seed(7)
            for value in made.state_dict().values():
                if value.is_floating_point():
                    value.copy_(torch.rand_like(value) + 0.1)  # no weight is as another, and variances are above 0
        else:
            own = {name: value for name, value in made.state_dict().items() if "features" in name or "shares" in name}
            made.load_state_dict(state | own)
        made.eval()
        x = torch.linspace(-1, 1, 5 * made.features.output_size).view(5, -1)
        with torch.no_grad():
            return torch.stack([made.logits(x, torch.full((5,), m)) for m in range(len(names))]), made

    return score


@pytest.mark.parametrize(("model", "settings"), CASES)
def test_scenarios_keep_their_own_weights_and_a_new_one_begins_as_another(model, settings, scored):
    with torch.no_grad():
        before, old = scored(["a", "b", "c"], model, settings)
        order = torch.eye(3)[[2, 0, 1]]
        moved, _ = scored(["c", "a", "b"], model, settings, for_scenarios(old, order))
        torch.testing.assert_close(moved, before[[2, 0, 1]])
        if model in READS_OTHERS or settings.get("levels") == 2:  # a shared gate is over all scenarios' experts
            return
        more, _ = scored(["b", "d", "a", "c"], model, settings, for_scenarios(old, torch.eye(3)[[1, 2, 0, 2]]))
        torch.testing.assert_close(more, before[[1, 2, 0, 2]])
        fewer, _ = scored(["c", "a"], model, settings, for_scenarios(old, torch.eye(3)[[2, 0]]))
        torch.testing.assert_close(fewer, before[[2, 0]])


def test_the_mean_of_hinets_scenarios(make_model):
    """Row by row: M scenario experts of K sub-experts stand before the shared one; the SAN has an output a scenario."""
    old, _ = make_model(3, "HiNet", sub_experts=2, tower_per_scenario=True)
    shares = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]])
    state, before = for_scenarios(old, shares), old.state_dict()
    name = "scenario_layers.0.experts.sub_experts.weights.0"
    was, now = before[name], state[name]
    assert len(now) == (4 + 1) * 2
    for k in range(2):
        for scenario in range(3):
            torch.testing.assert_close(now[2 * scenario + k], was[2 * scenario + k])
        torch.testing.assert_close(now[6 + k], (was[k] + was[2 + k] + was[4 + k]) / 3)
        torch.testing.assert_close(now[8 + k], was[6 + k])
    towers = "towers.weights.0"
    was, now = before[towers], state[towers]
    for task in range(2):
        torch.testing.assert_close(now[4 * task : 4 * task + 3], was[3 * task : 3 * task + 3])
        torch.testing.assert_close(now[4 * task + 3], was[3 * task : 3 * task + 3].mean(dim=0))
    last = [key for key in before if ".san.h." in key and key.endswith("bias")][-1]
    torch.testing.assert_close(state[last], torch.cat([before[last], before[last].mean().view(1)]))
    untouched = [key for key in before if before[key].shape == state[key].shape]
    assert "task_layers.0.experts.weights.0" in untouched
    assert all(torch.equal(before[key], state[key]) for key in untouched)


def test_the_mean_of_hmoes_relations(make_model):
    """a_k weighs the tasks of all scenarios: a scenario is a row and a column of W_a, for each task."""
    old, _ = make_model(3, "HMoE", relations="scenario_task")
    state, before = for_scenarios(old, torch.tensor([[0.0, 1, 0], [0.5, 0, 0.5]])), old.state_dict()
    was, now = (of["relation_weights.weights.0"] for of in (before, state))
    assert now.shape[:2] == (4, 4)
    mixed = {0: {1: 1.0}, 1: {0: 0.5, 2: 0.5}}
    for row in range(4):
        for column in range(4):
            expected = sum(
                a * b * was[row // 2 * 3 + i, column // 2 * 3 + j]
                for i, a in mixed[row % 2].items()
                for j, b in mixed[column % 2].items()
            )
            torch.testing.assert_close(now[row, column], expected)
