"""A sub-network of `benchmarks.supernet_model` against the largest HiNet with all else masked; tables of records."""

import numpy as np
import pytest
import torch

from benchmarks import supernet, supernet_model
from recbole_msr.models.hinet import HiNet

FULL = {"scenario_layers": 2, "sub_experts": 3, "task_layers": 2, "task_own_experts": 2, "task_shared_experts": 2}
SIZES = {"expert_hidden_sizes": [8, 6], "task_expert_hidden_sizes": [7, 5], "tower_hidden_sizes": [4]}
SMALL = {"sub_experts": 2, "task_own_experts": 1, "task_shared_experts": 1}
SMALL_SIZES = {"expert_hidden_sizes": [5, 4], "task_expert_hidden_sizes": [3, 2], "tower_hidden_sizes": [2]}
OFF = -1e9
"""A gate's bias that leaves an expert out."""


@pytest.fixture
def net(make_dataset):
    def make(**settings):
        config, train = make_dataset(3, "HiNet", **(FULL | SIZES | settings), embedding_size=4)
        torch.manual_seed(1)
        rows = train[torch.arange(len(train))]
        made = supernet_model.Supernet(config, train, np.random.default_rng(0)).eval()
        for parameter in made.parameters():  # biases too, which begin as zeros
            torch.nn.init.normal_(parameter, std=0.3)
        return made, rows

    return make


def logits(net, structure, rows):
    with torch.no_grad(), net.using(structure):
        return net.logits(net.embed(rows), net.scenario_of(rows)).numpy()


def mask(net):
    """Leave all out of the largest network that SMALL has not: no weight goes out of a unit, no gate to an expert."""
    n_tasks, n_scenarios = net.n_tasks, net.n_scenarios
    with torch.no_grad():
        for layer in net.scenario_layers:
            layer.experts.sub_experts.weights[1][:, :, 5:] = 0
            for expert in range(n_scenarios + 1):
                layer.experts.gates.bias[expert * 3 + 2] = OFF
        for reader in (net.scenario_layers[1].experts.sub_experts.weights[0], net.task_layers[0].experts.weights[0]):
            for part in range(3):
                reader[..., part * 6 + 4 : part * 6 + 6] = 0
        for gate in (
            net.scenario_layers[1].experts.gates.weight,
            net.task_layers[0].gates.weights[0],
            net.task_layers[0].shared_gate.weight,
        ):
            for part in range(3):
                gate[..., part * 6 + 4 : part * 6 + 6] = 0
        for layer in net.task_layers:
            layer.experts.weights[1][:, :, 3:] = 0
            layer.gates.biases[0][:, [1, 3]] = OFF
        net.task_layers[0].shared_gate.bias[[*range(1, n_tasks * 2, 2), n_tasks * 2 + 1]] = OFF
        net.task_layers[1].experts.weights[0][:, :, 2:] = 0
        net.task_layers[1].gates.weights[0][:, :, 2:] = 0
        net.towers.weights[0][:, :, 2:] = 0
        net.towers.weights[1][:, :, 2:] = 0


def test_a_sub_network_computes_what_the_largest_does_with_all_else_masked(net):
    large, rows = net()
    cut = logits(large, large.structure(SMALL | SMALL_SIZES), rows)
    assert not np.allclose(cut, logits(large, None, rows), atol=1e-3)
    mask(large)
    np.testing.assert_allclose(cut, logits(large, None, rows), atol=1e-5)


def test_a_structure_of_the_largest_sizes_is_the_largest(net):
    large, rows = net()
    np.testing.assert_allclose(logits(large, large.structure({}), rows), logits(large, None, rows), atol=1e-6)


def test_a_shallow_sub_network_is_the_hinet_of_its_first_layers_and_the_last_of_the_tower(net, make_dataset):
    shallow = FULL | {"scenario_layers": 1, "task_layers": 1}
    shallow |= {"expert_hidden_sizes": [8], "task_expert_hidden_sizes": [7], "tower_hidden_sizes": [4]}
    large, rows = net(expert_hidden_sizes=[8, 8], task_expert_hidden_sizes=[7, 7], tower_hidden_sizes=[4, 4])
    config, train = make_dataset(3, "HiNet", **shallow, embedding_size=4)
    alone = HiNet(config, train).eval()
    state = large.state_dict()
    state["towers.weights.1"], state["towers.biases.1"] = state["towers.weights.2"], state["towers.biases.2"]
    alone.load_state_dict({name: state[name] for name in alone.state_dict()})
    with torch.no_grad():
        wanted = alone.logits(alone.embed(rows), alone.scenario_of(rows)).numpy()
    np.testing.assert_allclose(logits(large, large.structure(shallow), rows), wanted, atol=1e-6)


def test_the_loss_trains_every_weight_of_the_largest(net, monkeypatch):
    monkeypatch.setattr(supernet_model, "LARGEST", FULL | SIZES)
    monkeypatch.setattr(supernet_model, "SMALLEST", {**supernet_model.SMALLEST, **{key: [2] for key in SIZES}})
    monkeypatch.setattr(supernet_model, "WIDTHS", (2, 3))
    large, rows = net()
    large.train().calculate_loss(rows).backward()
    assert all(parameter.grad is not None for parameter in large.parameters())


# Tables.

FINALS = [0.50, 0.61, 0.55, 0.72, 0.58, 0.66, 0.53, 0.59, 0.60, 0.51, 0.52, 0.54]


def records(sign):
    """Two seeds that agree, ten seconds a structure in two epochs; a supernet of 24 s that says so, or the opposite."""
    base = {"dataset": "d", "rows": 9, "valid_rows": 5}
    for seed in (1, 2):
        for number, value in enumerate(FINALS):
            epochs = [{"value": value / 2, "seconds": 4.0}, {"value": value + seed / 1000, "seconds": 10.0}]
            yield {**base, "kind": "alone", "number": number, "seed": seed, "epochs": epochs, "parameters": number}
    values = [sign * value for value in FINALS]
    yield {
        **base,
        **{"kind": "sandwich", "number": -1, "seed": 1},
        "epochs": [
            {"value": 0.6, "values": values, "seconds": 12.0},
            {"value": 0.5, "values": values, "seconds": 24.0},
        ],
    }


@pytest.mark.parametrize(
    ("sign", "said"), [(1, "1.00 | 1.00 | 1.00 to 1.00 | 3.0"), (-1, "-1.00 | -1.00 | -1.00 to -1.00")]
)
def test_a_supernet_has_its_rank_correlation_and_its_cost(sign, said):
    lines = list(supernet.table(list(records(sign))))
    (line,) = [line for line in lines if line.startswith("| sandwich, in full |")]
    assert said in line
    assert line.endswith("| 0.20 |")  # 24 of 12 x 10 seconds
    assert any(line.startswith("| another seed | 1.00 | 1.00") for line in lines)
