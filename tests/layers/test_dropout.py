import pytest
import torch

from recbole_msr.layers.dropout import Dropout, draw_mask


@pytest.mark.parametrize("p", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_drops_the_share_p_and_scales_the_rest(p):
    torch.manual_seed(0)
    y = Dropout(p).train()(torch.full((1000, 1000), 3.0))
    kept = y != 0
    assert kept.double().mean().item() == pytest.approx(1 - p, abs=4 * (p * (1 - p) / 1e6) ** 0.5 + 1e-12)
    assert torch.allclose(y[kept], torch.tensor(3.0 / (1 - p)))


def test_neighbours_that_share_a_draw_are_independent():
    torch.manual_seed(0)
    for p in (0.3, 0.5):
        kept = (Dropout(p)(torch.ones(100_000, 8)) != 0).double()
        correlation = torch.corrcoef(kept.T)
        assert (correlation - torch.eye(8)).abs().max() < 0.02


def test_numbers_of_ones_vary_from_draw_to_draw_as_those_of_independent_elements():
    torch.manual_seed(0)
    p, size = 0.2, 1000
    counts = torch.stack([draw_mask(torch.empty(size), p).sum() for _ in range(4000)]).double()
    assert counts.mean().item() == pytest.approx(size * (1 - p), abs=4 * (size * p * (1 - p) / 4000) ** 0.5)
    assert counts.var().item() == pytest.approx(size * p * (1 - p), rel=4 * (2 / 4000) ** 0.5)


def test_sizes_that_are_no_multiple_of_eight_and_other_dtypes():
    for shape in ((1,), (3,), (5, 7), (0, 4)):
        assert Dropout(0.5)(torch.ones(shape)).shape == shape
    assert Dropout(0.5)(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_evaluation_is_the_identity_and_gradients_are_those_of_the_mask():
    x = torch.randn(50, 8, requires_grad=True)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    torch.manual_seed(1)
    y = Dropout(0.5)(x)
    y.sum().backward()
    expected = torch.where(y != 0, (y / x).detach(), torch.zeros(()))
    assert torch.allclose(x.grad, expected)


def test_the_same_seed_gives_the_same_mask():
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(Dropout(0.3)(torch.ones(101)))
    assert torch.equal(*results)
