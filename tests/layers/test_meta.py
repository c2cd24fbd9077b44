import numpy as np
import pytest
import torch

from recbole_msr.layers.meta import META_WEIGHTS, MetaLayers

D, K, R = 5, 4, 3
ACTIVATION = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}


def made(weights="core", n_layers=2, hidden=(6,), activation="tanh", **more):
    torch.manual_seed(3)
    layers = MetaLayers(D, K, list(hidden), n_layers, weights, R, activation, **more).double()
    if not more.get("begins_as_zero"):
        torch.nn.init.normal_(layers.generator.bias, std=0.5)
    return layers


def slow(layers, x, h, weights, activation="tanh"):
    """f(x; MetaNet(h)) of one row, number by number as the equations have it."""
    state = {name: value.numpy() for name, value in layers.state_dict().items()}
    z = h
    if "network.0.weight" in state:
        z = ACTIVATION[activation](state["network.0.weight"] @ h + state["network.0.bias"])
    theta = list(state["generator.weight"] @ z + state["generator.bias"])

    def take(rows, columns):
        taken = np.array([[theta.pop(0) for _ in range(columns)] for _ in range(rows)])
        return taken

    for layer in range(layers.n_layers):
        if weights == "full":
            w = take(D, D)
        elif weights == "low_rank":
            a, b = take(D, R), take(R, D)
            w = a @ b
        else:
            w = state[f"before.{layer}"] @ take(R, R) @ state[f"after.{layer}"]
        bias = take(1, D)[0]
        if layer:
            x = ACTIVATION[activation](x)
        x = np.array([sum(x[i] * w[i, j] for i in range(D)) + bias[j] for j in range(D)])
    assert not theta
    return x


@pytest.mark.parametrize("weights", META_WEIGHTS)
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("hidden", [(6,), ()], ids=["mlp", "linear"])
def test_every_row_goes_through_the_layers_its_vector_makes(weights, n_layers, hidden):
    layers = made(weights, n_layers, hidden)
    x, h = torch.randn(7, D, dtype=torch.double), torch.randn(7, K, dtype=torch.double)
    found = layers(x, layers.generate(h)).detach().numpy()
    for row in range(7):
        np.testing.assert_allclose(found[row], slow(layers, x[row].numpy(), h[row].numpy(), weights), rtol=1e-9)


@pytest.mark.parametrize("weights", META_WEIGHTS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_one_set_of_weights_a_group_gives_what_a_set_a_row_gives(weights, n_layers):
    layers, head = made(weights, n_layers), torch.nn.Linear(D, 2).double()
    x, h = torch.randn(9, D, dtype=torch.double), torch.randn(4, K, dtype=torch.double)
    group = torch.tensor([3, 0, 0, 2, 3, 3, 0, 2, 0])  # and none of group 1
    theta = layers.generate(h)
    by_row = layers(x, theta[group])
    torch.testing.assert_close(layers(x, theta, group), by_row)
    torch.testing.assert_close(layers.head(x, theta, group, head), head(by_row))
    gradients = [
        torch.autograd.grad(out.square().sum(), list(layers.parameters()), retain_graph=True)
        for out in (head(by_row), layers.head(x, theta, group, head))
    ]
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("weights", META_WEIGHTS)
def test_layers_of_more_than_a_few_numbers_are_multiplied_alike(weights):
    layers = MetaLayers(20, K, [6], 1, weights, rank=9).double()
    x, h = torch.randn(3, 20, dtype=torch.double), torch.randn(3, K, dtype=torch.double)
    theta = layers.generate(h)
    torch.testing.assert_close(layers(x, theta), layers(x, theta, torch.arange(3)))


def test_the_number_of_generated_weights():
    numbers = {weights: made(weights).n_weights for weights in META_WEIGHTS}
    assert numbers == {"full": 2 * (D * D + D), "low_rank": 2 * (2 * D * R + D), "core": 2 * (R * R + D)}


@pytest.mark.parametrize("weights", META_WEIGHTS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_layers_that_begin_as_zero_learn_from_the_first_step_on(weights, n_layers):
    """Two factors that are both zero would have no gradient, ever."""
    layers = made(weights, n_layers, begins_as_zero=True)
    x, h = torch.randn(50, D, dtype=torch.double), torch.randn(50, K, dtype=torch.double)
    target = torch.randn(50, D, dtype=torch.double)
    assert not layers(x, layers.generate(h)).any()
    optimiser = torch.optim.SGD(layers.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (layers(x, layers.generate(h)) - target).square().sum(1).mean().backward()
        size = D if weights == "low_rank" else R
        assert layers.generator.weight.grad[-D:].any(), "b"
        assert layers.generator.weight.grad[-D - size : -D].any(), "the last factor"
        optimiser.step()
    for name, parameter in layers.named_parameters():
        assert parameter.grad.any(), name


@pytest.mark.parametrize("weights", META_WEIGHTS)
def test_generated_weights_begin_with_the_variance_of_a_fresh_layer(weights):
    torch.manual_seed(0)
    layers = MetaLayers(64, 32, [128], 1, weights, rank=16)
    ((factors, bias),) = layers.layers(layers.generate(torch.randn(200, 32)))
    assert not bias.any()
    for factor in factors:
        assert factor.var().item() == pytest.approx(1 / factor.shape[-2], rel=0.25)
    if weights != "core":
        own = (factors[0] - factors[0].mean(0)).var().item()
        assert 0.1 < own * 64 < 0.7, "about half of it differs from vector to vector"


def test_dropout_and_activation_are_used():
    layers = made(dropout=0.5)
    x, h = torch.randn(20, D, dtype=torch.double), torch.randn(20, K, dtype=torch.double)
    assert not torch.equal(layers.generate(h), layers.generate(h))
    layers.eval()
    theta = layers.generate(h)
    assert torch.equal(theta, layers.generate(h))
    assert torch.equal(layers(x, theta), layers(x, theta))
    other = made(dropout=0.5, activation="relu").eval()
    assert not torch.allclose(other(x, theta), layers(x, theta))
    layers.train()
    assert not torch.equal(layers(x, theta), layers(x, theta))


def test_half_precision():
    layers = MetaLayers(16, K, [8], 2, "low_rank", 4)
    x, h = torch.randn(6, 16), torch.randn(6, K)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layers(x, layers.generate(h))
        layers(x, layers.generate(h), torch.arange(6)).sum().backward()
    torch.testing.assert_close(rough.float(), layers(x, layers.generate(h)), rtol=0.1, atol=0.05)
