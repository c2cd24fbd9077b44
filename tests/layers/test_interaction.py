"""Interactions of the input's parts against sums over all pairs and loops over all numbers, row by row."""

from itertools import combinations

import pytest
import torch

from recbole_msr.layers.embedding import embedding_widths
from recbole_msr.layers.interaction import BiInteraction, CrossNetwork, Part


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


@pytest.mark.parametrize("widths", [[4, 4, 4], [4, 2, 1, 4, 7], [3, 5]])
def test_the_second_order_term_is_the_sum_over_all_pairs(widths):
    parts = [Part(f"f{n}", width, is_number=width == 1) for n, width in enumerate(widths)]
    layer, x = BiInteraction(parts, 4, 0.01), torch.randn(6, sum(widths), requires_grad=True)
    for row, y in zip(x, layer(x), strict=True):
        vectors = []
        for n, part in enumerate(row.split(widths)):
            own = layer.projections[str(n)].weight if widths[n] != 4 else torch.eye(4)
            vectors.append([sum(own[k, j] * part[j] for j in range(widths[n])) for k in range(4)])
        slow = [sum(v[k] * w[k] for v, w in combinations(vectors, 2)) for k in range(4)]
        torch.testing.assert_close(y, torch.stack(slow))
    layer(x).square().sum().backward()
    assert all(parameter.grad.any() for parameter in (x, *layer.parameters()))
    assert len(list(layer.parameters())) == sum(width != 4 for width in widths)


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_layers_multiply_number_by_number(rank):
    layer, x = CrossNetwork(5, 3, rank), torch.randn(4, 5)
    for start, y in zip(x, layer(x), strict=True):
        crossed = list(start)
        for depth in range(3):
            weight = layer.layers[depth].weight
            weight = weight if rank is None else weight @ layer.reduced[depth].weight
            bias = layer.layers[depth].bias
            crossed = [
                start[i] * (sum(weight[i, j] * crossed[j] for j in range(5)) + bias[i]) + crossed[i] for i in range(5)
            ]
        torch.testing.assert_close(y, torch.stack(crossed))
    layer(x).square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_cross_layers_begin_as_good_as_nothing_on_small_embeddings():
    x = torch.randn(50, 32) * 0.01
    assert (CrossNetwork(32, 2)(x) - x).norm() < 0.1 * x.norm()


def test_widths_follow_the_number_of_values():
    values = {"item": 4096, "user": 256, "gender": 4, "price": 1}
    assert embedding_widths(values, 16, 0.0) == dict.fromkeys(values, 16)
    assert embedding_widths(values, 16, 0.25) == {"item": 16, "user": 8, "gender": 3, "price": 16}
    assert embedding_widths(values, 16, -0.25) == {"item": 3, "user": 6, "gender": 16, "price": 16}
    assert embedding_widths(values, 2, 1.0) == {"item": 2, "user": 1, "gender": 1, "price": 2}
