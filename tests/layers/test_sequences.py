"""Sums over sequences with their backward pass written out, against a loop over positions."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from recbole_msr.layers.manual_backward import plain_operations
from recbole_msr.layers.sequences import Sequences, sequence_sums


def sequences(n_rows, length, dtype=torch.double):
    """Return sequences, one of them empty, and weights that are 0 where there is no position."""
    torch.manual_seed(1)
    there = torch.arange(length) < torch.randint(0, length + 1, (n_rows, 1))
    there &= torch.rand(n_rows, length) < 0.9
    there[0] = False
    vectors = torch.randn(5, 3, dtype=dtype, requires_grad=True)
    found = Sequences(vectors, torch.randint(0, 5, (n_rows, length)), there)
    return found, torch.randn(n_rows, length, dtype=dtype) * there


@pytest.mark.parametrize(("n_rows", "length"), [(6, 4), (1, 1), (150, 40), (3, 0)])
def test_sums_and_gradients_are_those_of_a_loop(n_rows, length):
    (vectors, places, there), weights = sequences(n_rows, length)
    upstream, d_vectors = torch.randn(n_rows, 3, dtype=torch.double), torch.zeros(5, 3, dtype=torch.double)
    expected = torch.zeros(n_rows, 3, dtype=torch.double)
    for row, position in there.nonzero().tolist():
        place, weight = places[row, position], weights[row, position]
        expected[row] += weight * vectors.detach()[place]
        d_vectors[place] += weight * upstream[row]
    found = sequence_sums(Sequences(vectors, places, there), weights)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, vectors, upstream)[0], d_vectors)


def test_gradients_and_their_gradients_are_those_of_finite_differences():
    (vectors, places, there), weights = sequences(5, 3)

    def function(vectors):
        return sequence_sums(Sequences(vectors, places, there), weights)

    assert gradcheck(function, (vectors,))
    assert gradgradcheck(function, (vectors,))


def test_plain_operations_and_autocast_give_the_same_sums():
    found, weights = sequences(9, 6, torch.float)
    expected = sequence_sums(found, weights)
    with plain_operations():
        torch.testing.assert_close(sequence_sums(found, weights), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sequence_sums(found, weights), expected)
