import copy
import pickle

import numpy as np
import pytest
import torch

from recbole_msr.errors import InputError

SMALL = {
    "embedding_size": 4,
    "sub_experts": 3,
    "expert_hidden_sizes": [8, 6],
    "scenario_embedding_size": 5,
    "task_expert_hidden_sizes": [7, 5],
    "tower_hidden_sizes": [4],
    "dropout": 0.0,
}
DEEP = {"scenario_layers": 2, "task_layers": 2, "san_hidden_sizes": [6], "tower_per_scenario": True}


@pytest.fixture
def hinet(make_model):
    return lambda scenarios=3, **settings: make_model(scenarios, "HiNet", **(SMALL | settings))


# The equations, for one row, with the weights of a state_dict.


def softmax(scores):
    weights = np.exp(scores - np.max(scores))
    return weights / weights.sum()


def linear(x, weights, biases, index):
    return weights[index] @ x + biases[index]


def bank(state, name, index, x, n_linear=0):
    """MLP number `index` of a bank; the last `n_linear` layers have no activation."""
    depth = sum(key.startswith(f"{name}.weights.") for key in state)
    for layer in range(depth):
        x = linear(x, state[f"{name}.weights.{layer}"], state[f"{name}.biases.{layer}"], index)
        if layer < depth - n_linear:
            x = np.maximum(x, 0)
    return x


def sei(state, name, expert, n_sub_experts, x):
    first = expert * n_sub_experts
    scores = state[f"{name}.gates.weight"] @ x + state[f"{name}.gates.bias"]
    g = softmax(scores[first : first + n_sub_experts])
    return sum(g[k] * bank(state, f"{name}.sub_experts", first + k, x) for k in range(n_sub_experts))


def san(state, name, i, n_scenarios, top_k=None):
    """{other scenario: weight}; with top_k of those with the greatest scores."""
    others = [m for m in range(n_scenarios) if m != i]
    if len(others) <= 1:
        return dict.fromkeys(others, 1.0)
    h = state["scenario_embedding"][i]
    layers = sorted({int(key.split(".")[-2]) for key in state if key.startswith(f"{name}.h.")})
    for layer in layers:
        h = state[f"{name}.h.{layer}.weight"] @ h + state[f"{name}.h.{layer}.bias"]
        if layer != layers[-1]:
            h = np.maximum(h, 0)
    others = sorted(others, key=lambda m: -h[m])[:top_k]
    return dict(zip(others, softmax(h[others]), strict=True))


def with_low_rank_weights(state, n_scenarios, k):
    """The state with every sub-expert's weights: those shared plus each one's product, and the shared expert's own."""
    for key in [key for key in state if ".own_out." in key]:
        weights = key.replace("own_out", "weights")
        own_in, shared = state[key.replace("own_out", "own_in")], state[weights]
        own = [shared[e % k] + state[key][e] @ own_in[e] for e in range(n_scenarios * k)]
        state[weights] = np.array([*own, *shared[k:]])
    return state


def slow_logits(model, x, i, top_k=None):
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    state = with_low_rank_weights(state, model.n_scenarios, SMALL["sub_experts"])
    n_scenarios, n_tasks, n_sub_experts = model.n_scenarios, model.n_tasks, SMALL["sub_experts"]
    c = x
    for layer in range(len(model.scenario_layers)):
        name = f"scenario_layers.{layer}"
        s = [sei(state, f"{name}.experts", m, n_sub_experts, c) for m in range(n_scenarios)]
        g = sei(state, f"{name}.experts", n_scenarios, n_sub_experts, c)
        if n_scenarios == 1:
            c = np.concatenate([g, s[i]])  # A_i = 0 is left out
        else:
            a_i = sum(a * s[m] for m, a in san(state, f"{name}.san", i, n_scenarios, top_k).items())
            c = np.concatenate([g, s[i], a_i])
    inputs, depth = [c] * (n_tasks + 1), len(model.task_layers)
    for level in range(depth):
        name, outputs = f"task_layers.{level}", []
        experts = [bank(state, f"{name}.experts", 2 * t + k, inputs[t]) for t in range(n_tasks) for k in range(2)]
        shared = [bank(state, f"{name}.experts", 2 * n_tasks + k, inputs[-1]) for k in range(2)]
        for t in range(n_tasks):
            w = softmax(bank(state, f"{name}.gates", t, inputs[t], n_linear=1))
            outputs.append(sum(w_e * e for w_e, e in zip(w, experts[2 * t : 2 * t + 2] + shared, strict=True)))
        if level < depth - 1:
            w = softmax(state[f"{name}.shared_gate.weight"] @ inputs[-1] + state[f"{name}.shared_gate.bias"])
            outputs.append(sum(w_e * e for w_e, e in zip(w, experts + shared, strict=True)))
        inputs = outputs
    towers = [t * n_scenarios + i if model.tower_per_scenario else t for t in range(n_tasks)]
    return [bank(state, "towers", tower, inputs[t], n_linear=1)[0] for t, tower in enumerate(towers)]


