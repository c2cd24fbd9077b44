"""The backward passes written out by hand, against loops and against autograd."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call, jvp, stack_module_state, vmap
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from recbole_msr.layers import manual_backward as written
from recbole_msr.layers.cgc import CGC
from recbole_msr.layers.dropout import Dropout, draw_mask
from recbole_msr.layers.experts import ScenarioExtraction
from recbole_msr.layers.gates import mix
from recbole_msr.layers.mlp import ACTIVATIONS, MLP, MLPBank

SIZES = [([7, 4], 2), ([6, 3], None), ([5], None), ([], 3), ([6, 5, 4], 1)]


def networks(hidden, output, n=3, width=5, dtype=torch.double):
    sizes = [width, *hidden, *([] if output is None else [output])]
    weights = [torch.randn(n, h, d, dtype=dtype, requires_grad=True) for d, h in pairwise(sizes)]
    biases = [torch.randn(n, h, dtype=dtype, requires_grad=True) for h in sizes[1:]]
    return weights, biases


def loop(x, reads, weights, biases, n_hidden, dropout=0.0):
    """The equations, network by network and row by row of layers; masks are drawn in the same order."""
    outputs = []
    for e, read in enumerate(reads):
        h = x[read]
        for level, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = torch.einsum("bd,hd->bh", h, weight[e]) + bias[e]
            if level < n_hidden:
                h = torch.where(h > 0, h, 0.0)
                if dropout:
                    h = h * draw_mask(h, dropout) / (1 - dropout)
        outputs.append(h)
    return torch.stack(outputs)


def gradients(output, inputs):
    torch.manual_seed(3)
    return torch.autograd.grad(output, inputs, torch.randn(output.shape, dtype=torch.double).to(output.dtype))


@pytest.mark.parametrize(("hidden", "output"), SIZES)
@pytest.mark.parametrize("reads", [(0, 0, 0), (0, 1, 2), (1, 0, 1)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rows", [0, 1, 6])
def test_values_and_gradients_are_those_of_the_equations(hidden, output, reads, dropout, rows):
    weights, biases = networks(hidden, output)
    x = torch.randn(max(reads) + 1, rows, 5, dtype=torch.double, requires_grad=True)
    results = []
    for way in (written.relu_networks, loop):
        torch.manual_seed(1)
        results.append(way(x, reads, weights, biases, len(hidden), dropout))
    torch.testing.assert_close(*results)
    found, expected = (gradients(result, [x, *weights, *biases]) for result in results)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("hidden", "output"), SIZES)
def test_gradients_are_the_slopes_of_the_values_with_dropout(hidden, output):
    weights, biases = networks(hidden, output, n=2)
    x = torch.randn(1, 4, 5, dtype=torch.double, requires_grad=True)

    def run(x, *layers):
        torch.manual_seed(2)  # the same masks at every call
        return written.relu_networks(
            x, (0, 0), layers[: len(weights)], layers[len(weights) :], len(hidden), dropout=0.4
        )

    assert gradcheck(run, (x, *weights, *biases))


def test_rows_and_gradients_that_do_not_lie_one_after_the_other():
    weights, biases = networks([4], None)
    x = torch.randn(5, 12, 1, dtype=torch.double)[:, ::2].permute(2, 1, 0)
    assert x.shape == (1, 6, 5)
    assert x.stride() == (1, 2, 12)
    results = []
    for way in (written.relu_networks, loop):
        out = way(x, (0, 0, 0), weights, biases, 1)
        results.append(torch.autograd.grad(out.mT.sum(), weights))  # the gradient that arrives is one number, expanded
    torch.testing.assert_close(*results)


def test_an_input_that_is_no_result_of_a_parameter_gets_no_gradient():
    weights, biases = networks([4], 1)
    x = torch.randn(1, 6, 5, dtype=torch.double)
    written.relu_networks(x, (0, 0, 0), weights, biases, 1).sum().backward()
    assert x.grad is None
    assert weights[0].grad.shape == (3, 4, 5)


def test_the_same_graph_gives_the_same_gradient_twice():
    """Weightings that read every task's gradient go back through one forward pass several times."""
    weights, biases = networks([7, 4], 2)
    x = torch.randn(1, 6, 5, dtype=torch.double, requires_grad=True)
    out = written.relu_networks(x, (0, 0, 0), weights, biases, 2, 0.3).square().sum()
    first = torch.autograd.grad(out, [x, *weights, *biases], retain_graph=True)
    second = torch.autograd.grad(out, [x, *weights, *biases])
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_without_gradients_no_hidden_layer_is_kept():
    bank = MLPBank(8, 4, [100, 3]).eval()
    x = torch.randn(1000, 4)
    with torch.no_grad():
        result = bank(x)
    assert result.grad_fn is None
    torch.testing.assert_close(result, bank(x))


