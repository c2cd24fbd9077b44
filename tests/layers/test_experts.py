import numpy as np
import pytest
import torch

from recbole_msr.layers.experts import ScenarioAwareAttention, ScenarioExtraction, SubExpertIntegration


def softmax(scores):
    weights = np.exp(np.array(scores))
    return weights / weights.sum()


def set_gate(linear, scores):
    torch.nn.init.zeros_(linear.weight)
    linear.bias.data = torch.tensor(scores)


def extraction(n_scenarios, rows=6, activation="relu"):
    layer = ScenarioExtraction(n_scenarios, 5, 2, [8, 4], 3, san_hidden_sizes=[6], activation=activation)
    x, scenario = torch.randn(rows, 5), torch.arange(rows) % n_scenarios
    return layer, x, scenario, torch.randn(n_scenarios, 3)


def test_an_expert_is_the_gated_sum_of_its_sub_experts():
    sei, x = SubExpertIntegration(3, 2, 5, [8, 4]), torch.randn(7, 5)
    q = sei.sub_experts(x).detach().numpy()
    scores = (x @ sei.gates.weight.T + sei.gates.bias).detach().numpy()
    outputs = sei(x).detach().numpy()
    for expert in range(3):
        for row in range(7):
            first = 2 * expert
            g = softmax(scores[row, first : first + 2])
            expected = g[0] * q[first, row] + g[1] * q[first + 1, row]
            np.testing.assert_allclose(outputs[expert, row], expected, rtol=1e-5, atol=1e-6)


def test_a_sub_expert_gate_tells_negative_scores_apart():
    """Bug 1: a ReLU before the softmax makes all negative scores equal, without a gradient."""
    sei = SubExpertIntegration(1, 3, 5, [4])
    set_gate(sei.gates, [-1.0, -2.0, -3.0])
    g = sei.gate(torch.randn(2, 5))
    np.testing.assert_allclose(g[0, :, 0].detach(), softmax([-1, -2, -3]), rtol=1e-6)
    (g[0, 0].sum()).backward()
    assert sei.gates.bias.grad.abs().min() > 0


def test_attention_tells_negative_scores_apart():
    """Bug 1, in the attentive network."""
    san = ScenarioAwareAttention(4, 3, [])
    set_gate(san.h[0], [-1.0, -2.0, -3.0, -4.0])
    np.testing.assert_allclose(san.weights(torch.randn(4, 3))[0].detach()[1:], softmax([-2, -3, -4]), rtol=1e-6)


@pytest.mark.parametrize("n_scenarios", [2, 3, 6])
def test_attention_weights_are_a_softmax_over_the_other_scenarios(n_scenarios):
    """Bug 2: a softmax over all M, masked afterwards, does not sum to 1."""
    san, e = ScenarioAwareAttention(n_scenarios, 3, [6]), torch.randn(n_scenarios, 3)
    weights = san.weights(e).detach().numpy()
    np.testing.assert_array_equal(np.diag(weights), 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    if n_scenarios > 2:
        scores = san.h(e).detach().numpy()
        for i in range(n_scenarios):
            others = [m for m in range(n_scenarios) if m != i]
            np.testing.assert_allclose(weights[i, others], softmax(scores[i, others]), rtol=1e-5)


def test_what_all_other_scenarios_agree_on_comes_through_the_attention_whole():
    """Bug 2, seen from outside: if every S_m is v, A_i is v."""
    san, v = ScenarioAwareAttention(5, 3, []), torch.randn(7, 4)
    a_i = san(v.expand(5, 7, 4), torch.arange(7) % 5, torch.randn(5, 3))
    torch.testing.assert_close(a_i, v)


def test_a_layer_concatenates_the_shared_the_own_and_the_attended_experts():
    layer, x, scenario, e = extraction(3)
    experts, a = layer.experts(x), layer.san.weights(e)
    c = layer(x, scenario, e)
    assert c.shape == (6, layer.output_size) == (6, 12)
    for row, i in enumerate(scenario.tolist()):
        g, s_i = experts[3, row], experts[i, row]
        a_i = sum(a[i, m] * experts[m, row] for m in range(3) if m != i)
        torch.testing.assert_close(c[row], torch.cat([g, s_i, a_i]))


def test_attention_depends_on_the_scenario_alone():
    """Bug 6: solved for from the outputs, the weights are the same for every x of a scenario."""
    layer, x, scenario, e = extraction(3, rows=30, activation="tanh")  # ReLU may leave experts all zero, in a row
    s = layer.experts(x)[:3].double()
    a_i = layer(x, scenario, e)[:, -4:].double()
    solved = torch.linalg.lstsq(s.permute(1, 2, 0), a_i.unsqueeze(-1)).solution.squeeze(-1).detach().numpy()
    for i in range(3):
        np.testing.assert_allclose(solved[scenario == i], solved[i : i + 1].repeat(10, axis=0), atol=1e-3)


def test_two_scenarios_attend_fully_to_each_other():
    layer, x, scenario, _ = extraction(2)
    experts, c = layer.experts(x), layer(x, scenario, None)
    torch.testing.assert_close(layer.san.weights(None), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), rtol=0, atol=0)
    for row, i in enumerate(scenario.tolist()):
        torch.testing.assert_close(c[row, -4:], experts[1 - i, row])
    assert not list(layer.san.parameters())


def test_a_single_scenario_has_nothing_to_attend_to():
    layer, x, scenario, _ = extraction(1)
    experts, c = layer.experts(x), layer(x, scenario, None)
    torch.testing.assert_close(c, torch.cat([experts[1], experts[0]], dim=1))
    torch.testing.assert_close(layer.san.weights(None), torch.zeros(1, 1))
    torch.testing.assert_close(layer.san(experts[:1], scenario, None), torch.zeros(6, 4))
    assert not list(layer.san.parameters())


def test_a_row_also_trains_the_other_scenarios_experts():
    layer, x, _, e = extraction(3)
    layer(x, torch.zeros(6, dtype=torch.long), e).square().sum().backward()
    per_sub_expert = layer.experts.sub_experts.weights[0].grad.abs().sum(dim=(1, 2))
    assert (per_sub_expert > 0).all()
