import torch

from recbole_msr.layers.star import PartitionedNorm, StarLinear


def test_a_groups_layer_is_the_shared_one_times_its_own():
    layer, x = StarLinear(3, 5, 4), torch.randn(6, 5)
    torch.nn.init.normal_(layer.own_weight)
    torch.nn.init.normal_(layer.own_bias)
    for p in range(3):
        weight, bias = layer.weight * layer.own_weight[p], layer.bias + layer.own_bias[p]
        torch.testing.assert_close(layer(x, p), x @ weight.t() + bias)


def test_every_group_begins_as_the_shared_layer():
    layer, x = StarLinear(2, 5, 4), torch.randn(6, 5)
    torch.testing.assert_close(layer(x, 0), torch.nn.functional.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(layer(x, 1), layer(x, 0))


def test_without_a_centre_each_group_has_a_batch_norm_of_its_own():
    norm, x = PartitionedNorm(2, 5, centred=False), torch.randn(60, 5)
    usual = torch.nn.BatchNorm1d(5)
    torch.testing.assert_close(norm(x, 1), usual(x))
    norm.eval(), usual.eval()
    torch.testing.assert_close(norm(x, 1), usual(x))
    assert sum(p.numel() for p in norm.parameters()) == 2 * sum(p.numel() for p in usual.parameters())


def test_one_row_is_normalised_by_the_averages_and_leaves_them():
    norm = PartitionedNorm(2, 5)
    norm(torch.randn(60, 5) + 3, 0)
    mean = norm.mean.clone()
    one = torch.randn(1, 5)
    torch.testing.assert_close(norm(one, 0), (one - mean[0]) / (norm.variance[0] + 1e-5).sqrt())
    assert torch.equal(norm.mean, mean)
    assert norm(torch.zeros(0, 5), 0).shape == (0, 5)
