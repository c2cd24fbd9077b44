import numpy as np
import pytest
import torch

from recbole_msr.layers.cgc import CGC


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def mlp(cgc, expert, row):
    for weight, bias in zip(cgc.experts.weights, cgc.experts.biases, strict=True):
        row = np.maximum(weight[expert].detach().numpy() @ row + bias[expert].detach().numpy(), 0)
    return row


def slow(cgc, x):
    """z of one row after another; x (T + 1, B, D)."""
    n_tasks, n_own, n_shared = cgc.n_tasks, cgc.n_own, cgc.n_shared
    result = np.zeros((n_tasks + cgc.passes_shared, x.shape[1], cgc.output_size))
    for b in range(x.shape[1]):
        own = {(t, k): mlp(cgc, t * n_own + k, x[t, b]) for t in range(n_tasks) for k in range(n_own)}
        shared = [mlp(cgc, n_tasks * n_own + k, x[-1, b]) for k in range(n_shared)]
        for t in range(n_tasks):
            experts = [own[t, k] for k in range(n_own)] + shared
            gate_weight, gate_bias = (
                cgc.gates.weights[0][t].detach().numpy(),
                cgc.gates.biases[0][t].detach().numpy(),
            )
            w = softmax(gate_weight @ x[t, b] + gate_bias)
            result[t, b] = sum(w_e * e for w_e, e in zip(w, experts, strict=True))
        if cgc.passes_shared:
            w = softmax(cgc.shared_gate.weight.detach().numpy() @ x[-1, b] + cgc.shared_gate.bias.detach().numpy())
            result[-1, b] = sum(w_e * e for w_e, e in zip(w, [*own.values(), *shared], strict=True))
    return result


@pytest.mark.parametrize(("n_tasks", "n_own", "n_shared"), [(2, 2, 2), (3, 1, 2), (1, 2, 0), (2, 0, 3)])
@pytest.mark.parametrize("passes_shared", [False, True])
def test_cgc_equals_the_equations_row_by_row(n_tasks, n_own, n_shared, passes_shared):
    cgc = CGC(n_tasks, 5, n_own, n_shared, [8, 4], passes_shared=passes_shared)
    separate, same = torch.randn(n_tasks + 1, 6, 5), torch.randn(6, 5)
    np.testing.assert_allclose(cgc(separate).detach(), slow(cgc, separate.numpy()), rtol=1e-4, atol=1e-5)
    repeated = same.expand(n_tasks + 1, 6, 5).numpy()
    np.testing.assert_allclose(cgc(same).detach(), slow(cgc, repeated), rtol=1e-4, atol=1e-5)


def test_a_gate_weighs_its_experts():
    """Bug 3: a softmax over an axis of size 1 gives every expert the weight 1, whatever the gate says."""
    cgc, x = CGC(2, 5, 2, 2, [4]), torch.randn(6, 5)
    w = cgc.gate(x)
    assert w.shape == (2, 4, 6)
    torch.testing.assert_close(w.sum(dim=1), torch.ones(2, 6))
    for chosen in range(4):
        torch.nn.init.zeros_(cgc.gates.biases[0])
        cgc.gates.biases[0].data[:, chosen] = 1000.0
        experts, z = cgc.experts(x), cgc(x)
        for t in range(2):
            expert = experts[2 * t + chosen] if chosen < 2 else experts[4 + chosen - 2]
            torch.testing.assert_close(z[t], expert)


def test_a_gate_tells_negative_scores_apart():
    """Bug 1: a ReLU before the softmax makes all negative scores equal, without a gradient."""
    cgc = CGC(2, 5, 1, 2, [4])
    torch.nn.init.zeros_(cgc.gates.weights[0])
    cgc.gates.biases[0].data[:] = torch.tensor([-1.0, -2.0, -3.0])
    np.testing.assert_allclose(
        cgc.gate(torch.randn(1, 5))[0, :, 0].detach(), softmax(np.array([-1, -2, -3])), rtol=1e-5
    )


def test_layers_stack_and_train_to_the_last_parameter():
    first = CGC(2, 5, 2, 1, [8], passes_shared=True)
    last = CGC(2, first.output_size, 2, 1, [4])
    last(first(torch.randn(50, 5))).square().sum().backward()
    for layer in (first, last):
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_a_single_expert_needs_no_gate():
    cgc, x = CGC(2, 5, 1, 0, [4], passes_shared=True), torch.randn(6, 5)
    torch.testing.assert_close(cgc(x)[:2], cgc.experts(x))
    assert cgc.gates is None
    assert cgc.shared_gate is not None
    alone = CGC(1, 5, 0, 1, [4], passes_shared=True)
    torch.testing.assert_close(alone(x), alone.experts(x).expand(2, 6, 4))


def test_no_expert_is_refused():
    with pytest.raises(ValueError, match="at least one expert"):
        CGC(2, 5, 0, 0, [4])