@pytest.mark.parametrize("members", [[[0, 1], [2, 3]], [[0, 1, 2, 3]] * 3, [[0, 3], [1, 3]], [[2]]])
def test_sums_over_experts_and_their_gradients(members):
    weights = torch.randn(len(members), len(members[0]), 6, dtype=torch.double, requires_grad=True)
    values = torch.randn(4, 6, 5, dtype=torch.double, requires_grad=True)
    found = written.weighted_sums(weights, values, members)
    for p, experts in enumerate(members):
        for row in range(6):
            expected = sum(weights[p, k, row] * values[e, row] for k, e in enumerate(experts))
            torch.testing.assert_close(found[p, row], expected)
    assert gradcheck(lambda w, v: written.weighted_sums(w, v, members), (weights, values))


def test_sums_in_bfloat16_are_about_as_near_as_its_numbers_can_be():
    torch.manual_seed(0)
    values, scores = torch.randn(6, 200, 64).bfloat16(), torch.randn(2, 3, 200, requires_grad=True)
    members, back = [[0, 1, 2], [3, 4, 5]], torch.randn(2, 200, 64).bfloat16()
    found = []
    for v in (values.requires_grad_(), values.detach().double().requires_grad_()):
        z = written.weighted_sums(scores.softmax(dim=1), v, members)
        assert z.dtype == v.dtype
        found.append([z, *torch.autograd.grad(z, [v, scores], back.to(v.dtype))])
    assert found[0][2].dtype == torch.float32
    for one, exact in zip(*found, strict=True):
        assert (one - exact).norm() < 3e-3 * exact.norm()


