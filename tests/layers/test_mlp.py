import pytest
import torch

from recbole_msr.layers.mlp import MLP, BatchNorm, MLPBank

SHAPES = [([8, 4], None), ([8], 3), ([], 2)]


def mlp_of(bank, index):
    """The bank's MLP number `index`, layer by layer with plain formulas (no dropout, eval-mode norms)."""

    def run(x):
        for depth, (weight, bias) in enumerate(zip(bank.weights, bank.biases, strict=True)):
            x = x @ weight[index].T + bias[index]
            if depth < bank.n_hidden:
                if len(bank.norms):
                    norm, size = bank.norms[depth], weight.shape[1]
                    at = slice(index * size, (index + 1) * size)
                    x = (x - norm.running_mean[at]) / (norm.running_var[at] + norm.eps).sqrt()
                    x = x * norm.weight[at] + norm.bias[at]
                x = x.clamp(min=0)
        return x

    return run


@pytest.mark.parametrize(("hidden", "output"), SHAPES)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("own_input", [False, True])
def test_a_bank_is_that_many_separate_mlps(hidden, output, batch_norm, own_input):
    bank = MLPBank(3, 5, hidden, batch_norm=batch_norm, output_size=output)
    for norm in bank.norms:
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 7, 5) if own_input else torch.randn(7, 5)
    outputs = bank.eval()(x)
    assert outputs.shape == (3, 7, bank.output_size)
    for index in range(3):
        torch.testing.assert_close(outputs[index], mlp_of(bank, index)(x[index] if own_input else x))


@pytest.mark.parametrize(("hidden", "output"), [*SHAPES, ([8, 6], 1), ([], 20), ([8], 20)])
def test_some_of_a_bank_stand_side_by_side(hidden, output):
    bank, x = MLPBank(5, 4, hidden, output_size=output).eval(), torch.randn(7, 4)
    for bias in bank.biases:
        torch.nn.init.normal_(bias)
    expected = torch.cat([mlp_of(bank, index)(x) for index in (1, 3)], dim=1)
    torch.testing.assert_close(bank.some(x, range(1, 5, 2)), expected)


@pytest.mark.parametrize("own_input", [False, True])
def test_both_ways_of_computing_a_bank_give_the_same_values_and_gradients(own_input):
    bank = MLPBank(3, 5, [8, 4], output_size=2)
    x = torch.randn(3, 7, 5) if own_input else torch.randn(7, 5)
    results = []
    for way in (bank._one_by_one, bank._batched):
        rows = x.clone().requires_grad_()
        output = way(rows)
        results.append([output, *torch.autograd.grad(output.square().sum(), [rows, *bank.parameters()])])
    for one_by_one, batched in zip(*results, strict=True):
        torch.testing.assert_close(one_by_one, batched)


def test_an_mlp_and_a_bank_start_alike_and_keep_the_size_of_activations():
    torch.manual_seed(0)
    mlp, bank, x = MLP(100, [200] * 6), MLPBank(2, 100, [200] * 6), torch.randn(400, 100)
    for output in (mlp(x), *bank(x)):
        assert 0.5 < output.square().mean() < 2
    for weight in (mlp[0].weight, *bank.weights[0]):
        assert weight.square().mean().item() == pytest.approx(2 / 100, rel=0.05)
    assert not torch.equal(*bank.weights[0])


def test_mlp_layers_come_in_the_order_linear_norm_activation_dropout():
    mlp = MLP(5, [8, 4], "gelu", dropout=0.1, batch_norm=True, output_size=1)
    names = [type(layer).__name__ for layer in mlp]
    assert names == ["Linear", "BatchNorm", "GELU", "Dropout"] * 2 + ["Linear"]
    assert (mlp.output_size, MLP(5, []).output_size) == (1, 5)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_dropout_acts_in_training_only(batch_norm):
    bank, x = MLPBank(4, 5, [64], dropout=0.5, batch_norm=batch_norm), torch.randn(50, 5)
    whole = bank.eval()(x)
    torch.testing.assert_close(bank(x), whole, rtol=0, atol=0)
    assert bank.train()(x).eq(0).float().mean() > whole.eq(0).float().mean() + 0.15


def test_batch_norm_learns_statistics_and_uses_them():
    """Bug 7 of public implementations."""
    bank = MLPBank(2, 5, [8, 4], batch_norm=True)
    x = 3 + 2 * torch.randn(500, 5)
    before = bank.eval()(x)
    bank.train()
    for _ in range(100):
        bank(x)
    torch.testing.assert_close(bank.eval()(x), bank.train()(x), rtol=0.05, atol=0.05)
    first_layer = torch.einsum("ehd,bd->beh", bank.weights[0], x) + bank.biases[0]
    torch.testing.assert_close(bank.norms[0].running_mean, first_layer.mean(0).flatten(), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(bank.eval()(x), before, atol=0.1)


def test_batch_norm_takes_a_training_batch_of_one_row():
    norm = BatchNorm(3)
    norm(torch.randn(50, 3) + 2)
    mean, row = norm.running_mean.clone(), torch.randn(1, 3)
    torch.testing.assert_close(norm(row), norm.eval()(row))
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=0)


def test_a_bank_without_a_layer_is_refused():
    with pytest.raises(ValueError, match="needs a layer"):
        MLPBank(2, 5, [])