@pytest.mark.parametrize("scenarios", [1, 2, 3])
@pytest.mark.parametrize("settings", [{}, DEEP], ids=["default", "deep"])
def test_logits_equal_the_equations(hinet, scenarios, settings):
    model, rows = hinet(scenarios, **settings)
    rows = rows[torch.arange(40)]
    x, scenario = model.embed(rows), model.scenario_of(rows)
    assert scenario.unique().tolist() == list(range(scenarios))
    expected = [slow_logits(model, x[b].detach().double().numpy(), int(scenario[b])) for b in range(40)]
    np.testing.assert_allclose(model.logits(x, scenario).detach(), expected, rtol=1e-3, atol=1e-5)


MANY = {"scenario": {"field": "age", "bins": [22, 26, 30, 35, 42]}, "min_scenario_rows": 1}


@pytest.mark.parametrize("settings", [{}, DEEP], ids=["default", "deep"])
@pytest.mark.parametrize("sharing", ["none", "low_rank"])
def test_the_strongest_scenarios_alone_are_taken_from(hinet, settings, sharing):
    model, rows = hinet(3, san_top_k=2, expert_sharing=sharing, expert_rank=2, **MANY, **settings)
    torch.nn.init.normal_(model.scenario_embedding)
    rows = rows[torch.arange(60)]
    x, scenario = model.embed(rows), model.scenario_of(rows)
    assert scenario.unique().tolist() == list(range(6))
    expected = [slow_logits(model, x[b].detach().double().numpy(), int(scenario[b]), 2) for b in range(60)]
    np.testing.assert_allclose(model.logits(x, scenario).detach(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"activation": "silu"}, {"expert_sharing": "low_rank", "expert_rank": 3}])
