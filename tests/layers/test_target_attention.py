"""Target attention with its backward pass written out, against a loop over positions and against autograd."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, stack_module_state, vmap

from recbole_msr.layers.history import TargetAttention
from recbole_msr.layers.manual_backward import plain_operations
from recbole_msr.layers.sequences import Sequences


def histories(n_rows, length, n_vectors=7, size=3, dtype=torch.double):
    """Return vectors, places, which there are (some rows without any, some with holes), and targets."""
    torch.manual_seed(2)
    there = torch.arange(length) < torch.randint(0, length + 1, (n_rows, 1))
    there &= torch.rand(n_rows, length) < 0.9
    there[0] = False
    places = torch.randint(0, n_vectors, (n_rows, length))
    vectors = torch.randn(n_vectors, size, dtype=dtype, requires_grad=True)
    return vectors, places, there, torch.randn(n_rows, size, dtype=dtype, requires_grad=True)


def unit_of(hidden_sizes, size=3, dtype=torch.double):
    torch.manual_seed(1)
    unit = TargetAttention(size, hidden_sizes).to(dtype)
    for slope in (p for name, p in unit.named_parameters() if name.endswith("slope")):
        slope.data.fill_(-0.4)  # not between 0 and 1, where PReLU is a maximum
    return unit


def loop(unit, vectors, places, there, target):
    """The equation of DIN, position by position."""
    rows = []
    for row, t in enumerate(target):
        total = torch.zeros_like(t)
        for position in there[row].nonzero().flatten().tolist():
            e = vectors[places[row, position]]
            first = torch.cat([unit.of_history.weight, unit.of_target.weight, unit.of_product.weight], dim=1)
            hidden = first @ torch.cat([e, t, e * t]) + unit.of_history.bias
            for prelu, linear in zip(unit.rest[::2], unit.rest[1::2], strict=True):
                hidden = linear(torch.where(hidden > 0, hidden, prelu.slope * hidden))
            total = total + hidden * e
        rows.append(total)
    return torch.stack(rows)


def gradients(output, inputs):
    torch.manual_seed(3)
    return torch.autograd.grad(output, inputs, torch.randn(output.shape, dtype=torch.double).to(output.dtype))


@pytest.mark.parametrize("hidden_sizes", [[5], [6, 4], [1, 2, 3]])
@pytest.mark.parametrize(("n_rows", "length"), [(6, 4), (1, 1), (200, 40), (3, 0)])
def test_values_and_gradients_are_those_of_the_equation(hidden_sizes, n_rows, length):
    vectors, places, there, target = histories(n_rows, length)
    unit = unit_of(hidden_sizes)
    some = torch.arange(n_rows) % 9 == 0 if n_rows > 9 else torch.ones(n_rows, dtype=torch.bool)
    found = unit(Sequences(vectors, places, there), target)
    expected = loop(unit, vectors, places[some], there[some], target[some])
    torch.testing.assert_close(found[some], expected)
    if expected.requires_grad:
        inputs = [vectors, target, *unit.parameters()]
        for of_found, of_expected in zip(gradients(found[some], inputs), gradients(expected, inputs), strict=True):
            torch.testing.assert_close(of_found, of_expected)


@pytest.mark.parametrize("hidden_sizes", [[5], [4, 3]])
def test_gradients_and_their_gradients_are_those_of_finite_differences(hidden_sizes):
    vectors, places, there, target = histories(5, 3)
    unit = unit_of(hidden_sizes)
    names, weights = zip(*unit.named_parameters(), strict=True)

    def function(vectors, target, *weights):
        history = Sequences(vectors, places, there)
        return functional_call(unit, dict(zip(names, weights, strict=True)), (history, target))

    assert gradcheck(function, (vectors, target, *weights))
    assert gradgradcheck(function, (vectors, target, *weights))


def test_single_precision_agrees_with_autograd():
    vectors, places, there, target = histories(300, 50, n_vectors=90, size=16, dtype=torch.float)
    unit = unit_of([12], 16, torch.float)
    inputs, results = [vectors, target, *unit.parameters()], []
    for context in (torch.enable_grad, plain_operations):
        with context():
            value = unit(Sequences(vectors, places, there), target)
            results.append([value, *gradients(value, inputs)])
    for by_hand, by_autograd in zip(*results, strict=True):
        torch.testing.assert_close(by_hand, by_autograd, rtol=1e-4, atol=1e-4 * by_autograd.abs().max().item())


def test_a_row_does_not_depend_on_the_batch_and_padding_is_not_read():
    vectors, places, there, target = histories(40, 6)
    unit, some = unit_of([5]), torch.tensor([31, 2, 17])
    whole = unit(Sequences(vectors, places.masked_fill(~there, 3), there), target)
    torch.testing.assert_close(unit(Sequences(vectors, places[some], there[some]), target[some]), whole[some])


def test_units_stacked_by_vmap_give_what_each_gives():
    vectors, places, there, target = histories(6, 4)
    units = [TargetAttention(3, [5]).double() for _ in range(3)]
    parameters, buffers = stack_module_state(units)

    def function(parameters, buffers):
        return functional_call(units[0], (parameters, buffers), (Sequences(vectors, places, there), target))

    expected = torch.stack([unit(Sequences(vectors, places, there), target) for unit in units])
    torch.testing.assert_close(vmap(function)(parameters, buffers), expected)


def test_autocast_leaves_the_sums_in_single_precision():
    vectors, places, there, target = histories(6, 4, dtype=torch.float)
    unit = unit_of([5], dtype=torch.float)
    expected = unit(Sequences(vectors, places, there), target)
    with torch.autocast("cpu", torch.bfloat16):
        found = unit(Sequences(vectors, places, there), target)
    assert found.dtype == torch.float
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert all(gradient.dtype == torch.float for gradient in gradients(found, [vectors, *unit.parameters()]))