def test_weights_that_are_constants_get_no_gradient():
    values = torch.randn(2, 3, 4, requires_grad=True)
    weights = torch.rand(1, 2, 3)
    written.weighted_sums(weights, values, [[0, 1]]).sum().backward()
    torch.testing.assert_close(values.grad, weights[0].unsqueeze(-1).expand(2, 3, 4).contiguous())


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("own_input", [False, True])
def test_a_bank_of_any_activation_has_the_gradients_of_autograd(activation, own_input):
    bank = MLPBank(3, 5, [8, 4], activation, output_size=2).double()
    x = (torch.randn(3, 7, 5) if own_input else torch.randn(7, 5)).double().requires_grad_()
    results = []
    for way in (bank, bank._batched):
        out = way(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *bank.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_bank_reads_the_inputs_it_is_told_to():
    bank, x = MLPBank(4, 5, [8, 4]), torch.randn(3, 7, 5)
    reads = [2, 0, 0, 1]
    for way in (bank, lambda x, reads: bank._batched(x[reads])):
        torch.testing.assert_close(way(x, reads), torch.stack([bank(x[read])[e] for e, read in enumerate(reads)]))


def test_bfloat16_is_as_near_to_double_precision_as_autograd_comes_in_it(monkeypatch):
    torch.manual_seed(0)
    bank, x = MLPBank(5, 40, [64, 32], dropout=0.2), torch.randn(500, 40, requires_grad=True)

    def run(by_hand, half):
        monkeypatch.setattr(written, "supports", lambda x: by_hand)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = bank(x)
        assert out.dtype == (torch.bfloat16 if half else torch.float32)
        return [out.float(), *gradients(out.float(), [x, *bank.parameters()])]

    for exact, found, expected in zip(run(False, False), run(True, True), run(False, True), strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 1.1 * (expected - exact).norm()


def test_double_precision_stays_double_under_autocast():
    bank, x = MLPBank(2, 5, [4]).double(), torch.randn(3, 5, dtype=torch.double)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(bank(x), bank._batched(x), rtol=1e-12, atol=0)


def test_stacked_models_under_vmap_are_that_many_models():
    banks = [MLPBank(3, 5, [8, 4], output_size=1) for _ in range(4)]
    x = torch.randn(7, 5)
    stacked, _ = stack_module_state(banks)
    skeleton = copy.deepcopy(banks[0])
    together = vmap(lambda parameters: functional_call(skeleton, parameters, (x,)))(stacked)
    torch.testing.assert_close(together, torch.stack([bank(x) for bank in banks]))


@pytest.mark.parametrize("build", [lambda: CGC(2, 5, 2, 1, [8, 4], passes_shared=True), lambda: extraction()])
def test_layers_give_directional_derivatives(build):
    layer, x, direction = build().double(), torch.randn(6, 5).double(), torch.randn(6, 5).double()
    value, slope = jvp(layer, (x,), (direction,))
    torch.testing.assert_close(value, layer(x))
    step = 1e-6
    expected = (layer(x + step * direction) - layer(x - step * direction)) / (2 * step)
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)


class extraction(torch.nn.Module):
    """A scenario extraction layer of three scenarios, as a function of x."""

    def __init__(self):
        super().__init__()
        self.layer = ScenarioExtraction(3, 5, 2, [8, 4], scenario_embedding_size=3)
        self.e = torch.nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return self.layer(x, torch.arange(len(x)) % 3, self.e)


def with_gradients(output, inputs):
    return [output, *gradients(output, inputs)]


def assert_same_either_way(find, monkeypatch):
    """What is found by the backward passes of this package is what is found by autograd's."""
    found = []
    for by_hand in (True, False):
        monkeypatch.setattr(written, "supports", lambda x, by_hand=by_hand: by_hand)
        found.append(find())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("build", [lambda: CGC(2, 5, 2, 1, [8, 4], passes_shared=True), lambda: extraction()])
def test_layers_have_the_gradients_that_autograd_finds_by_itself(build, monkeypatch):
    layer, x = build().double(), torch.randn(6, 5, dtype=torch.double, requires_grad=True)
    assert_same_either_way(lambda: with_gradients(layer(x), [x, *layer.parameters()]), monkeypatch)


def test_a_mix_is_the_same_by_hand_and_by_autograd(monkeypatch):
    weights, experts = torch.rand(2, 7, 3, requires_grad=True), torch.randn(3, 7, 4, requires_grad=True)
    assert_same_either_way(lambda: with_gradients(mix(weights, experts), [weights, experts]), monkeypatch)


def slopes_of_slopes(output, inputs):
    """The gradient of a penalty on the gradient, of a sum (whose own gradient is a constant) and of squares."""
    found = []
    for value in (output.sum(), output.square().sum()):
        slopes = torch.autograd.grad(value, inputs, create_graph=True)
        assert all(slope.requires_grad for slope in slopes[:1])
        penalty = sum(slope.square().sum() for slope in slopes)
        found += torch.autograd.grad(penalty, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


@pytest.mark.parametrize(("hidden", "output"), SIZES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_gradient_can_be_differentiated(hidden, output, dropout):
    weights, biases = networks(hidden, output)
    x = torch.randn(2, 6, 5, dtype=torch.double, requires_grad=True)
    found = []
    for way in (written.relu_networks, loop):
        torch.manual_seed(1)
        result = way(x, (1, 0, 1), weights, biases, len(hidden), dropout)
        found.append(slopes_of_slopes(result, [x, *weights, *biases]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("build", [lambda: CGC(2, 5, 2, 1, [8, 4], passes_shared=True), lambda: extraction()])
def test_gradients_of_layers_can_be_differentiated(build, monkeypatch):
    layer, x = build().double(), torch.randn(6, 5, dtype=torch.double, requires_grad=True)
    assert_same_either_way(lambda: slopes_of_slopes(layer(x), [x, *layer.parameters()]), monkeypatch)


def test_gradients_of_several_outputs_can_be_asked_for_at_once():
    layer, x = CGC(2, 5, 2, 1, [8, 4]).double(), torch.randn(3, 5, dtype=torch.double)
    one_by_one, at_once = (
        torch.autograd.functional.jacobian(lambda x: layer(x).sum(dim=1), x, vectorize=vectorize)
        for vectorize in (False, True)
    )
    torch.testing.assert_close(at_once, one_by_one)


def test_a_compiled_bank_is_traced_through_plain_operations():
    bank, x = MLPBank(2, 5, [4]), torch.randn(6, 5)
    compiled = torch.compile(bank, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), bank(x))


def test_what_is_not_a_number_stays_so():
    weights, biases = networks([4], 1)
    x = torch.full((1, 2, 5), torch.nan, dtype=torch.double)
    assert written.relu_networks(x, (0, 0, 0), weights, biases, 1).isnan().all()


STACKS = [
    [Dropout(0.3), nn.Linear(5, 7), nn.ReLU(), Dropout(0.3), nn.Linear(7, 6), nn.ReLU()],
    [nn.Linear(5, 6), nn.ReLU(), Dropout(0.2), nn.Linear(6, 4), nn.ReLU(), Dropout(0.5), nn.Linear(4, 1)],
    [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), Dropout(0.4), nn.Linear(6, 3), nn.Tanh(), Dropout(0.4)],
    [nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 2), nn.Linear(2, 2), Dropout(0.1)],
    [nn.ReLU(), nn.ReLU()],
    [],
]


@pytest.mark.parametrize("layers", STACKS)
@pytest.mark.parametrize("training", [True, False])
def test_layers_one_after_the_other_are_what_nn_sequential_makes_of_them(layers, training):
    stack = nn.Sequential(*copy.deepcopy(layers)).double().train(training)
    x = torch.randn(8, 5, dtype=torch.double, requires_grad=True)
    inputs = [x, *stack.parameters()]
    results = []
    for way in (stack, lambda x: written.run_layers(stack, x)):
        torch.manual_seed(1)
        results.append(way(x))
    torch.testing.assert_close(*results)
    found = [gradients(result, inputs) for result in results] if layers else []
    for one, other in zip(*found, strict=True) if found else ():
        torch.testing.assert_close(one, other)


def hooked(kind, layer, calls):
    return getattr(layer, f"register_{kind}")(lambda *_: calls.append(kind))


KINDS = ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_on_the_layers_of_an_mlp_are_called(kind):
    mlp, calls = MLP(5, [8, 4], dropout=0.2, output_size=1), []
    for layer in mlp:
        hooked(kind, layer, calls)
    mlp(torch.randn(3, 5, requires_grad=True)).sum().backward()
    assert len(calls) == len(mlp) == 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["activation", "dropout"])
def test_hooks_on_the_layers_of_a_bank_are_called(kind, layer):
    bank, calls = MLPBank(3, 5, [8, 4], dropout=0.2), []
    hooked(kind, getattr(bank, layer), calls)
    bank(torch.randn(3, 5, requires_grad=True)).sum().backward()
    assert calls


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("reparametrise", [weight_norm, parametrizations.weight_norm, spectral_norm])
def test_weights_of_an_mlp_may_be_made_of_others(reparametrise):
    mlp, x = MLP(5, [8, 4], output_size=1), torch.randn(3, 5)
    for layer in list(mlp)[::2]:
        reparametrise(layer)
    before = mlp(x)
    torch.testing.assert_close(mlp.eval()(x), nn.Sequential(*mlp)(x))
    mlp.train()
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        mlp(x).sum().backward()
        optimizer.step()
    assert not torch.equal(mlp(x), before)


def test_dropout_alone_may_be_in_training():
    """As for Monte-Carlo dropout."""
    bank = MLPBank(2, 5, [50], dropout=0.5).eval()
    bank.dropout.train()
    assert not torch.equal(bank(torch.ones(3, 5)), bank(torch.ones(3, 5)))


def test_plain_operations_give_the_same():
    layer, x = CGC(2, 5, 2, 1, [8, 4]), torch.randn(3, 5)
    assert written.supports(x)
    with written.plain_operations():
        assert not written.supports(x)
        plain = layer(x)
    torch.testing.assert_close(plain, layer(x))