def test_experts_of_the_rows_that_need_them_have_the_gradients_of_all(hinet, settings):
    """Beside the same model whose experts are all computed for every row, as a hook that waits for them asks for."""
    model, rows = hinet(3, san_top_k=2, **MANY, **settings)
    torch.nn.init.normal_(model.scenario_embedding)
    every = copy.deepcopy(model)
    seen = []
    every.scenario_layers[0].experts.register_forward_hook(lambda *call: seen.append(call[2].shape[0]))
    for each in (model, every):
        each.calculate_loss(rows).backward()
    assert seen == [7]
    for (name, parameter), other in zip(model.named_parameters(), every.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_an_expert_that_no_row_of_a_batch_needs_is_not_computed(hinet):
    model, rows = hinet(3, san_top_k=1, **MANY)
    model.calculate_loss(rows[rows["scenario"] == 2]).backward()
    by_expert = model.scenario_layers[0].experts.sub_experts.weights[0].grad.flatten(1).abs().sum(1).view(7, 3).sum(1)
    taken_from = model.scenario_layers[0].san.weights(model.scenario_embedding)[1].nonzero().flatten().tolist()
    assert by_expert.nonzero().flatten().tolist() == sorted([1, *taken_from, 6])


@pytest.mark.parametrize("k", [2, 5])
def test_the_full_model_takes_from_all_other_scenarios(hinet, k):
    full, rows = hinet(3, **MANY)
    model, _ = hinet(3, san_top_k=k, **MANY)
    model.load_state_dict(full.state_dict())
    is_equal = torch.equal(model.predict_tasks(rows), full.predict_tasks(rows))
    assert is_equal == (k == 5)


def test_experts_that_share_take_few_parameters(hinet):
    (own, _), (shared, _) = hinet(3, **MANY), hinet(3, expert_sharing="low_rank", expert_rank=2, **MANY)
    d, m, k = own.features.output_size, 6, 3
    count = [sum(p.numel() for p in model.parameters()) for model in (own, shared)]
    assert count[0] - count[1] == (m - 1) * k * (8 * d + 6 * 8) - m * k * 2 * (d + 8 + 8 + 6)


def test_several_members_at_once_take_from_the_strongest_scenarios(hinet):
    """Under `vmap` what is computed cannot depend on values: all experts are, and the others weigh nothing."""
    members = [hinet(3, san_top_k=2, **MANY)[0] for _ in range(2)]
    _, rows = hinet(3, **MANY)
    for parameter in members[1].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, scenario = members[0].embed(rows).detach(), members[0].scenario_of(rows)
    parameters, buffers = torch.func.stack_module_state(members)
    state = {name: value.detach() for name, value in (parameters | buffers).items()}

    def logits(state):
        names = {f"net.{name}": value for name, value in state.items()}
        return torch.func.functional_call(_Logits(members[0]), names, (x, scenario))

    for member, together in zip(members, torch.func.vmap(logits)(state), strict=True):
        torch.testing.assert_close(together, member.logits(x, scenario).detach(), rtol=1e-4, atol=1e-5)


class _Logits(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, scenario):
        return self.net.logits(x, scenario)


@pytest.mark.parametrize("scenarios", [1, 2, 3])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("settings", [{}, DEEP], ids=["default", "deep"])
def test_gradients_reach_every_parameter(hinet, scenarios, batch_norm, settings):
    """Bug 4: what forward makes by itself is never trained; and no parameter is there for nothing."""
    model, rows = hinet(scenarios, batch_norm=batch_norm, activation="tanh", **settings)
    torch.nn.init.normal_(model.features.table.weight)
    model.calculate_loss(rows).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        assert torch.isfinite(parameter.grad).all(), name


def test_all_that_a_prediction_depends_on_is_in_the_state(hinet):
    """Bug 4: gates or experts made inside forward would be missing from a checkpoint."""
    model, rows = hinet()
    twin, _ = hinet()
    for parameter in twin.parameters():
        torch.nn.init.normal_(parameter)
    assert not torch.allclose(twin.predict_tasks(rows), model.predict_tasks(rows))
    twin.load_state_dict(model.state_dict())
    torch.manual_seed(5)
    first = twin.predict_tasks(rows)
    torch.testing.assert_close(first, model.predict_tasks(rows), rtol=0, atol=0)


def test_the_number_of_parameters_is_that_of_the_equations(hinet):
    model, _ = hinet()
    d, m, t, k = model.features.output_size, 3, 2, 3
    sub_expert = (d * 8 + 8) + (8 * 6 + 6)
    experts = (m + 1) * (k * sub_expert + d * k + k)
    attention = m * 5 + 5 * m + m
    c = 3 * 6
    task_expert = (c * 7 + 7) + (7 * 5 + 5)
    cgc = (2 * t + 2) * task_expert + t * (c * 4 + 4)
    towers = t * ((5 * 4 + 4) + (4 + 1))
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("features"))
    assert count == experts + attention + cgc + towers


def test_a_tower_is_trained_by_its_own_scenario_only(hinet):
    """Bug 5: a row of scenario i is no negative example for the towers of the others."""
    model, rows = hinet(tower_per_scenario=True, activation="tanh")  # no dead ReLU that would hide a gradient
    model.calculate_loss(rows[rows["scenario"] == 2]).backward()
    for parameter in model.towers.parameters():
        by_tower = parameter.grad.unflatten(0, (2, 3)).flatten(2).abs().sum(-1)  # (T, M)
        assert (by_tower[:, 1] > 0).all()
        assert not by_tower[:, [0, 2]].any()


def test_a_row_of_one_scenario_trains_the_experts_of_all(hinet):
    model, rows = hinet(activation="tanh")
    model.calculate_loss(rows[rows["scenario"] == 2]).backward()
    gradient = model.scenario_layers[0].experts.sub_experts.weights[0].grad
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_the_scenario_enters_through_the_attention_and_the_choice_of_expert_only(hinet):
    """x holds no scenario: the same rows under another scenario have the same x, but another prediction."""
    model, rows = hinet(activation="tanh")
    model.double()
    torch.nn.init.normal_(model.features.table.weight)
    moved = copy.deepcopy(rows)
    moved["scenario"][:] = 1 + rows["scenario"] % 3
    torch.testing.assert_close(model.embed(moved), model.embed(rows), rtol=0, atol=0)
    x, scenario = model.embed(rows), model.scenario_of(rows)
    assert not torch.isclose(model.logits(x, model.scenario_of(moved)), model.logits(x, scenario), rtol=1e-9).any()


def test_the_whole_loss_is_the_cross_entropy_of_the_tasks(hinet):
    """Bug 7: there is no regulariser beside it that an optimiser would have to be told of."""
    model, rows = hinet()
    logits = model.logits(model.embed(rows), model.scenario_of(rows)).double()
    labels = model.labels_of(rows).double()
    by_row = torch.log1p(torch.exp(logits)) - labels * logits
    torch.testing.assert_close(model.calculate_loss(rows).double(), by_row.mean(0).sum(), rtol=1e-5, atol=0)


def test_every_batch_norm_learns_statistics(hinet):
    """Bug 7."""
    model, rows = hinet(batch_norm=True)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert len(norms) == 2 + 2 + 1
    model.calculate_loss(rows)
    assert all(norm.running_mean.any() and norm.num_batches_tracked == 1 for norm in norms)
    mean = norms[0].running_mean.clone()
    model.eval().predict(rows)
    torch.testing.assert_close(norms[0].running_mean, mean, rtol=0, atol=0)


def test_dropout_is_off_in_evaluation(hinet):
    model, rows = hinet(dropout=0.5)
    assert not torch.equal(model.predict(rows), model.predict(rows))
    model.eval()
    assert torch.equal(model.predict(rows), model.predict(rows))


@pytest.mark.parametrize("settings", [{}, DEEP | {"batch_norm": True}], ids=["default", "deep"])
def test_a_single_row_trains_and_is_predicted(hinet, settings):
    model, rows = hinet(**settings)
    one = rows[torch.tensor([4])]
    assert torch.isfinite(model.calculate_loss(one))
    model.eval()
    torch.testing.assert_close(model.predict(one), model.predict(rows)[4:5])


def test_half_precision_trains_and_predicts_in_single_precision_probabilities(hinet):
    model, rows = hinet()
    rows["scenario"][:5] = 0
    exact = model.predict_tasks(rows)
    with torch.autocast("cpu", torch.bfloat16):
        model.calculate_loss(rows).backward()
        rough = model.predict_tasks(rows)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("scenarios", [1, 2, 3])
def test_a_row_of_an_unknown_scenario_is_predicted(hinet, scenarios):
    model, rows = hinet(scenarios, tower_per_scenario=True)
    each = []
    for m in range(scenarios):
        rows["scenario"][:] = m + 1
        each.append(model.scenario_shares[m] * model.predict_tasks(rows))
    rows["scenario"][:] = 0
    torch.testing.assert_close(model.predict_tasks(rows), sum(each))


def test_a_model_is_copied_and_pickled_whole(hinet):
    model, rows = hinet(**DEEP)
    model.calculate_loss(rows).backward()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin.predict_tasks(rows), model.predict_tasks(rows), rtol=0, atol=0)


def test_recbole_can_count_its_operations(hinet, make_dataset):
    from logging import getLogger

    from recbole.utils import get_flops

    model, _ = hinet()
    _, train = make_dataset()
    before = model.state_dict().keys()
    assert get_flops(model, train, model.device, getLogger(), lambda _, rows: rows) > 0
    assert model.state_dict().keys() == before


def test_a_few_steps_learn(hinet):
    model, rows = hinet()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.calculate_loss(rows)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sub_experts", 0, "'sub_experts' must be an integer >= 1, got 0"),
        ("task_shared_experts", -1, "'task_shared_experts' must be an integer >= 0, got -1"),
        ("expert_hidden_sizes", [], "'expert_hidden_sizes' must be a non-empty list of integers >= 1"),
        ("dropout", 1.0, "'dropout' must be a number >= 0 and < 1, got 1.0"),
        ("batch_norm", "yes", "'batch_norm' must be true or false, got 'yes'"),
        ("activation", "rleu", "did you mean 'relu'?"),
        ("san_top_k", 3, "'san_top_k' must be at most 2, the number of other scenarios, got 3"),
        ("san_top_k", 0, "'san_top_k' must be an integer >= 1, got 0"),
        ("expert_sharing", "lowrank", "did you mean 'low_rank'?"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(hinet, key, value, message):
    with pytest.raises(InputError) as error:
        hinet(**{key: value})
    assert message in str(error.value)
